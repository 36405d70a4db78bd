"""The settings of every objective by name. Reading them loads no torch, so recipes are checked at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright.core.config import Section, build
from tunewright.core.names import Registry

_HERE = "tunewright.objectives.options"
PAIRWISE = ("dpo", "robust_dpo", "length_dpo", "wpo", "rpo", "apo_zero", "apo_down", "hinge")
GROUPWISE = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "dapo", "gspo", "cispo")

OPTIONS: Registry[type[Section]] = Registry(
    "objective",
    {
        "sft": f"{_HERE}.supervised:SftOptions",
        "text": f"{_HERE}.supervised:TextOptions",
        "classify": f"{_HERE}.supervised:ClassifyOptions",
        "regress": f"{_HERE}.supervised:RegressOptions",
        "reward": f"{_HERE}.supervised:RewardOptions",
        **dict.fromkeys(PAIRWISE, f"{_HERE}.preference:PairwiseOptions"),
        "ipo": f"{_HERE}.preference:IpoOptions",
        "slic": f"{_HERE}.preference:SlicOptions",
        "kto": f"{_HERE}.preference:KtoOptions",
        "orpo": f"{_HERE}.preference:OrpoOptions",
        "simpo": f"{_HERE}.preference:SimpoOptions",
        "cpo": f"{_HERE}.preference:CpoOptions",
        **dict.fromkeys(GROUPWISE, f"{_HERE}.policy:GroupOptions"),
        "ppo": f"{_HERE}.policy:PpoOptions",
        "distill": f"{_HERE}.distill:DistillOptions",
        "multi": f"{_HERE}.multi:MultiOptions",
        "rlhf": f"{_HERE}.phases:RlhfOptions",
    },
    group="tunewright.objective_options",
)


def options_of(name: str, values: dict[str, Any], beside: Sequence[str] = ()) -> Section:
    """The settings of objective ``name`` from plain ``values``; ``beside`` as in ``build``.

    Raises ``ConfigError`` for an unknown objective or setting (with the nearest name) or a bad value.
    """
    return build(OPTIONS[name], values, where=name, beside=beside)
