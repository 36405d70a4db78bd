"""Loops: a text that says the same again and again, as models and broken exports do."""

from __future__ import annotations

import re
from typing import NamedTuple

from tunewright.data.clean.code import outside_code

WINDOW, FEW_WORDS = 8, 40
LONG_UNIT, LONG_TIMES = 4, 3  # a unit of four words or more is a loop the third time,
SHORT_TIMES = 8  # a shorter one the eighth
TWICE_WORDS = 20  # a whole text said just twice, if it has so many words
PROBE = 32  # characters of the beginning and of the end that are looked for elsewhere
LONG_PIECE = 8
_WORD = re.compile(r"\S+")
_PIECE = re.compile(r"[^.!?。！？\n]++[.!?。！？]*+[\s]*+|[.!?。！？]++[\s]*+|\s++")
_SENTENCE_ENDS = (". ", "\n", "! ", "? ")
_ENDED = tuple(".!?…。！？\"”’')]»`*|:")
_ASKED_FOR = re.compile(
    r"\brepeat|\btimes\b|\bsongs?\b|\blyrics?\b|\bpoems?\b|\bpoetry\b|\bchant|\bmantra|\brefrain|\bchorus"
    r"|\brap\b|\bloop|\bprayer|\bverse|\bwrite out|\bpattern|\bsequence|\bhaiku|\bsonnet|\brhyme|\bsing\b"
    r"|wiederhol|\blied\b|gedicht|chanson|canci[oó]n",
    re.IGNORECASE,
)


class Cut(NamedTuple):
    """``text`` up to the end of the first time; ``whole`` if it is a text that ends."""

    text: str
    whole: bool


def may_repeat(question: str) -> bool:
    """Whether a question asks for something that repeats itself: a song, a poem, a line ten times."""
    return _ASKED_FOR.search(question) is not None


def repeats_itself(text: str) -> bool:
    """More than half of the 8-word windows of a text (of 40 words or more) occur elsewhere in it."""
    words = text.split()
    if len(words) < FEW_WORDS:
        return False
    windows = [tuple(words[i : i + WINDOW]) for i in range(len(words) - WINDOW + 1)]
    return len(set(windows)) * 2 < len(windows)


def without_loops(text: str) -> Cut:
    """Loops at the end and runs of one sentence or line cut back to the first time; code stays.

    A text that is nothing but one thing said several times is whole when cut. One that runs into a loop and
    never comes out is whole only if what remains ends like a sentence.
    """
    if not _is_suspect(text):
        return Cut(text, True)
    whole = True

    def cut(prose: str) -> str:
        nonlocal whole
        found = _tail_cut(prose)
        whole = found.whole
        return _runs_cut(found.text)

    changed = outside_code(text, cut)
    return Cut(changed, whole or changed == text)


def _is_suspect(text: str) -> bool:
    """A quick look that no loop passes: its beginning, its end or one of its sentences stands in it twice."""
    if len(text) < 2 * PROBE:
        return (
            len(text) >= 16 and len(words := text.split()) >= SHORT_TIMES and len(set(words)) * 3 < len(words)
        )
    bare = text.strip()
    if bare.find(bare[:PROBE], 1) > 0 or bare.find(bare[-PROBE:]) < len(bare) - PROBE:
        return True
    for mark in _SENTENCE_ENDS if text.isascii() else (*_SENTENCE_ENDS, "。"):
        if mark in text:
            pieces = text.split(mark)
            if len(set(pieces)) < len(pieces):
                long = [piece for piece in pieces if len(piece) >= LONG_PIECE]
                if len(set(long)) < len(long):
                    return True
    return False


def _tail_cut(text: str) -> Cut:
    """``text`` cut after the first round of the loop that it ends in."""
    places = [match.span() for match in _WORD.finditer(text)]
    words = [text[a:b] for a, b in places]
    period, length = _tail_loop(words)
    if not period:
        return Cut(text, True)
    count = len(words)
    end = places[count - length + period - 1][1]
    kept = text[:end]
    if length == count and count % period == 0:
        return Cut(kept, True)
    return Cut(kept, kept.endswith(_ENDED))


def _tail_loop(words: list[str]) -> tuple[int, int]:
    """``(period, words)`` of the longest end of ``words`` that is a loop; ``(0, 0)`` without one.

    The failure function of Knuth, Morris and Pratt over the words from last to first: the shortest period
    of a prefix is its length less that of its longest border. Linear in the number of words.
    """
    back = words[::-1]
    border = [0] * (len(back) + 1)
    period = length = 0
    matched = 0
    for size in range(2, len(back) + 1):
        word = back[size - 1]
        while matched and back[matched] != word:
            matched = border[matched]
        if back[matched] == word:
            matched += 1
        border[size] = matched
        unit = size - matched
        if matched and _is_loop(back, unit, size):
            period, length = unit, size
    return period, length


def _is_loop(back: list[str], unit: int, size: int) -> bool:
    if unit < LONG_UNIT:
        enough = size >= SHORT_TIMES * unit
    else:
        enough = size >= LONG_TIMES * unit or (size == len(back) and size == 2 * unit and unit >= TWICE_WORDS)
    return enough and any(_speaks(word) for word in back[:unit])


def _speaks(word: str) -> bool:
    """Words, not numbers or rules of a table."""
    return sum(map(str.isalpha, word)) >= 2


def _runs_cut(text: str) -> str:
    """Sentences or lines said three times or more in a row, said once."""
    pieces = _PIECE.findall(text)
    kept: list[str] = []
    start = 0
    while start < len(pieces):
        end = start + 1
        said = pieces[start].strip()
        while end < len(pieces) and pieces[end].strip() == said:
            end += 1
        words = said.split()
        times = LONG_TIMES if len(words) >= LONG_UNIT else SHORT_TIMES
        loop = end - start >= times and any(map(_speaks, words))
        kept += pieces[end - 1 : end] if loop else pieces[start:end]
        start = end
    return "".join(kept)
