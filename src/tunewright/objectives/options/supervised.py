"""Settings of the objectives that learn from given answers, labels, numbers or comparisons."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

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
        "none",
        description="Weight of each class in the loss (multi: of its presence); balanced makes rare ones"
        " count as much as frequent ones; a class that a mapping leaves out has 1.",
    )
    label_smoothing: Share = Field(
        0.0, description="Share of probability spread over all classes (multi: over present and absent)."
    )
    threshold: float = Field(
        0.5, gt=0.0, lt=1.0, description="multi: probability from which a class is named."
    )
    head_rate: float = Field(1.0, gt=0.0, description=HEAD_RATE)
    temperature: Literal["fitted", "none"] = Field(
        "fitted", description="fitted: probabilities are made to fit the validation rows after training."
    )

    @field_validator("labels", "class_weights", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        """YAML reads ``[1, 2, 3]`` as numbers; as classes they are names."""
        if isinstance(value, list):
            return [_name(label) for label in value]
        if isinstance(value, dict):
            return {_name(label): weight for label, weight in value.items()}
        return value

    @field_validator("labels")
    @classmethod
    def _at_least_two(cls, labels: list[str] | None) -> list[str] | None:
        if labels is not None and (twice := sorted({x for x in labels if labels.count(x) > 1})):
            raise ValueError(f"{twice[0]!r} stands in the list twice")
        if labels is not None and not labels:
            raise ValueError("the list is empty; leave labels out to take those of the training rows")
        return labels

    @field_validator("class_weights")
    @classmethod
    def _positive(cls, weights: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(weights, dict):
            for label, weight in weights.items():
                if not 0 < weight < math.inf:
                    raise ValueError(f"the weight of {label!r} must be a number above 0")
        return weights

    @model_validator(mode="after")
    def _fit_the_kind(self) -> Self:
        if self.kind == "ordinal" and not self.labels:
            raise ValueError("kind 'ordinal' needs labels: the list of all labels, from lowest to highest")
        if self.kind != "multi" and self.labels is not None and len(self.labels) < 2:
            raise ValueError(f"kind {self.kind!r} needs at least two labels")
        if self.kind != "multi" and self.threshold != type(self).model_fields["threshold"].default:
            raise ValueError(f"threshold is read with kind 'multi' only, not with {self.kind!r}")
        return self


class RegressOptions(Settings):
    """A new head that gives a number."""

    loss: Literal["squared", "absolute", "huber"] = Field(
        "squared", description="How errors are counted; huber is squared up to one standard deviation."
    )
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


def _name(label: Any) -> Any:
    """A whole number as the text that names a class; anything else as it is."""
    return str(label) if type(label) is int else label
