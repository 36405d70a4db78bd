"""Rendered sequences laid end to end: ``Tokens`` -> ``Batch``, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunewright.core.records import Tokens
from tunewright.engine.plan import micro_batches
from tunewright.models.placing import placed
from tunewright.objectives.base import Batch, Segment, Targets

Array = NDArray[Any]


class _Builder:
    """One array for each sequence; the first token of a branch is predicted from the last of its prefix."""

    def __init__(self) -> None:
        self.ids: list[Array] = []
        self.positions: list[Array] = []
        self.segments: list[Segment] = []
        self.extras: list[dict[str, float]] = []
        self.source: list[Array] = []
        self.target_ids: list[Array] = []
        self.weights: list[Array] = []
        self.targets: list[tuple[Tokens, Array]] = []  # a sequence, and where in it its targets stand
        self.length = 0

    def add(
        self, tokens: Tokens, parent: int | None = None, last: int | None = None, position: int = 0
    ) -> None:
        start, segment, count = self.length, len(self.segments), len(tokens.ids)
        self.segments.append(Segment(start, count, parent))
        self.extras.append(tokens.extras)
        self.length += count
        ids, weights = np.array(tokens.ids, dtype=np.int64), np.array(tokens.weights, dtype=np.float64)
        at = np.flatnonzero(weights)
        if last is None:
            at = at[at > 0]  # nothing predicts the first token of a text
        self.ids.append(ids)
        self.positions.append(np.arange(position, position + count))
        self.source.append(np.where(at > 0, start + at - 1, last or 0))
        self.target_ids.append(ids[at])
        self.weights.append(weights[at])
        self.targets.append((tokens, at))
        for branch in tokens.branches:
            assert parent is None, "a branch of a branch: the mean over a text knows one parent only"
            self.add(branch, segment, start + count - 1, position + count)

    def track(self, name: str) -> list[Array]:
        """One value for every target; NaN where its sequence has no such track."""
        return [
            np.array(tokens.tracks[name], dtype=np.float64)[at]
            if name in tokens.tracks
            else np.full(len(at), np.nan)
            for tokens, at in self.targets
        ]


def build_batch(
    sequences: Sequence[Tokens], rows: Sequence[int] = (), device: torch.device | str = "cpu"
) -> Batch:
    """Pack ``sequences`` of one task into a batch; ``rows`` are their indices in the data, for messages."""
    tasks = {tokens.task for tokens in sequences}
    assert len(tasks) <= 1, f"one batch of several tasks: {sorted(tasks)}"
    builder = _Builder()
    for tokens in sequences:
        builder.add(tokens)
    names = sorted({name for extras in builder.extras for name in extras})
    marks = {name: tuple(e.get(name, float("nan")) for e in builder.extras) for name in names}
    tracks = sorted({name for tokens, at in builder.targets if len(at) for name in tokens.tracks})
    whole = partial(_joined, dtype=torch.long, device=device)
    real = partial(_joined, dtype=torch.float32, device=device)
    segment = [np.full(len(at), number) for number, (_, at) in enumerate(builder.targets)]
    return Batch(
        ids=whole(builder.ids),
        positions=whole(builder.positions),
        segments=tuple(builder.segments),
        targets=Targets(
            whole(builder.source), whole(builder.target_ids), real(builder.weights), whole(segment)
        ),
        extras={name: placed(torch.tensor(values), device) for name, values in marks.items()},
        marks=marks,
        rows=tuple(rows),
        tracks={name: real(builder.track(name)) for name in tracks},
        task=next(iter(tasks), ""),
    )


def _joined(parts: Sequence[Array], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    joined = torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0)
    return placed(joined.to(dtype), device)


def packed(
    sequences: Sequence[Tokens], micro_tokens: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """``sequences`` as batches within ``micro_tokens``, made one by one; ``rows`` are their indices."""
    for indices in micro_batches(sequences, micro_tokens):
        yield build_batch([sequences[i] for i in indices], indices, device)
