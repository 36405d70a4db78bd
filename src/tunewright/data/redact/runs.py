"""Runs of capitalised words, each of which may be a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tunewright.data.redact.name_words import AMBIGUOUS, COMMON, PARTICLES, UPPER, ordinary
from tunewright.data.redact.wordlists import given_names, words

_CAP = rf"[{UPPER}](?:\w|['’-](?=[^\W\d_]))*"
# the capital stands before the look behind it, so that the search can leap from capital to capital
_RUN = re.compile(
    rf"[{UPPER}](?<![\w@/#&].)(?:\w|['’-](?=[^\W\d_]))*"
    rf"(?:(?:(?<=[{UPPER}])\.)? (?:(?:{'|'.join(PARTICLES)}) ){{0,2}}{_CAP}){{0,5}}"
)
_WORD = re.compile(r"[^\W\d_](?:\w|['’-](?=[^\W\d_]))*\.?")
_POSSESSIVE = ("'s", "’s")
_INSIDE = frozenset(PARTICLES)
VERBS = frozenset(words("verbs"))


class Run(NamedTuple):
    """A run of capitalised words that may be a name."""

    start: int
    end: int
    words: tuple[str, ...]  # in lower case, without particles and full stops


def runs(text: str) -> Iterator[Run]:
    """Every run, without the ordinary words at its edges; *Pave's Irena Bílá* is two."""
    for match in _RUN.finditer(text):
        whole = match.group()
        if " " not in whole:  # most are one word, which needs no cutting
            if (key := key_of(whole)) not in COMMON:
                end = match.end() - 2 if whole.endswith(_POSSESSIVE) else match.end()
                yield Run(match.start(), end, (key,))
            continue
        words: list[tuple[int, int, str]] = []
        for w in _WORD.finditer(whole):
            words.append((match.start() + w.start(), match.start() + w.end(), w.group()))
            if w.group().endswith(_POSSESSIVE):
                yield from _trimmed(text, words)
                words = []
        yield from _trimmed(text, words)


def _trimmed(text: str, words: list[tuple[int, int, str]]) -> Iterator[Run]:
    first, last = 0, len(words)
    while first < last and key_of(words[first][2]) in COMMON:
        first += 1
    while last > first and (key_of(words[last - 1][2]) in COMMON or words[last - 1][2] in _INSIDE):
        last -= 1
    if first == last:
        return
    kept = words[first:last]
    end = kept[-1][1]
    if kept[-1][2].endswith(_POSSESSIVE):
        end -= 2
    if len(kept[-1][2]) > 3 and text[end - 1] == ".":
        end -= 1
    yield Run(kept[0][0], end, tuple(key_of(w) for _, _, w in kept if w not in _INSIDE))


def key_of(word: str) -> str:
    """The word in lower case, without the full stop and the possessive at its end."""
    word = word.lower().rstrip(".")
    return word[:-2] if word.endswith(_POSSESSIVE) else word


def with_capitals(text: str) -> str:
    """A text that has no capitals, with those of the names in it; other texts as they are. Same length.

    Only a known given name gets one, and a word behind it that nothing else explains.
    """
    if not text.islower():
        return text
    given = given_names()
    parts = list(text)
    after_name = False
    for match in _WORD.finditer(text):
        word = key_of(match.group())
        known = word in given and word not in AMBIGUOUS and len(word) > 2
        surname = after_name and text[match.start() - 1] == " " and _may_be_surname(word)
        if known or surname:
            capital = text[match.start()].upper()
            if len(capital) == 1:
                parts[match.start()] = capital
        after_name = known
    return "".join(parts)


def _may_be_surname(word: str) -> bool:
    plain = word in COMMON or word in _INSIDE or word in VERBS or ordinary(word)
    return len(word) > 2 and not plain
