"""Ids of conversations of one shape, put together from ids of their parts.

Control tokens split a text before a tokenizer does anything else, and so do the cuts of ``encode.py``. What
stands between two of them, a *section*, is encoded as if it were alone. So sections without a content are
encoded once for all conversations of a shape, and the others many at a time, joined by a control token, and
without offsets: only a border inside a section needs one, and there it follows from the ids. A byte-level
token spells its own bytes; if the ids of a section begin with those of its constant beginning, then so do its
bytes, and the content begins with the next token.

That holds for byte-level BPE, which ``Sections.of`` asks for, and is checked on a made-up conversation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from tokenizers import models, normalizers

from tunewright.core.records import Meta, Span, Tokens
from tunewright.data.controls import Controls
from tunewright.data.forms import Form, Gap

_CHARACTERS = 16_384  # of sections that are encoded as one text
_SPACED = "a \n b"


@dataclass(frozen=True, slots=True)
class Hole:
    """A section that holds the content of message ``index`` between constant texts."""

    index: int
    before: str
    after: str
    ids_before: list[int]
    ids_after: list[int]

    def holds(self, ids: list[int]) -> bool:
        """Whether borders between content and constant text stand between tokens of ``ids``."""
        first, last = len(self.ids_before), len(self.ids_after)
        return (not first or ids[:first] == self.ids_before) and (not last or ids[-last:] == self.ids_after)


Point = tuple[int, int]  # a token: so many after (or before) the first one of the unit with this number


@dataclass(frozen=True, slots=True)
class Plan:
    """How to put a conversation together: ``units`` are ids, or holes to be filled, in order.

    ``stretches`` are ``(role, start, end, weight)``; ``base`` is the weight of tokens outside of them.
    """

    form: Form
    units: tuple[list[int] | Hole, ...]
    holes: tuple[Hole, ...]
    stretches: tuple[tuple[str, Point, Point, float], ...]
    base: float

    def sections(self, contents: Sequence[str]) -> list[str]:
        """The texts that must be encoded, one for each hole."""
        return [hole.before + contents[hole.index] + hole.after for hole in self.holes]

    def tokens(self, parts: Sequence[list[int] | None], meta: Meta) -> Tokens | None:
        """The conversation with ``parts``, the ids of its sections; ``None`` if a border needs an offset."""
        ids: list[int] = []
        starts, filled = [], iter(parts)
        for unit in self.units:
            starts.append(len(ids))
            if isinstance(unit, Hole):
                part = next(filled)
                if part is None or not unit.holds(part):
                    return None
                ids += part
            else:
                ids += unit
        starts.append(len(ids))
        base = self.base
        weights, spans = [base] * len(ids), []
        weights[0] = 0.0
        for role, (first, after), (last, before), weight in self.stretches:
            start, end = starts[first] + after, starts[last] + before
            spans.append(Span(role, start, end))
            if weight != base:
                start = max(start, 1)
                weights[start:end] = [weight] * (end - start)
        return Tokens(ids, weights, tuple(spans), meta=meta)


class Sections:
    """Encodes sections. Made by ``of``."""

    def __init__(self, backend: Any, controls: Controls, joint: str, trims: bool) -> None:
        self._backend = backend
        self._controls = controls
        self._joint, self._joint_id = joint, controls.ids[joint]
        self._others = controls.id_set - {self._joint_id}
        self._trims = trims

    @classmethod
    def of(cls, backend: Any, controls: Controls) -> Sections | None:
        """``None`` for a tokenizer whose sections cannot be encoded by themselves."""
        if not controls.ids or not _is_bytelevel(backend):
            return None
        added = backend.get_added_tokens_decoder().values()
        if any(t.single_word or t.lstrip or t.rstrip for t in added if t.content in controls.ids):
            return None
        plain = [token.content for token in added if token.content not in controls.ids]
        if any(controls.first(t) or controls.begun_at_end(t) or controls.ended_at_start(t) for t in plain):
            return None
        if not all(_splits(backend, token, token_id) for token, token_id in controls.ids.items()):
            return None
        offsets = backend.encode(_SPACED, add_special_tokens=False).offsets
        trims = sum(end - start for start, end in offsets) < len(_SPACED)
        return cls(backend, controls, next(iter(controls.ids)), trims)

    def encode(self, sections: Sequence[str]) -> list[list[int] | None]:
        """The ids of each section, none of them of a control token; ``None`` where that is not so.

        Sections hold no control strings. The backend must have neither truncation nor padding set.
        """
        groups = _grouped(sections)
        found = self.start([self._joint.join(group) for group in groups])
        return self.finish(found, list(map(len, groups)))

    def joined(self, sections: Sequence[str]) -> tuple[list[str], list[int]]:
        """Texts that hold ``sections``, and how many each holds; for ``start`` and ``finish``."""
        groups = _grouped(sections)
        return [self._joint.join(group) for group in groups], list(map(len, groups))

    def start(self, texts: list[str]) -> Any:
        """Encode ``texts``; all cores work, and other Python threads go on."""
        return self._backend.encode_batch_fast(texts, add_special_tokens=False)

    def finish(self, found: Any, counts: Sequence[int]) -> list[list[int] | None]:
        """The ids of each section of encoded texts that hold so many."""
        results: list[list[int] | None] = []
        for encoding, count in zip(found, counts, strict=True):
            results += self._split(encoding.ids, count)
        return results

    def plan(self, form: Form, made: Tokens, contents: Sequence[str], base: float) -> Plan | None:
        """How to make conversations of ``form``; with ``contents`` it gives ``made``, as the plain path."""
        if self._trims and not form.needs.stripped:
            return None  # offsets leave out white space, so that borders depend on that of the content
        units, places = self._units(form)
        plan = Plan(form, tuple(units), tuple(u for u in units if isinstance(u, Hole)), (), base)
        parts = [part for part in self.encode(plan.sections(contents)) if part is not None]
        if not places or len(parts) < len(plan.holes):
            return None
        starts = _starts(units, parts)
        stretches = []
        for stretch, span in zip(form.draft.stretches, made.spans, strict=True):
            first, last = places.get(stretch.start), places.get(stretch.end)
            if first is None or last is None:
                return None
            points = first.point(span.start, starts), last.point(span.end, starts)
            if points[0] is None or points[1] is None:
                return None
            stretches.append((stretch.role, points[0], points[1], stretch.weight))
        plan = replace(plan, stretches=tuple(stretches))
        return plan if plan.tokens(parts, made.meta) == made else None

    def _split(self, ids: list[int], count: int) -> list[list[int] | None]:
        """``ids`` of ``count`` joined sections, apart; ``None`` for all if a control token is among them."""
        if ids.count(self._joint_id) != count - 1 or not self._others.isdisjoint(ids):
            return [None] * count
        parts: list[list[int] | None] = []
        position = 0
        for _ in range(count - 1):
            end = ids.index(self._joint_id, position)
            parts.append(ids[position:end])
            position = end + 1
        parts.append(ids[position:])
        return parts

    def _units(self, form: Form) -> tuple[list[list[int] | Hole], dict[int, Place]]:
        """The units of ``form`` and where its characters stand in them; nothing if a section has two gaps."""
        text, gaps = form.draft.text, list(form.gaps)
        matches = self._controls.find(text)
        edges = sorted({0, len(text), *form.draft.cuts, *(e for m in matches for e in m.span())})
        controls = {match.start(): match.group() for match in matches}
        units: list[list[int] | Hole] = []
        places: dict[int, Place] = {}
        for start, end in pairwise(edges):
            inside = [gap for gap in gaps if start <= gap.start < end]
            if len(inside) > 1:
                return [], {}
            if inside:
                [gap], number = inside, len(units)
                hole = self._hole(gap, text[start:end], text[start : gap.start], text[gap.end : end])
                units.append(hole)
                places.setdefault(start, Place(number, 0, 0))
                places[gap.start] = Place(number, 0, len(hole.ids_before))
                places[gap.end] = Place(number + 1, -len(hole.ids_after), 0)
                continue
            own = [self._controls.ids[controls[start]]] if start in controls else self._ids(text[start:end])
            before = units.pop() if units and not isinstance(units[-1], Hole) else []
            assert not isinstance(before, Hole)
            places[start] = Place(len(units), len(before), len(before))
            units.append([*before, *own])
        places.setdefault(len(text), Place(len(units), 0, 0))
        return units, places

    def _hole(self, gap: Gap, text: str, before: str, after: str) -> Hole:
        """The hole of a section reading ``text``, with the ids that spell ``before`` and ``after`` in it."""
        ids = self._ids(text)
        first = next((n for n in range(len(ids)) if self._spelled(ids[:n]) == before), len(ids))
        last = next((n for n in range(len(ids)) if self._spelled(ids[len(ids) - n :]) == after), len(ids))
        return Hole(gap.index, before, after, ids[:first], ids[len(ids) - last :])

    def _spelled(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)


@dataclass(frozen=True, slots=True)
class Place:
    """A character that stands ``least`` to ``most`` tokens after the first one of a unit."""

    unit: int
    least: int
    most: int

    def point(self, token: int, starts: Sequence[int]) -> Point | None:
        """The place of ``token``, relative to the unit; ``None`` if it cannot be that of this character."""
        after = token - starts[self.unit]
        return (self.unit, after) if self.least <= after <= self.most else None


def _starts(units: Sequence[list[int] | Hole], parts: Sequence[list[int]]) -> list[int]:
    """The first token of each unit, and the end of the last."""
    filled = iter(parts)
    sizes = [len(next(filled)) if isinstance(unit, Hole) else len(unit) for unit in units]
    return [0, *accumulate(sizes)]


def _grouped(sections: Sequence[str]) -> list[list[str]]:
    """Runs of sections of a length that the tokenizer likes, each of at least one."""
    groups: list[list[str]] = []
    size = _CHARACTERS
    for section in sections:
        if size >= _CHARACTERS:
            groups.append([])
            size = 0
        groups[-1].append(section)
        size += len(section)
    return groups


def _splits(backend: Any, token: str, token_id: int) -> bool:
    """Whether text on both sides of a control token is encoded as if it were alone."""
    pairs = (("b", "b"), ("b \n", "\n b"), ("1", "1"), ("", ""))

    def ids(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    return all(ids(left + token + right) == [*ids(left), token_id, *ids(right)] for left, right in pairs)


def _is_bytelevel(backend: Any) -> bool:
    """Whether the ids of a text spell its bytes, after no more than joining accents to their letters."""
    model, normalizer = backend.model, backend.normalizer
    if not isinstance(model, models.BPE) or model.dropout or backend.pre_tokenizer is None:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if not (normalizer is None or isinstance(normalizer, normalizers.NFC)):
        return False
    state = json.loads(backend.pre_tokenizer.__getstate__())
    *steps, last = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return (
        last["type"] == "ByteLevel"
        and not last["add_prefix_space"]
        and all(
            s["type"] == "Digits" or (s["type"], s.get("behavior")) == ("Split", "Isolated") for s in steps
        )
    )
