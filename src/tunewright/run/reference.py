"""Log-probabilities of the untouched model: what preference and policy objectives hold on to.

The sums over whole answers are computed once and kept in the user's cache. Their key is a hash of all that
decides them: config and weights of the model, number format, tokens. They are computed in pieces of ``PIECE``
rows, each a file of its own, so that a crash costs one piece, and a changed row the piece that it is in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.adapt.base import Adapter
from tunewright.core.errors import TrainError
from tunewright.core.events import Observer, Progress
from tunewright.core.hashing import digest
from tunewright.core.paths import cache_dir, write_json
from tunewright.core.records import Tokens
from tunewright.engine.batch import packed
from tunewright.models.forward import ModelForward
from tunewright.objectives.base import Batch, per_segment

PIECE = 256

Sums = list[list[float]]
"""Per row: log p of each of its answers, summed over the answer's tokens with their weights (nats)."""


@dataclass(frozen=True)
class Reference:
    """The model before any training; ``off`` switches off what trains, for the time of a call."""

    forward: ModelForward
    off: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(self, batch: Batch) -> Tensor:
        """log p of the targets of a batch, (N,) float32, without gradient or dropout."""
        with _still(self.forward.model), torch.no_grad(), self.off():
            return self.forward.logprobs(batch)


def before_training(adapter: Adapter, model: Any, forward: ModelForward) -> Reference:
    """The model itself, its adapter switched off; right until the first update, whatever trains."""
    if "reference" in adapter.provides:
        return Reference(forward, lambda: adapter.disabled(model))
    return Reference(forward)


def throughout(adapter: Adapter, model: Any, forward: ModelForward) -> Reference:
    """The same for the whole of training: where the weights themselves train, a frozen copy taken now."""
    if "reference" in adapter.provides:
        return before_training(adapter, model, forward)
    copy = deepcopy(model)
    kept = ModelForward(
        copy, compute=forward.compute
    )  # before it is frozen, so that it casts as training does
    copy.requires_grad_(False)
    return Reference(kept)


def with_reference(
    sequences: Sequence[Tokens], reference: Reference, micro_tokens: int, identity: str, observe: Observer
) -> list[Tokens]:
    """``sequences`` whose branches (or they themselves) carry ``extras["reference"]``, their summed log p.

    ``identity`` is the hash of model and number format. Sums are read from the user's cache where they stand
    there; a file that is damaged, or that holds the sums of something else, is not used. Raises
    ``TrainError`` for a row whose log-probability is not finite.
    """
    marked: list[Tokens] = []
    for start in range(0, len(sequences), PIECE):
        piece = sequences[start : start + PIECE]
        key = digest(
            [identity, [[t.ids, t.weights, [[b.ids, b.weights] for b in t.branches]] for t in piece]]
        )
        path = cache_dir() / "reference" / f"{key}.json"
        sums = _read(path, key, piece)
        if sums is None:
            told = partial(_tell, observe, start, len(sequences))
            sums = answer_sums(piece, reference, reference.forward.device, micro_tokens, told)
            _check_finite(sums, piece)
            write_json(path, {"key": key, "sha256": digest(sums), "sums": sums})
        marked += [_marked(tokens, row) for tokens, row in zip(piece, sums, strict=True)]
    return marked


def answer_sums(
    sequences: Sequence[Tokens],
    logprobs: Callable[[Batch], Tensor],
    device: torch.device,
    micro_tokens: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Sums:
    """Summed log p of the answers of each sequence: of its branches, or of itself where it has none.

    ``on_progress`` is told after each micro-batch how many sequences are done.
    """
    sums: Sums = [[] for _ in sequences]
    done = 0
    for batch in packed(sequences, micro_tokens, device):
        found = iter(per_segment(logprobs(batch) * batch.targets.weights, batch).tolist())
        for i in batch.rows:
            own = next(found)
            branches = [next(found) for _ in sequences[i].branches]
            sums[i] = branches or [own]
        done += len(batch.rows)
        on_progress(done)
    return sums


def _tell(observe: Observer, before: int, total: int, done: int) -> None:
    observe(Progress("reference", before + done, total))


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """Dropout off, and back as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _read(path: Path, key: str, piece: Sequence[Tokens]) -> Sums | None:
    """The stored sums, if the file is whole and says that it holds those of ``key``."""
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("key") != key:
        return None
    sums: Any = stored.get("sums")
    fits = digest(sums) == stored.get("sha256") and len(sums) == len(piece)
    return sums if fits else None


def _check_finite(sums: Sums, piece: Sequence[Tokens]) -> None:
    for row, tokens in zip(sums, piece, strict=True):
        if not all(math.isfinite(value) for value in row):
            raise TrainError(
                f"the untouched model gives an answer of {tokens.meta.where()} the log-probability"
                f" {next(v for v in row if not math.isfinite(v))}, which nothing can be compared with; set"
                " model.dtype=float32, or check the model's weights"
            )


def _marked(tokens: Tokens, sums: Sequence[float]) -> Tokens:
    if not tokens.branches:
        return replace(tokens, extras={**tokens.extras, "reference": sums[0]})
    return tokens.with_branches_marked({"reference": value} for value in sums)
