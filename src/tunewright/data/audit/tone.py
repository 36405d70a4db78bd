"""The tone of a text at the level of keywords: negative, positive or neither; and whether it holds abuse.

It counts words of a small lexicon and turns those that follow a negation. It knows no irony, no context and
no language but English; it says how groups of texts differ, never what one text means.
"""

from __future__ import annotations

import re

from tunewright.data.audit.words_tone import NEGATIONS, NEGATIVE, POSITIVE, REACH, TOXIC, TOXIC_PHRASES

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def words_of(text: str) -> list[str]:
    """Lower-case English words, with straight apostrophes."""
    return _WORD.findall(text.lower().replace("’", "'"))


def tone(text: str) -> int:
    """Positive words minus negative ones; a word up to three places after a negation counts the other way."""
    score, turned = 0, -1
    for i, word in enumerate(words_of(text)):
        if word in NEGATIONS:
            turned = i + REACH
        elif word in POSITIVE or word in NEGATIVE:
            sign = 1 if word in POSITIVE else -1
            score += -sign if i <= turned else sign
    return score


def is_negative(text: str) -> bool:
    """More negative words than positive ones."""
    return tone(text) < 0


def is_toxic(text: str) -> bool:
    """Holds a word or phrase of abuse. Quoting one counts as well."""
    words = words_of(text)
    if not TOXIC.isdisjoint(words):
        return True
    joined = f" {' '.join(words)} "
    return any(f" {phrase} " in joined for phrase in TOXIC_PHRASES)
