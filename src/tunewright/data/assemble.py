"""From drafts (text and what stands where) to ``Tokens`` (ids, weights and spans)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, pairwise

from tunewright.core.records import Meta, Span, Tokens
from tunewright.data.controls import Controls, Veil
from tunewright.data.encode import After, Encoded, Piece
from tunewright.data.turns import Draft

_WINDOW = 128  # characters that are enough to see which control token a text ends with


def pieces_of(draft: Draft, veil: Veil, controls: Controls) -> list[Piece]:
    """The text of ``draft`` between its cuts, each with what stands before it."""
    edges = [0, *draft.cuts, len(draft.text)]
    return [
        Piece(draft.text[start:end], veil, _before(draft.text[max(0, start - _WINDOW) : start], controls))
        for start, end in pairwise(edges)
    ]


def assemble(draft: Draft, parts: list[Encoded], base: float, meta: Meta) -> Tokens:
    """Join encoded pieces; ``base`` is the weight of every token after the first that no message claims.

    Answers begin at a cut and end after a control token, so their borders are exact. Where a template ends a
    turn without one, and for other messages, a token that straddles the border belongs to what it starts in.
    """
    ids = [token for part in parts for token in part.ids]
    weights = [base] * len(ids)
    weights[:1] = [0.0] * len(weights[:1])
    token_at = _token_index(draft, parts)
    spans = []
    for stretch in draft.stretches:
        start, end = token_at(stretch.start), token_at(stretch.end)
        spans.append(Span(stretch.role, start, end))
        weights[max(start, 1) : end] = [stretch.weight] * (end - max(start, 1))
    return Tokens(ids, weights, tuple(spans), meta=meta)


def _token_index(draft: Draft, parts: list[Encoded]) -> Callable[[int], int]:
    """A function from a character position in the draft to the first token at or after it."""
    begins = [0, *draft.cuts]
    offsets = [0, *accumulate(len(part.ids) for part in parts)]

    def token_at(character: int) -> int:
        if character >= len(draft.text):
            return offsets[-1]
        index = bisect_right(begins, character) - 1
        inside, part = character - begins[index], parts[index]
        return offsets[index] + part.control_ends.get(inside, part.token_at(inside) if inside else 0)

    return token_at


def _before(text: str, controls: Controls) -> After:
    if not text:
        return "nothing"
    matches = controls.find(text)
    if not matches:
        return "text"
    last = matches[-1]
    swallows = "right" in controls.stripping.get(last.group(), ())
    return "control" if last.end() == len(text.rstrip() if swallows else text) else "text"
