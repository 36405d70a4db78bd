"""Rendered sequences laid end to end: ``Tokens`` -> ``Batch``, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tunewright.core.records import Tokens
from tunewright.engine.plan import micro_batches
from tunewright.objectives.base import Batch, Segment, Targets


class _Builder:
    """Collects flat lists; a branch's first token is predicted from the last token of its prefix."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []
        self.source: list[int] = []
        self.target_ids: list[int] = []
        self.weights: list[float] = []
        self.target_segment: list[int] = []
        self.extras: list[dict[str, float]] = []
        self.tracks: list[tuple[Tokens, int]] = []  # where each target's tracks stand

    def add(
        self, tokens: Tokens, parent: int | None = None, last: int | None = None, position: int = 0
    ) -> None:
        start, segment = len(self.ids), len(self.segments)
        self.segments.append(Segment(start, len(tokens.ids), parent))
        self.extras.append(tokens.extras)
        self.ids += tokens.ids
        self.positions += range(position, position + len(tokens.ids))
        for i, (token, weight) in enumerate(zip(tokens.ids, tokens.weights, strict=True)):
            before = start + i - 1 if i else last
            if weight and before is not None:
                self.source.append(before)
                self.target_ids.append(token)
                self.weights.append(weight)
                self.target_segment.append(segment)
                self.tracks.append((tokens, i))
        for branch in tokens.branches:
            assert parent is None, "a branch of a branch: the mean over a text knows one parent only"
            self.add(branch, segment, start + len(tokens.ids) - 1, position + len(tokens.ids))


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
    tracks = sorted({name for tokens, _ in builder.tracks for name in tokens.tracks})
    return Batch(
        ids=torch.tensor(builder.ids, dtype=torch.long, device=device),
        positions=torch.tensor(builder.positions, dtype=torch.long, device=device),
        segments=tuple(builder.segments),
        targets=Targets(
            torch.tensor(builder.source, dtype=torch.long, device=device),
            torch.tensor(builder.target_ids, dtype=torch.long, device=device),
            torch.tensor(builder.weights, dtype=torch.float32, device=device),
            torch.tensor(builder.target_segment, dtype=torch.long, device=device),
        ),
        extras={
            name: torch.tensor([e.get(name, float("nan")) for e in builder.extras], device=device)
            for name in names
        },
        rows=tuple(rows),
        tracks={
            name: torch.tensor(
                [t.tracks[name][i] if name in t.tracks else float("nan") for t, i in builder.tracks],
                dtype=torch.float32,
                device=device,
            )
            for name in tracks
        },
        task=next(iter(tasks), ""),
    )


def packed(
    sequences: Sequence[Tokens], micro_tokens: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """``sequences`` as batches within ``micro_tokens``, made one by one; ``rows`` are their indices."""
    for indices in micro_batches(sequences, micro_tokens):
        yield build_batch([sequences[i] for i in indices], indices, device)
