"""Settings of the objectives that learn from given answers, labels, numbers or comparisons."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewright.core.settings import Settings, Share

Pooling = Literal["last", "mean"]
POOLING = "Which hidden state is read: that of the last token, or the mean of all."
HEAD_RATE = "Learning rate of the new head, as a multiple of train.learning_rate."


class SftOptions(Settings):
    """Supervised fine-tuning."""

    neftune: float = Field(
        0.0, ge=0.0, description="Noise on embeddings while training (NEFTune alpha); 0 is off, 5 is usual."
    )


class TextOptions(SftOptions):
    """Continued pre-training."""


class ClassifyOptions(Settings):
    """A new head that names one class, several, or a rank."""

    kind: Literal["single", "multi", "ordinal"] = Field(
        "single", description="One class of several, any number of classes, or classes in a stated order."
    )
    labels: list[str] | None = Field(
        None, description="All labels, for ordinal in their order; default those of the training rows."
    )
    pooling: Pooling = Field("last", description=POOLING)
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="Weight of each class in the loss; balanced divides by its frequency."
    )
    label_smoothing: Share = Field(0.0, description="Share of probability spread over all classes.")
    threshold: float = Field(
        0.5, gt=0.0, lt=1.0, description="multi: probability from which a class is named."
    )
    head_rate: float = Field(1.0, gt=0.0, description=HEAD_RATE)


class RegressOptions(Settings):
    """A new head that gives a number."""

    loss: Literal["squared", "absolute", "huber"] = Field("squared", description="How errors are counted.")
    pooling: Pooling = Field("last", description=POOLING)
    head_rate: float = Field(1.0, gt=0.0, description=HEAD_RATE)


class RewardOptions(Settings):
    """A new head that scores answers, from comparisons."""

    margin: Literal["none", "data"] = Field(
        "none", description="data: the better answer must win by the margin that its row states."
    )
    centre: float = Field(
        0.01, ge=0.0, description="Weight of a term that keeps the mean reward of a comparison at zero."
    )
    head_rate: float = Field(1.0, gt=0.0, description=HEAD_RATE)
