"""The teacher of a distillation: what it is asked, how it answers, and whose vocabulary it speaks.

A teacher is asked for its distribution at some targets of a batch. ``LiveTeacher`` runs the model;
``teacher_cache.CachedTeacher`` looks up what was computed once before training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tunewright.core.errors import ConfigError
from tunewright.core.hashing import digest
from tunewright.objectives.base import Batch, Forward, Targets
from tunewright.objectives.divergences import TopK, top_k

_EXACT_IDS = 2**24  # integers up to here are exact in float32


class Asked(NamedTuple):
    """What is wanted of a teacher.

    ``temperature`` divides its logits. ``top_k`` of its tokens are named, all where it is 0. ``size`` is the
    number of tokens that both models know: output layers are often padded beyond it, each in its own way;
    ``None`` where the vocabularies differ and only ranks are compared.
    """

    temperature: float
    top_k: int
    size: int | None


class Teacher(Protocol):
    """Anything that can say what it would have written."""

    asked: Asked

    def distribution(self, batch: Batch, rows: Tensor) -> Tensor | TopK:
        """Log-probabilities for the targets ``rows`` (n,) of ``batch``: (n, size), or the likeliest tokens.

        A row of NaN stands where a teacher of another vocabulary has no token to compare with.
        """
        ...


class LiveTeacher:
    """A model asked while the student trains; ``forward`` wraps it in evaluation mode.

    Its hidden states are computed once per batch and kept until the next; its logits only for the targets
    asked for, so memory is bounded by the student's piece.
    """

    def __init__(self, forward: Forward, asked: Asked) -> None:
        self.forward, self.asked = forward, asked
        self._read: tuple[Batch, Tensor] | None = None

    @torch.no_grad()
    def distribution(self, batch: Batch, rows: Tensor) -> Tensor | TopK:
        """See ``Teacher``."""
        targets = Targets(*(values[rows] for values in batch.targets))
        part = replace(batch, targets=targets, tracks={})
        found = self.forward.per_target(part, self._softened, self._hidden(batch))
        if self.asked.top_k == 0:
            return found
        k = found.shape[1] // 2
        return TopK(found[:, :k], found[:, k], found[:, k + 1 :].long())

    def _softened(self, logits: Tensor, rows: Tensor) -> Tensor:
        assert logits.shape[-1] < _EXACT_IDS, "token ids are passed on as float32"
        logprobs = (logits[:, : self.asked.size] / self.asked.temperature).log_softmax(-1)
        if self.asked.top_k == 0:
            return logprobs
        best = top_k(logprobs, self.asked.top_k)
        assert best.ids is not None
        return torch.cat([best.logprobs, best.rest[:, None], best.ids.float()], dim=-1)

    def _hidden(self, batch: Batch) -> Tensor:
        if self._read is None or self._read[0] is not batch:
            self._read = None  # free the old states before the new ones are made
            self._read = (batch, self.forward.hidden(batch))
        return self._read[1]


def vocabulary_of(
    wanted: Literal["auto", "same", "uld", "text"], student: Mapping[str, int], teacher: Mapping[str, int]
) -> Literal["same", "uld", "text"]:
    """How two models with these tokens (token -> id) are compared; ``auto`` is ``same`` or else ``uld``.

    Raises ``ConfigError`` where ``same`` is wanted and one token differs.
    """
    if wanted in ("uld", "text"):
        return wanted
    if student == teacher:
        return "same"
    if wanted == "auto":
        return "uld"
    odd = min((student.items() ^ teacher.items()), key=lambda pair: (pair[1], pair[0]))[0]
    raise ConfigError(
        f"vocabulary=same, but the teacher has {len(teacher)} tokens and the student {len(student)}, and"
        f" token {odd!r} has id {teacher.get(odd)} in the teacher and {student.get(odd)} in the student;"
        " choose a teacher of the same family, or set vocabulary=uld (compare sorted probabilities) or"
        " vocabulary=text (learn from answers that the teacher writes)"
    )


def fingerprint(model: nn.Module, *facts: str) -> str:
    """Hash of all weights and the architecture of ``model``: what it was loaded from does not matter.

    ``facts`` is whatever else decides what it says: its number format, its prompt, the settings of an adapter
    that is not merged.
    """
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest([weights.hexdigest(), _architecture(getattr(model, "config", None)), facts])


def _architecture(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    passing = ("transformers_version", "dtype", "torch_dtype", "use_cache")
    facts: dict[str, Any] = config.to_dict()
    return {k: str(v) for k, v in facts.items() if not k.startswith("_") and k not in passing}
