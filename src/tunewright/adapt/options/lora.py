"""Settings of the methods that PEFT owns; whatever else PEFT's own config knows may stand beside them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tunewright.core.settings import Settings, Share

STILL = ("default", "gaussian", "orthogonal")  # starts that leave the base as it is and need no data
TARGETS = "Which linear layers: all-linear, attention, mlp, or a list of names."


class PeftOptions(Settings):
    """Any method of PEFT."""

    model_config = ConfigDict(extra="allow")

    targets: list[str] | str = Field("all-linear", description=TARGETS)


class LayerOptions(Settings):
    """What is different for some layers."""

    rank: int | None = Field(None, ge=1, description="Rank of the update there.")
    alpha: float | None = Field(None, gt=0, description="Its alpha there; default as for all layers.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rank is None and self.alpha is None:
            raise ValueError("a pattern needs a rank or an alpha")
        return self


class LoraOptions(PeftOptions):
    """Low-rank updates of linear layers."""

    rank: int = Field(16, ge=1, description="Rank of the update.")
    alpha: float | None = Field(
        None,
        gt=0,
        description="The update is scaled by alpha / rank (rslora: by alpha / sqrt(rank)); default twice the"
        " rank (rslora: 8, which is the same at rank 16).",
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    init: str = Field(
        "default",
        description="Start of the update: default, gaussian, orthogonal, pissa, pissa_niter_N (faster, N is"
        " usually 16), olora or mica.",
    )
    b_rate: float = Field(
        1.0, gt=0.0, description="Learning rate of B as a multiple of that of A (LoRA+); 16 is usual there."
    )
    patterns: dict[str, LayerOptions] = Field(
        {},
        description="Other ranks or alphas for layers by the end of their name, which may be a regular"
        " expression, e.g. {q_proj: {rank: 32, alpha: 64}}.",
    )
    new_tokens: list[str] = Field(
        [],
        description="Tokens to add to the vocabulary; of the embedding and the output layer only their rows"
        " train.",
    )

    @field_validator("new_tokens")
    @classmethod
    def _are_tokens(cls, value: list[str]) -> list[str]:
        for token in value:
            if not token.strip() or value.count(token) > 1:
                raise ValueError(f"{token!r} is blank or stands there twice")
        return value


class QloraOptions(LoraOptions):
    """LoRA over a base in few bits."""

    bits: Literal[4, 8] = Field(4, description="Bits of each weight of the base.")
    format: Literal["nf4", "fp4"] = Field("nf4", description="4 bits: NormalFloat or floating point.")
    constants: Literal["double", "single"] = Field(
        "double", description="4 bits: whether the scales of the blocks are quantised as well."
    )

    @model_validator(mode="after")
    def _of_these_bits(self) -> Self:
        for name in ("format", "constants") if self.bits == 8 else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is read with bits=4 only; remove it")
        return self

    @field_validator("init")
    @classmethod
    def _leaves_the_base(cls, value: str) -> str:
        if value not in STILL:
            raise ValueError(f"a quantised base cannot be changed, so it starts with {', '.join(STILL)}")
        return value


class LongLoraOptions(LoraOptions):
    """LoRA for longer texts than the model was made for."""

    factor: float = Field(
        4.0,
        ge=1.0,
        description="How many times the model's context is stretched; set data.max_length to the new length.",
    )
    rope: Literal["linear", "dynamic", "yarn", "none"] = Field(
        "yarn",
        description="How positions are stretched; none leaves them as they are. dynamic depends on the length"
        " of the text, so the result reads long texts but writes none beyond the old context.",
    )
    group: Share = Field(
        0.25,
        description="Share of each text within which attention stays while training, of 64 tokens at least;"
        " half of the heads are shifted by half a group. 0 is dense attention.",
    )
    also_train: Literal["norms_and_embeddings", "nothing"] = Field(
        "norms_and_embeddings",
        description="What trains beside the low-rank updates, at the rate of full training. Whole copies are"
        " saved.",
    )


class AdaLoraOptions(PeftOptions):
    """LoRA whose ranks move to where they help most."""

    rank: int = Field(8, ge=1, description="Mean rank in the end.")
    start_rank: int = Field(12, ge=2, description="Rank of every layer at the start.")
    alpha: float | None = Field(
        None, gt=0, description="The update is scaled by alpha / start_rank; default twice start_rank."
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    warm: Share = Field(0.1, description="Share of the steps before ranks are taken away.")
    settle: Share = Field(0.3, description="Share of the steps, at the end, in which ranks stay.")
    every: int = Field(1, ge=1, description="Steps between two budgets.")
    orthogonality: float = Field(
        0.5, ge=0.0, description="Weight of the term that keeps the factors orthogonal."
    )

    @model_validator(mode="after")
    def _ranks_fall(self) -> Self:
        if self.start_rank <= self.rank:
            raise ValueError(
                f"start_rank {self.start_rank} must be above rank {self.rank}, or there is nothing to take"
                " away; raise it, or use lora"
            )
        if self.warm + self.settle >= 1:
            raise ValueError("warm and settle leave no steps in which ranks could fall; lower one of them")
        return self
