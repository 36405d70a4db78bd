"""Settings of the objectives that learn from preferences, or from answers that were liked or not.

``auto`` stands for the default of the objective's own paper, see ``objectives.preference_losses``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunewright.core.settings import Auto, Rate, Settings

Weight = Annotated[float, Field(ge=0.0)]
Flipped = Annotated[float, Field(ge=0.0, lt=0.5)]

BETA = "How strongly answers are held to the reference; lower lets the model move further from it."
SFT = "Weight of the chosen answer's negative log-likelihood per token, added to the loss."
FLIPPED = "Share of pairs that are thought to be labelled the wrong way round."


class PairwiseOptions(Settings):
    """DPO and its relatives: pairs of answers, measured against a reference."""

    beta: Rate | Auto = Field("auto", description=f"{BETA} auto: 5 for length_dpo, else 0.1.")
    label_smoothing: Flipped | Auto = Field(
        "auto", description=f"{FLIPPED} auto: 0.1 for robust_dpo, else 0. Not for apo_zero, apo_down, hinge."
    )
    sft_weight: Weight | Auto = Field("auto", description=f"{SFT} auto: 1 for rpo, else 0.")
    margin: Literal["none", "data"] = Field(
        "none",
        description="data: the chosen answer must win by the margin that its row states (ODPO)."
        " Not for apo_zero, apo_down, hinge.",
    )


class IpoOptions(Settings):
    """IPO: the log-ratio of a pair is drawn to a fixed distance."""

    beta: Rate = Field(0.1, description="The distance is 1 / (2 beta), in log-probability per token.")
    sft_weight: Weight = Field(0.0, description=SFT)


class SlicOptions(Settings):
    """SLiC-HF: a hinge on log-probabilities, without a reference."""

    delta: Rate = Field(1.0, description="Log-probability by which the chosen answer must win.")
    sft_weight: Weight = Field(1.0, description=SFT)


class SimpoOptions(Settings):
    """SimPO: log-probability per token as the reward, without a reference."""

    beta: Rate = Field(2.0, description="Scale of the reward, which is beta times log p per token.")
    gamma: Weight = Field(1.0, description="Reward by which the chosen answer must win.")
    sft_weight: Weight = Field(0.0, description=SFT)


class CpoOptions(Settings):
    """CPO: DPO as if the reference were uniform, held by a supervised term."""

    beta: Rate = Field(0.1, description="Scale of the difference in log-probability.")
    label_smoothing: Flipped = Field(0.0, description=FLIPPED)
    sft_weight: Weight = Field(1.0, description=SFT)


class OrpoOptions(Settings):
    """ORPO: supervised tuning with a penalty on the odds of the rejected answer, without a reference."""

    beta: Rate = Field(0.1, description="Weight of the odds-ratio term; lambda in the paper.")


class KtoOptions(Settings):
    """KTO: single answers that were liked or not."""

    beta: Rate = Field(0.1, description=BETA)
    desirable_weight: Rate = Field(1.0, description="Weight of the loss of liked answers.")
    undesirable_weight: Rate = Field(1.0, description="Weight of the loss of disliked answers.")
    kl_samples: int = Field(
        1,
        ge=0,
        le=8,
        description="Borrowed answers per row that estimate how far the model has moved; 0 takes it as not at"
        " all (unpaired APO-zero).",
    )
