"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) and its near kin: W x + scale * B A x with W frozen.

PEFT owns the adapter and its file format. Where it is exactly equal the layer's forward is replaced by the
fused one of ``fused.py``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from peft import PeftConfig
from torch import Tensor, nn

from tunewright.adapt.fused import fuse
from tunewright.adapt.fused_dora import measure_magnitudes
from tunewright.adapt.options.lora import LoraOptions
from tunewright.adapt.peft_method import PeftMethod
from tunewright.adapt.start import begin, moves_base, restore_starts, save_plain, starts
from tunewright.adapt.targets import resolved, shape_of
from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.models.causal import causal_lm
from tunewright.models.changes import Changes

LABELS = {"rslora": "rsLoRA", "dora": "DoRA", "qlora": "QLoRA", "longlora": "LongLoRA"}
# An update that starts from the weights has large factors, so the same step moves their product further;
# measured as for ``peft_kinds.RATES``.
START_OVER_FULL = 3.0
RSLORA_ALPHA = 8.0  # with it rsLoRA of rank 16 scales by 2, as LoRA does at every rank
INITS = ("default", "gaussian", "orthogonal", "pissa", "olora", "mica")
NITER = re.compile(r"pissa_niter_\d+")
NEEDS_MORE = {
    "eva": "it needs activations of the training data, which are not there when the adapter is attached",
    "corda": "it needs activations of the training data, which are not there when the adapter is attached",
    "lora_ga": "it needs gradients on the training data, which are not there when the adapter is attached",
    "loftq": "the base would change for good, and the adapter not fit the original; use adapt.method qlora",
}


class Lora(PeftMethod):
    """LoRA; ``rslora`` scales by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732), ``dora`` learns
    magnitude and direction apart (Liu et al. 2024, arXiv 2402.09353)."""

    options: LoraOptions
    stands_for: Mapping[str, str] = {
        "target_modules": "adapt.targets",
        "r": "adapt.rank",
        "lora_alpha": "adapt.alpha",
        "lora_dropout": "adapt.dropout",
        "init_lora_weights": "adapt.init",
        "rank_pattern": "adapt.patterns",
        "alpha_pattern": "adapt.patterns",
        "use_rslora": "adapt.method rslora",
        "use_dora": "adapt.method dora",
        "loftq_config": "adapt.method qlora",
    }

    def __init__(self, method: str, options: LoraOptions) -> None:
        super().__init__(method, options)
        start = "" if options.init == "default" else f" from {options.init}"
        grown = f" and {len(options.new_tokens)} new tokens" if options.new_tokens else ""
        self.label = f"{LABELS.get(method, 'LoRA')} rank {options.rank}{start}{grown}"
        if moves_base(options.init):
            self.rate = START_OVER_FULL
        self.changes = Changes(new_tokens=tuple(options.new_tokens))
        self._new_ids: list[int] = []
        _check_init(method, options)

    def fitted(self, ids_of: Callable[[str], Sequence[int]]) -> Self:
        """Knows the ids of its new tokens. Raises ``ConfigError`` for one that is not a token by itself."""
        other = copy.copy(self)
        other._new_ids = []
        for token in self.options.new_tokens:
            ids = ids_of(token)
            if len(ids) != 1:
                raise ConfigError(
                    f"adapt.new_tokens: {token!r} is read as {len(ids)} tokens; spell it otherwise"
                )
            other._new_ids += ids
        return other

    def attach(self, model: Any) -> nn.Module:
        """Wrap ``model``; raises ``ConfigError`` if a target names no layer or the rank exceeds a layer."""
        wrapped = super().attach(model)
        if moves_base(self.options.init):
            begin(wrapped, self.options.init)
        if self.method == "dora":
            measure_magnitudes(wrapped)
        fuse(wrapped)
        return wrapped

    def config(self, model: Any) -> PeftConfig:
        """PEFT's config for ``model``."""
        options = self.options
        own = options.init == "default" or moves_base(options.init)
        return self._make(
            {
                **self._targets(model),
                "r": options.rank,
                "lora_alpha": self._alpha(options.rank) if options.alpha is None else options.alpha,
                "lora_dropout": options.dropout,
                "init_lora_weights": True if own else options.init,
                "use_rslora": self.method == "rslora",
                "use_dora": self.method == "dora",
                **self._patterns(resolved(model, options.targets)[1]),
                **(options.model_extra or {}),
                "trainable_token_indices": self._token_rows(model),
            }
        )

    def save(self, model: Any, directory: Path) -> None:
        """As PEFT writes it; an update that starts elsewhere than at nothing becomes a plain LoRA."""
        super().save(model, directory)
        if moves_base(self.options.init):
            save_plain(model, directory)

    def rate_of(self, name: str) -> float:
        """LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B learns ``b_rate`` times as fast as A."""
        return self.options.b_rate if ".lora_B." in name else 1.0

    def state(self, model: Any) -> dict[str, Tensor]:
        """Where the update started, if that was not nothing."""
        return starts(model)

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        restore_starts(model, state)

    def _alpha(self, rank: int) -> float:
        """What scales the update by 2; with rslora at rank 16, and at others by what keeps it as stable."""
        return RSLORA_ALPHA if self.method == "rslora" else 2.0 * rank

    def _patterns(self, layers: Mapping[str, nn.Module]) -> dict[str, Any]:
        """PEFT's two mappings; raises ``ConfigError`` for a pattern without a layer and a rank too large."""
        ranks: dict[str, int] = {}
        alphas: dict[str, float] = {}
        for pattern, other in self.options.patterns.items():
            _matching(pattern, layers)
            if other.rank is not None:
                ranks[pattern] = other.rank
            if other.alpha is not None:
                alphas[pattern] = other.alpha
            elif other.rank is not None and self.options.alpha is None:
                alphas[pattern] = self._alpha(other.rank)
        for name, layer in layers.items():
            meant = next((p for p in ranks if _matches(p, name)), None)
            where = "adapt.rank" if meant is None else f"adapt.patterns.{meant}.rank"
            check_rank(where, self.options.rank if meant is None else ranks[meant], name, layer)
        return {"rank_pattern": ranks, "alpha_pattern": alphas}

    def _token_rows(self, model: Any) -> dict[str, list[int]] | None:
        """Which rows of embedding and output layer train, by the name of the layer."""
        given = (self.options.model_extra or {}).get("trainable_token_indices") or []
        if isinstance(given, dict):
            if self.options.new_tokens:
                raise ConfigError("adapt.trainable_token_indices: give a list of ids beside adapt.new_tokens")
            return given
        assert len(self._new_ids) == len(self.options.new_tokens), "new tokens need their ids: see fitted"
        rows = causal_lm(model).get_input_embeddings().num_embeddings
        for token in given if isinstance(given, list) else [str(given)]:
            if not isinstance(token, int) or not 0 <= token < rows:
                raise ConfigError(
                    f"adapt.trainable_token_indices: {token!r} is no token of this model; give a list of ids"
                    f" from 0 to {rows - 1}"
                )
        ids = sorted({*given, *self._new_ids})
        if not ids:
            return None
        lm = causal_lm(model)
        embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise ConfigError(
                "rows of tokens cannot train here: the output layer has a bias, which PEFT would leave out;"
                " use adapt.method full or freeze"
            )
        tied = head.weight is embedding.weight
        layers = [embedding] if tied else [embedding, head]
        return {name: ids for layer in layers for name, m in lm.named_modules() if m is layer}


