"""Counterfactual pairs: a row and the same row with genders exchanged, by pronouns, nouns and given names.

English says "her" for two words: a possessive (his) and an object (him). Which one it is is told from the
next word: an object is followed by a mark, the end or a function word. The rule is measured on WinoBias
(``docs/audit.md``); where it errs the swapped row is ungrammatical, not wrong in gender.

A pair is used in three ways: to probe a model (its answer should not change), to balance data (train on
both), and to audit labels: a swap that stands in the data with another label is a finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tunewright.core.records import (
    Conversation,
    Example,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Text,
)
from tunewright.data.audit.intervals import share
from tunewright.data.audit.result import Part, share_text, shortened, skipped
from tunewright.data.audit.sample import Row, classes_of, drawn, within
from tunewright.data.audit.words_swaps import (
    ADJECTIVES_LY,
    AFTER_OBJECT,
    GIVEN,
    NAMES,
    NOUNS,
    ONE_WAY,
    TWO_OBJECTS,
)
from tunewright.data.keys import normalise

NAME = "counterfactual pairs"
ROWS, CHARACTERS = 20_000, 8_000_000
_PLAIN = {**NOUNS, **{b: a for a, b in NOUNS.items()}, **ONE_WAY, "him": "her", "hers": "his"}
_NAMES = {**NAMES, **{b: a for a, b in NAMES.items()}}
_WORD = re.compile(r"(?<![\w-])[^\W\d_]+(?![\w-])")
_NEXT = re.compile(r"[ \t]+([^\W\d_]+(?:-[^\W\d_]+)*)")
_LAST = re.compile(r"([^\W\d_]+)[ \t]+$")


def swapped(text: str) -> str:
    """``text`` with genders exchanged; equal to it where there is nothing to exchange."""
    return _WORD.sub(lambda match: _other(match, text), text)


def _other(match: re.Match[str], text: str) -> str:
    word = match[0]
    if word in _NAMES:
        return _NAMES[word]
    lower = word.lower()
    if lower == "her":
        return _cased("his" if _possessive(match, text) else "him", word)
    if lower == "his":
        return _cased("her" if _possessive(match, text) else "hers", word)
    return _cased(_PLAIN[lower], word) if lower in _PLAIN else word


def _possessive(match: re.Match[str], text: str) -> bool:
    """True if a noun or an adjective follows that the pronoun belongs to."""
    follows = _NEXT.match(text, match.end())
    if follows is None:
        return False
    after = follows[1].lower()
    if after.endswith("ly") and after not in ADJECTIVES_LY:
        return False
    before = _LAST.search(text[max(0, match.start() - 40) : match.start()])
    if before and (before[1].lower() == "let" or (before[1].lower() in TWO_OBJECTS and after in GIVEN)):
        return False
    return after not in AFTER_OBJECT


def _cased(word: str, like: str) -> str:
    """``word`` in capitals, with a capital, or as it is, as ``like`` is."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word


def swapped_example(example: Example) -> Example | None:
    """The counterpart of a row, all its texts swapped, with the same label; ``None`` if nothing changes. Tool
    calls and fields stay as they are."""
    found: Example
    if isinstance(example, Text):
        found = replace(example, text=swapped(example.text))
    elif isinstance(example, Preference):
        found = replace(
            example,
            prompt=_turns(example.prompt),
            chosen=_turns(example.chosen),
            rejected=_turns(example.rejected),
        )
    elif isinstance(example, Ranking):
        answers = tuple(_turns(answer) for answer in example.answers)
        found = replace(example, prompt=_turns(example.prompt), answers=answers)
    else:
        assert isinstance(example, Conversation | Labelled | Prompt)
        found = replace(example, messages=_turns(example.messages))
    return None if found == example else found


def _turns(messages: Iterable[Message]) -> tuple[Message, ...]:
    return tuple(replace(m, content=swapped(m.content)) for m in messages)


def pairs(examples: Iterable[Example]) -> Iterator[tuple[Example, Example]]:
    """(original, swapped) for each row in which something changes."""
    for example in examples:
        other = swapped_example(example)
        if other is not None:
            yield example, other


def counterfactual_pairs(rows: Sequence[Row], total: int) -> Part:
    """The part of the report: how many rows have a counterpart, and whether one stands there with another
    label."""
    rows = within(rows, CHARACTERS, ROWS)
    changed = [(i, other) for i, row in enumerate(rows) if (other := swapped(row.prompt)) != row.prompt]
    if not changed:
        return skipped(NAME, "No row has words with a counterpart of the other gender.", len(rows), total)
    classes = classes_of(rows)
    outcome = [c if c is not None else normalise(row.answer) for c, row in zip(classes, rows, strict=True)]
    place = {normalise(row.prompt): i for i, row in reversed(list(enumerate(rows)))}
    both = [(i, j) for i, other in changed if (j := place.get(normalise(other))) is not None and i < j]
    against = [(i, j) for i, j in both if not _agree(outcome[i], outcome[j])]
    lines = [
        f"{rows[i].place} and {rows[j].place} differ only in gender, but not in label:"
        f" {_shown(outcome[i])} and"
        f" {_shown(outcome[j])}"
        for i, j in against
        if classes[i] is not None
    ]
    measured = (
        f"{share_text(*share(len(changed), len(rows)))} of {drawn(len(rows), total)} have a counterpart of"
        f" the other gender; {len(both)} pairs stand in the data, {len(against)} of them with another label or"
        " answer"
    )
    return Part(
        NAME,
        "look" if against else "fine",
        measured,
        "The label changes with nothing but the gender." if against else "No label changes with the gender.",
        "Give both the same label, unless gender is what the task asks for."
        if against
        else "To probe a model or to balance the data, write the swapped rows (pairs=FILE).",
        len(rows),
        total,
        shortened(lines),
        {"with_counterpart": len(changed), "pairs": len(both),
         "against": [[rows[i].place, rows[j].place] for i, j in against]},
    )  # fmt: skip


def _agree(one: str, two: str) -> bool:
    """Equal, or equal once one is swapped: the counterpart of an answer may name the other gender."""
    return one == two or normalise(swapped(one)) == two or one == normalise(swapped(two))


def _shown(outcome: str) -> str:
    return repr(outcome if len(outcome) <= 40 else outcome[:40] + "…")


def plain_sentence(line: str) -> str:
    """A line of WinoBias without its number and brackets."""
    return re.sub(r"[\[\]]", "", re.sub(r"^\d+\s+", "", line)).strip()


def winobias_share(pro: Path, anti: Path) -> tuple[int, int]:
    """Of two files aligned by line: how many sentences become their partner, and how many there are."""
    both = [p.read_text(encoding="utf-8").splitlines() for p in (pro, anti)]
    lines = [tuple(map(plain_sentence, pair)) for pair in zip(*both, strict=True)]
    return sum(swapped(one) == two for one, two in lines), len(lines)
