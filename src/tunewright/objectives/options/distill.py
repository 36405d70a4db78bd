"""Settings of distillation: a student learns what a teacher would have said, token by token."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunewright.core.settings import Auto, Settings, Share

Divergence = Literal["forward", "reverse", "js"]
Vocabulary = Literal["auto", "same", "uld", "text"]
_UNUSED_BY = {
    "uld": ("divergence", "js_weight"),
    "text": ("divergence", "js_weight", "temperature", "sft_weight", "top_k"),
}


class DistillOptions(Settings):
    """Distillation from a larger model."""

    teacher: str = Field(min_length=1, description="The model to learn from: a name or a directory.")
    divergence: Divergence = Field(
        "forward",
        description="How far the student is from the teacher: forward KL covers all that the teacher says,"
        " reverse KL seeks what it says most, js lies between.",
    )
    js_weight: float = Field(
        0.5,
        gt=0.0,
        lt=1.0,
        description="js: weight of the teacher in the mixture (beta of GKD); near 0 it acts like forward,"
        " near 1 like reverse.",
    )
    temperature: float = Field(
        1.0, gt=0.0, description="Above 1 both distributions are flattened, so rare tokens count more."
    )
    sft_weight: Auto | Share = Field(
        "auto",
        description="Share of the ordinary cross-entropy in the loss; auto is 0 with the same vocabulary and"
        " 0.4 with uld, which cannot tell tokens apart by itself.",
    )
    top_k: int = Field(
        64,
        ge=0,
        description="How many of the teacher's likeliest tokens are compared one by one, all others as one;"
        " 0 compares all, and asks the teacher in every step instead of once before training.",
    )
    vocabulary: Vocabulary = Field(
        "auto",
        description="same compares token by token, uld compares sorted probabilities of different"
        " vocabularies, text trains on answers that the teacher writes; auto is same or else uld.",
    )
    on_policy: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of rows whose answer the student writes itself and the teacher marks (GKD).",
    )

    @model_validator(mode="after")
    def _all_used(self) -> Self:
        """No setting may be without effect."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        for name in _UNUSED_BY.get(self.vocabulary, ()):
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"vocabulary={self.vocabulary} does not use {name}; leave {name} out")
        if self.divergence != "js" and self.js_weight != defaults["js_weight"]:
            raise ValueError("js_weight is used by divergence=js only; set that, or leave js_weight out")
        if self.vocabulary in _UNUSED_BY and self.on_policy > 0:
            raise ValueError(
                "on_policy > 0 needs a teacher that can read the student's tokens; set vocabulary=same"
            )
        if self.vocabulary == "uld" and self.sft_weight == 0:
            raise ValueError(
                "vocabulary=uld compares sorted probabilities and cannot tell tokens apart; set sft_weight"
                " above 0"
            )
        if self.vocabulary == "uld" and self.top_k == 0:
            raise ValueError("vocabulary=uld reads the teacher from a cache; set top_k above 0")
        return self