def check_rank(setting: str, rank: int, name: str, layer: nn.Module) -> None:
    """Raise ``ConfigError`` for a rank that the shape of ``layer`` does not have."""
    if rank > min(shape_of(layer)):
        raise ConfigError(
            f"{setting} {rank} exceeds layer {name} of shape {shape_of(layer)};"
            f" use at most {min(shape_of(layer))}"
        )


def _check_init(method: str, options: LoraOptions) -> None:
    init = options.init
    if init in NEEDS_MORE:
        raise ConfigError(f"adapt.init {init!r} cannot be used: {NEEDS_MORE[init]}")
    if init not in INITS and not NITER.fullmatch(init):
        raise ConfigError(f"unknown adapt.init {init!r}. {nearest(init, {*INITS, 'pissa_niter_16'})}")
    ranks = {options.rank, *(other.rank for other in options.patterns.values() if other.rank)}
    if init == "orthogonal" and any(rank % 2 for rank in ranks):
        raise ConfigError("adapt.init 'orthogonal' needs even ranks")
    if method == "dora" and (moves_base(init) or init == "mica"):
        raise ConfigError(f"adapt.init {init!r} cannot be combined with method dora; use lora or rslora")
    if init == "mica" and options.b_rate != 1:
        raise ConfigError("adapt.b_rate has no effect with adapt.init 'mica', which never moves B; remove it")


def _matching(pattern: str, layers: Mapping[str, nn.Module]) -> None:
    """Raise ``ConfigError`` with the nearest names for a pattern that means none of ``layers``."""
    try:
        found = any(_matches(pattern, name) for name in layers)
    except re.error as error:
        raise ConfigError(f"adapt.patterns: {pattern!r} is no regular expression: {error}") from error
    if not found:
        close = nearest(pattern, {name.rsplit(".", 1)[-1] for name in layers})
        raise ConfigError(f"adapt.patterns: {pattern!r} matches none of the layers that train. {close}")


def _matches(pattern: str, name: str) -> bool:
    """As PEFT compares them: the pattern means the whole name or its end."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None
