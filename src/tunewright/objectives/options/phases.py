"""Settings of RLHF, which is not one objective but four phases."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunewright.core.settings import Settings


class RlhfOptions(Settings):
    """From a base model: supervised tuning, a reward model from comparisons, policy optimisation."""

    sft: dict[str, Any] = Field(
        {}, description="Settings of the supervised phase that differ, by dotted name: {train.epochs: 2}."
    )
    reward: dict[str, Any] = Field({}, description="Settings of the reward model's phase that differ.")
    policy: dict[str, Any] = Field(
        {},
        description="Settings of the last phase that differ; objective.name may be ppo or one of the"
        " GRPO family.",
    )
