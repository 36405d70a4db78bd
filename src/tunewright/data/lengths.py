"""How long rendered rows are: the limit on one sequence, and the sums over many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tunewright.core.errors import RenderError
from tunewright.core.records import Span, Tokens

OverLong = Literal["cut", "drop", "error"]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``length`` tokens per sequence (``None`` = any), and what happens to longer ones.

    ``cut`` keeps the beginning, ``drop`` leaves the sequence out, ``error`` raises.
    """

    length: int | None = None
    over_long: OverLong = "cut"

    def with_short(self, tokens: Tokens, spare: Sequence[bool]) -> Tokens:
        """``tokens`` with ``spare`` branches cut to the room that the prompt leaves, whatever the rule."""
        if self.length is None or self.length <= len(tokens.ids):
            return tokens
        room = self.length - len(tokens.ids)
        branches = [
            replace(_cut(branch, room), extras=branch.extras) if cut else branch
            for branch, cut in zip(tokens.branches, spare, strict=True)
        ]
        return replace(tokens, branches=tuple(branches))

    def apply(self, tokens: Tokens) -> list[Tokens]:
        """``tokens`` in a list, cut or left out. With branches, what counts is the prompt with the longest.

        A cut is recorded in ``extras["cut_tokens"]``, and in ``extras["cut_answer"]`` if it went through an
        answer that is trained, which then has no end of turn left to learn. Branches are cut at their ends.
        If that leaves one without a token to learn, or makes two alike, all are left out: nothing remains to
        compare.
        """
        if self.length is None or longest(tokens) <= self.length:
            return [tokens]
        if self.over_long == "error":
            raise RenderError(
                f"{longest(tokens)} tokens, more than the limit of {self.length}; raise max_length, shorten "
                "the row or set over_long to cut or drop"
            )
        if self.over_long == "drop":
            return []
        return _cut_branches(tokens, self.length) if tokens.branches else [_cut(tokens, self.length)]


def longest(tokens: Tokens) -> int:
    """Tokens that one path through ``tokens`` has at most: its own ids and those of the longest branch."""
    return len(tokens.ids) + max((len(b.ids) for b in tokens.branches), default=0)


def _cut(tokens: Tokens, length: int) -> Tokens:
    """The first ``length`` tokens, with a record of what is missing."""
    if len(tokens.ids) <= length:
        return tokens
    spans = tuple(Span(s.role, s.start, min(s.end, length)) for s in tokens.spans if s.start < length)
    extras = {**tokens.extras, "cut_tokens": float(len(tokens.ids) - length)}
    if _inside_answer(tokens, length):
        extras["cut_answer"] = 1.0
    tracks = {name: values[:length] for name, values in tokens.tracks.items()}
    ids, weights = tokens.ids[:length], tokens.weights[:length]
    return replace(tokens, ids=ids, weights=weights, spans=spans, extras=extras, tracks=tracks)


def _cut_branches(tokens: Tokens, length: int) -> list[Tokens]:
    """Branches cut to the room that the prompt leaves; the record of it stands at the prompt."""
    room = max(length - len(tokens.ids), 0)
    cut = [_cut(branch, room) for branch in tokens.branches]
    if not all(any(branch.weights) for branch in cut) or _distinct(cut) < _distinct(tokens.branches):
        return []
    extras = {**tokens.extras, "cut_tokens": sum(b.extras.get("cut_tokens", 0.0) for b in cut)}
    if any("cut_answer" in b.extras for b in cut):
        extras["cut_answer"] = 1.0
    whole = zip(cut, tokens.branches, strict=True)
    branches = tuple(replace(b, extras=before.extras) for b, before in whole)
    return [replace(tokens, branches=branches, extras=extras)]


def chunked(ids: list[int], weights: list[float], length: int) -> list[Tokens]:
    """``ids`` in pieces of at most ``length``, each beginning with the last token of the one before it.

    That token is context: the first token of a sequence is never predicted.
    """
    chunks = []
    for start in range(0, max(len(ids) - 1, 1), max(length - 1, 1)):
        piece, learnt = ids[start : start + length], weights[start : start + length]
        learnt[:1] = [0.0] * len(learnt[:1])
        chunks.append(Tokens(piece, learnt, (Span("text", 0, len(piece)),)))
    return chunks


def _distinct(branches: Iterable[Tokens]) -> int:
    return len({tuple(branch.ids) for branch in branches})


def _inside_answer(tokens: Tokens, length: int) -> bool:
    """Whether a cut at ``length`` leaves a part of a trained answer, without its end."""
    return any(
        span.role == "assistant"
        and span.start < length < span.end
        and any(tokens.weights[span.start : length])
        for span in tokens.spans
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """What a set of rendered rows amounts to, in rows and tokens.

    ``truncated`` rows were cut (or exceed the limit), ``endless`` rows were cut inside a trained answer, so
    that they teach it without its end of turn, ``all_masked`` rows have no token to learn from,
    ``control_hits`` counts control strings that were found in the data and written as plain text.
    """

    rows: int
    truncated: int
    all_masked: int
    trained_tokens: int
    total_tokens: int
    control_hits: int
    endless: int = 0


def tally(tokens: Iterable[Tokens], max_length: int | None = None) -> Tally:
    """Count what rendering made of the data."""
    rows = list(tokens)
    too_long = [t for t in rows if "cut_tokens" in t.extras or (max_length and longest(t) > max_length)]
    return Tally(
        rows=len(rows),
        truncated=len(too_long),
        all_masked=sum(t.trained == 0 for t in rows),
        trained_tokens=sum(t.trained for t in rows),
        total_tokens=sum(t.size for t in rows),
        control_hits=int(sum(t.extras.get("control_hits", 0) for t in rows)),
        endless=sum("cut_answer" in t.extras for t in rows),
    )
