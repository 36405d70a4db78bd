"""What only the whole file can tell: its language, its boiler-plate, and whether its answers are labels.

    facts = [facts_of(row) for row in rows]                 # per row, in any process
    found = decide(counted(facts), settings)                # once, over counts
    outcomes = [judge(row, fact, found, settings) for row, fact in zip(rows, facts)]

Counts of parts of a file add up (``+``). They are meant to be taken after exact duplicates are gone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from tunewright.core.records import Conversation, Example, Preference, Text
from tunewright.data.clean.answers import is_offered, is_placeholder
from tunewright.data.clean.language import language_of
from tunewright.data.clean.outcome import Change, Drop, Keep, Outcome
from tunewright.data.clean.parts import answers_learnt, asked, last_question
from tunewright.data.clean.settings import CleanSettings
from tunewright.data.keys import normalise

BRIEF_WORDS, BRIEF_LETTERS = 3, 40  # an answer up to this size may be a label
LABELS_SHARE = 0.5  # share of brief answers from which a file is one of labels
LONG_WORDS, LONG_LETTERS = 5, 30  # an answer below this size is never boiler-plate
MAJORITY, MAJORITY_ROWS = 0.9, 20  # share of the rows whose language is sure, and how many there must be
_LANGUAGES = re.compile(
    r"translat|übersetz|tradu|vertaal|language|\b(?:in|into|to|from|auf|en|ins) (?:english|german|french"
    r"|spanish|italian|portuguese|dutch|polish|russian|chinese|japanese|korean|arabic|hindi|latin|turkish|deutsch\w*"
    r"|englisch\w*|anglais|español|inglés)\b",
    re.IGNORECASE,
)
_WORD_MAY_BE_MEANT = re.compile(
    r"\bhow many|\bwhich of|\breturns?\b|\bprints?\b|\bcode\b|python|function|javascript|\bsql\b|\bvalue"
    r"|\boutput of|\bif any\b|\blabel|\bclass",
    re.IGNORECASE,
)
_REAL_WORDS = frozenset(
    ("none", "null", "nil", "nan", "nothing", "unknown", "undefined", "empty", "na", "-", "?", ".")
)


class Facts(NamedTuple):
    """What one row adds. ``language`` is that of its answer or text, where sure; ``answer`` is the key of
    an only answer long enough to be boiler-plate; ``brief`` is ``None`` for a row that learns no answer."""

    language: str | None = None
    answer: int | None = None
    brief: bool | None = None
    placeholder: bool = False


@dataclass(slots=True)
class Counts:
    """Rows by language and by answer, and how many answers are brief; about 100 bytes a long answer."""

    languages: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    brief: int = 0
    answered: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.languages + other.languages,
            self.answers + other.answers,
            self.brief + other.brief,
            self.answered + other.answered,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What holds for the file: the expected language, the keys of boiler-plate answers, whether it labels."""

    language: str | None
    boilerplate: frozenset[int]
    labels: bool


def facts_of(example: Example) -> Facts:
    """What ``example`` adds to the counts of its file."""
    if isinstance(example, Text):
        return Facts(language_of(example.text))
    answers = answers_learnt(example) if isinstance(example, (Conversation, Preference)) else []
    if not answers:
        return Facts(language_of(last_question(example)))
    answer = answers[-1]
    words = len(answer.split(None, LONG_WORDS))
    return Facts(
        language_of(answer),
        answer_key(answer)
        if len(answers) == 1 and words >= LONG_WORDS and len(answer) >= LONG_LETTERS
        else None,
        words <= BRIEF_WORDS and len(answer) <= BRIEF_LETTERS,
        _is_placeholder(example, answer),
    )


def answer_key(answer: str) -> int:
    """Equal for answers that are equal but for case, compatible characters and white space."""
    return int.from_bytes(blake2b(normalise(answer).encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _is_placeholder(example: Example, answer: str) -> bool:
    """A placeholder that the question does not offer, nor makes a plausible answer."""
    if not is_placeholder(answer):
        return False
    question = asked(example)
    meant = answer.strip().lower().rstrip(".") in _REAL_WORDS and _WORD_MAY_BE_MEANT.search(question)
    return not meant and not is_offered(question, answer)


def counted(facts: Iterable[Facts]) -> Counts:
    """The counts of some rows."""
    counts = Counts()
    for row in facts:
        if row.language is not None:
            counts.languages[row.language] += 1
        if row.answer is not None:
            counts.answers[row.answer] += 1
        counts.answered += row.brief is not None
        counts.brief += bool(row.brief)
    return counts


def decide(counts: Counts, settings: CleanSettings) -> Found:
    """What the file is, from the counts of all its rows."""
    boilerplate = frozenset(key for key, rows in counts.answers.items() if rows >= settings.boilerplate)
    labels = counts.brief >= LABELS_SHARE * counts.answered
    return Found(_expected(counts.languages, settings), boilerplate, labels)


def _is_foreign(example: Example, found: Found) -> bool:
    """Whether the question does not explain the language of the answer: no task of translation."""
    return language_of(last_question(example)) != found.language and not _LANGUAGES.search(asked(example))


def _expected(languages: Counter[str], settings: CleanSettings) -> str | None:
    if settings.language != "majority":
        return None if settings.language == "any" else settings.language
    sure = sum(languages.values())
    top = max(languages, key=lambda code: (languages[code], code), default=None)
    return top if top and sure >= MAJORITY_ROWS and languages[top] >= MAJORITY * sure else None


def judge(example: Example, facts: Facts, found: Found, settings: CleanSettings) -> Outcome:
    """What the whole file says about one row, whose ``facts`` were taken before."""
    met: list[Change] = []
    if facts.placeholder and not found.labels:
        met.append(("placeholder_answer", "the last answer only holds the place of one"))
    if facts.answer is not None and facts.answer in found.boilerplate:
        met.append(("boilerplate_answer", f"at least {settings.boilerplate} rows have this answer"))
    if found.language and facts.language and found.language != facts.language and _is_foreign(example, found):
        met.append(("wrong_language", f"{facts.language}, expected {found.language}"))
    notes = []
    for name, detail in met:
        step = settings.step(name)
        if step == "drop":
            return Drop(name, detail)
        if step == "note":
            notes.append((name, detail))
    return Keep(example, notes=tuple(notes))
