"""Log-probabilities of the untouched model: what preference and policy objectives hold on to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.adapt.base import Adapter
from tunewright.core.hashing import digest
from tunewright.core.paths import cache_dir, written_atomically
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.plan import micro_batches
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded
from tunewright.objectives.base import Batch, per_segment


@dataclass(frozen=True)
class Reference:
    """The model before any training; ``off`` switches off what trains, for the time of a call."""

    forward: ModelForward
    off: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(self, batch: Batch) -> Tensor:
        """log p of the targets of a batch, (N,) float32, without gradient or dropout."""
        model = self.forward.model
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.off():
            found = self.forward.logprobs(batch)
        model.train(was_training)
        return found


def reference_of(adapter: Adapter, model: Any, forward: ModelForward) -> Reference:
    """The adapter switched off; where the weights themselves train, a frozen copy that is taken now."""
    if "reference" in adapter.provides:
        return Reference(forward, lambda: adapter.disabled(model))
    return Reference(ModelForward(deepcopy(model).requires_grad_(False), compute=forward.compute))


def cache_key(loaded: Loaded, template: str, sequences: Sequence[Tokens]) -> str:
    """Hash of all that decides the log-probabilities: weights, number format, template, tokens, weights."""
    rows = [[t.ids, t.weights, [[b.ids, b.weights] for b in t.branches]] for t in sequences]
    precision = [str(loaded.precision.dtype), loaded.precision.device.type]
    return digest([_files(Path(loaded.ref.path)), loaded.ref.name, precision, template, rows])


def _files(model: Path) -> list[list[Any]]:
    """Names, sizes and times of a model's files; to hash gigabytes would cost more than it saves."""
    files = sorted(model.iterdir()) if model.is_dir() else [model] if model.exists() else []
    return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]


def with_reference(
    sequences: Sequence[Tokens], reference: Reference, micro_tokens: int, key: str
) -> list[Tokens]:
    """``sequences`` whose branches (or they themselves) carry ``extras["reference"]``: summed log p.

    Computed once and kept in the user's cache under ``key``; a stored file of another size is not used.
    """
    path = cache_dir() / "reference" / f"{key}.npy"
    parts = [part for tokens in sequences for part in _parts(tokens)]
    sums = _read(path, len(parts))
    if sums is None:
        sums = reference_sums(sequences, reference, micro_tokens)
        with written_atomically(path) as temporary, temporary.open("wb") as f:
            np.save(f, sums)
    found = iter(sums.tolist())
    return [_marked(tokens, found) for tokens in sequences]


def reference_sums(sequences: Sequence[Tokens], reference: Reference, micro_tokens: int) -> np.ndarray:
    """Summed log p of the targets of every segment, prefixes before their branches, in order: (segments,)."""
    sums: list[list[float]] = [[] for _ in sequences]
    for indices in micro_batches(sequences, micro_tokens):
        batch = build_batch([sequences[i] for i in indices], device=reference.forward.device)
        values = iter(per_segment(reference(batch).cpu() * batch.targets.weights, batch).tolist())
        for i in indices:
            sums[i] = [next(values) for _ in _parts(sequences[i])]
    return np.array([value for row in sums for value in row], dtype=np.float64)


def _parts(tokens: Tokens) -> list[Tokens]:
    return [tokens, *tokens.branches]


def _marked(tokens: Tokens, values: Any) -> Tokens:
    own = next(values)
    branches = tuple(replace(b, extras={**b.extras, "reference": next(values)}) for b in tokens.branches)
    extras = tokens.extras if branches else {**tokens.extras, "reference": own}
    return replace(tokens, extras=extras, branches=branches)


def _read(path: Path, size: int) -> np.ndarray | None:
    try:
        stored: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return stored if stored.shape == (size,) and np.isfinite(stored).all() else None
