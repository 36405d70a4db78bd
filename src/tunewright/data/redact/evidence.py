"""What speaks for a run of capitals being a person, and what against it, as numbers that are added up."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunewright.data.redact.name_words import (
    AFTER,
    AMBIGUOUS,
    CALLED_AFTER,
    EPONYMS,
    MEDIUM,
    STRONG,
    SUFFIXES,
    TITLES,
    like_a_surname,
    ordinary,
)
from tunewright.data.redact.runs import Run
from tunewright.data.redact.wordlists import family_names, given_names

_TITLE = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(t) for t in TITLES)})\.? {{0,2}}$")
MOST_WORDS = 5


def own_words(run: Run) -> list[str]:
    """The words of a run without initials and what stands behind names (MD, Jr)."""
    return [w for w in run.words if len(w) > 1 and w not in SUFFIXES]


def support(text: str, lower: str, run: Run, label: str | None) -> float:
    """The sum of what speaks for a name; below 0 if it cannot be one. ``label`` is what the model says."""
    names = own_words(run)
    if not names or len(names) > MOST_WORDS:
        return -1.0
    known = [w in given_names() for w in names]
    sure_given = known[0] and names[0] not in AMBIGUOUS
    # the model often takes a foreign name for a firm or a town; that it saw anything still supports a
    # known one
    score = _shape(run, names) + {"PERSON": 0.5, None: 0.0}.get(label, 0.2 if sure_given else -0.05)
    if known[0]:
        score += 0.5 if sure_given else 0.15
    elif any(known):
        score += 0.2
    return score + _context(text, lower, run) + _line(text, run, names)


def _shape(run: Run, names: Sequence[str]) -> float:
    """Two to four words, an initial, an ending of family names, letters that English lacks."""
    score = 0.2 if len(names) > 1 else 0.0
    if len(run.words) > len(names) > 1:
        score += 0.3 if len(run.words[1]) == 1 else 0.15
    # a family name alone is as often a firm, a place or a thing that is called after somebody
    if like_a_surname(names[-1]) or (len(names) > 1 and names[-1] in family_names()):
        score += 0.2
    if any(not w.isascii() for w in names):
        score += 0.15
    return score


def _context(text: str, lower: str, run: Run) -> float:
    """The words just before and behind."""
    before, behind = lower[max(0, run.start - 48) : run.start], text[run.end : run.end + 32]
    score = 0.3 if AFTER.match(behind) else 0.0
    if may_end_in_cue(before):
        greeted = behind[:1] in (",", "!", "\n") and _GREETING.search(before)
        if greeted or _TITLE.search(before) or STRONG.search(before):
            return 0.72 + score
        if MEDIUM.search(before):
            return 0.35 + score
    return 0.2 + score if behind[:1] == ":" and _SPEAKER.search(before) else score


_GREETING = re.compile(
    r"(?:^|[\s\"'(])(?:hi|hello|hey|dear|good (?:morning|afternoon|evening)|hallo|bonjour|hola|ciao"
    r"|liebe|lieber|cher|chère|querido|querida) $"
)
_SPEAKER = re.compile(r"(?:^|\n)[\s>\"]{0,4}$")
_LETTERS = re.compile(r"[^\W\d_]+")
_LAST_REACH = 26  # code points that hold the last word of a cue and what may stand behind it
CUES = (_TITLE, STRONG, MEDIUM, _GREETING)
_CUE_WORDS = frozenset(
    word for cue in CUES for word in _LETTERS.findall(re.sub(r"\\[a-z]", " ", cue.pattern))
)


def may_end_in_cue(before: str) -> bool:
    """Whether the last word is one that a cue ends with: far cheaper than the cues, never wrongly false."""
    last = _LETTERS.findall(before[-_LAST_REACH:])
    return bool(last) and (last[-1] in _CUE_WORDS or last[-1].endswith("name") or "name on " in before)


def _line(text: str, run: Run, names: Sequence[str]) -> float:
    """A line of its own above an address or a number, as in a letter or a signature."""
    if not 2 <= len(names) <= 4:
        return 0.0
    start = text.rfind("\n", 0, run.start) + 1
    if text[start : run.start].strip(" \t>?*-") or not _LETTER_HEAD.match(text, run.end):
        return 0.0
    return 0.55


_LETTER_HEAD = re.compile(
    r"[ \t]*\n[\s>?]{0,8}(?:[^\n]{1,60}\n[\s>?]{0,8}){0,2}(?:\d{1,6} |\+?\(?\d{2}|PSC|Unit \d|PO Box"
    r"|Phone|Tel)"
)


def doubt(text: str, run: Run) -> float:
    """What speaks against a name: diseases, places and firms called after people, headings, plain words."""
    names, behind = own_words(run), text[run.end : run.end + 32]
    total = 0.0
    follows = _FOLLOWS.match(behind)
    if (follows and follows.group(1).lower() in CALLED_AFTER) or names[-1] in CALLED_AFTER:
        total += 0.6
    if any(w in EPONYMS for w in names):
        total += 0.4
    if len(names) == 1 and "-" in names[0]:
        total += 0.2
    plain = sum(ordinary(w) for w in names)
    if plain:
        total += 0.35 + 0.35 * (plain == len(names) or ordinary(names[-1]))
    if any(_in_lower_case(text, w) for w in names):  # then it is a word, not a name
        total += 0.4
    if text[run.start : run.end].isupper() and run.end - run.start > 2:
        total += 0.45 if len(names) == 1 and not text.isupper() else 0.15
    if _HOUSE_NUMBER.search(text, max(0, run.start - 7), run.start) or _NUMBER_BEHIND.match(behind):
        total += 0.3
    return total


_FOLLOWS = re.compile(r"(?:['’]s)?[ -]([A-Za-z]+)")
_HOUSE_NUMBER = re.compile(r"\d[a-z]? $")
_NUMBER_BEHIND = re.compile(r" \d")


def _in_lower_case(text: str, word: str) -> bool:
    """Whether ``word`` stands in ``text`` in lower case, as a word of three letters or more."""
    if word not in text or len(word) < 3 or not "a" <= word[0] <= "z" or not word.isalpha():
        return False
    return re.search(rf"(?<!\w){re.escape(word)}(?![^\W\d_])", text) is not None
