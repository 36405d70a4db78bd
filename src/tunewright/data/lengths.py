"""How long rendered rows are: the limit on one sequence, and the sums over many."""

from __future__ import annotations

from collections.abc import Iterable
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

    def apply(self, tokens: Tokens) -> list[Tokens]:
        """``tokens`` in a list, cut or left out.

        A cut is recorded in ``extras["cut_tokens"]``, and in ``extras["cut_answer"]`` if it went through an
        answer that is trained, which then has no end of turn left to learn.
        """
        if self.length is None or len(tokens.ids) <= self.length:
            return [tokens]
        if self.over_long == "error":
            raise RenderError(
                f"{len(tokens.ids)} tokens, more than the limit of {self.length}; raise max_length, shorten "
                "the row or set over_long to cut or drop"
            )
        if self.over_long == "drop":
            return []
        spans = tuple(
            Span(s.role, s.start, min(s.end, self.length)) for s in tokens.spans if s.start < self.length
        )
        extras = {**tokens.extras, "cut_tokens": float(len(tokens.ids) - self.length)}
        if _inside_answer(tokens, self.length):
            extras["cut_answer"] = 1.0
        ids, weights = tokens.ids[: self.length], tokens.weights[: self.length]
        return [replace(tokens, ids=ids, weights=weights, spans=spans, extras=extras)]


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
    too_long = [t for t in rows if "cut_tokens" in t.extras or (max_length and len(t.ids) > max_length)]
    return Tally(
        rows=len(rows),
        truncated=len(too_long),
        all_masked=sum(t.trained == 0 for t in rows),
        trained_tokens=sum(t.trained for t in rows),
        total_tokens=sum(t.size for t in rows),
        control_hits=int(sum(t.extras.get("control_hits", 0) for t in rows)),
        endless=sum("cut_answer" in t.extras for t in rows),
    )
