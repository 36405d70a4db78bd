"""Answers that give nothing: placeholders, copies of the question, another subject, half a text."""

from __future__ import annotations

import re

_SINGLE_WORDS = """
    n/a na n.a. n.a none null nil nan todo tbd tba tbc xxx - -- --- . .. ... … ? ?? ??? _ empty undefined #n/a
    #value! unknown [empty] (empty) <empty> [none] (none) <none> [null] <null> [blank] (blank) <blank>
    [removed] [deleted] nothing placeholder
"""
PLACEHOLDERS = frozenset(_SINGLE_WORDS.split()) | {
    "lorem ipsum",
    "no answer",
    "no response",
    "no output",
    "not available",
    "not applicable",
    "to be done",
}
_WITHOUT_STOP = frozenset(word.rstrip(".") for word in PLACEHOLDERS)
COPY_WORDS = 5  # a question shorter than this may well be answered by its own words
LONG_INPUT, LONG_ANSWER = 400, 100  # characters from which an answer should share a word with its input
CONTENT_LETTERS = 5
BREAK_WORDS = 10  # an answer of fewer words may end as it likes
_FENCE = re.compile(r"^[ \t]{0,12}```", re.MULTILINE)
_WORD = re.compile(r"[^\W\d_]+")
_ENDS = frozenset(".!?…:;。！？|)]}>\"'”’»`*_~#%$€£°0123456789")
_ARTICLES_AND_CONJUNCTIONS = """
    the a an and or but of because which whose your my their our its if than nor der die das und oder ein
    eine einen weil dass le la les un une des et ou du de que el los las una y o del il lo gli e di che os
    as um uma do da het een en
"""
_NEVER_LAST = frozenset(_ARTICLES_AND_CONJUNCTIONS.split())
_ECHO = re.compile(
    r"repeat|echo|copy|verbatim|correct|fix|proofread|grammar|rewrite|translate|format|capitali|punctuat",
    re.IGNORECASE,
)


def is_placeholder(text: str) -> bool:
    """Whether a text only stands where an answer should be (N/A, none, TODO, …)."""
    return len(text) <= 24 and text.strip().lower().rstrip(".") in _WITHOUT_STOP


def is_offered(question: str, answer: str) -> bool:
    """Whether the question names the answer as one to give (``… or answer N/A``)."""
    word = re.escape(answer.strip().strip("."))
    return bool(word) and re.search(rf"(?<!\w){word}(?!\w)", question, re.I) is not None


def copies(question: str, answer: str) -> bool:
    """Whether an answer is the question again, but for case, signs and white space."""
    if not question or abs(len(question) - len(answer)) > 8 + len(question) // 8:
        return False
    words = _WORD.findall(question.casefold())
    if len(words) < COPY_WORDS or words != _WORD.findall(answer.casefold()):
        return False
    return _numbers(question) == _numbers(answer) and not _ECHO.search(question)


def shares_nothing(question: str, answer: str) -> bool:
    """Whether a long answer has not one word of a long input it is asked about, both in one alphabet."""
    if len(question) < LONG_INPUT or len(answer) < LONG_ANSWER:
        return False
    known = question.casefold()
    words = [w.casefold() for w in _WORD.findall(answer) if len(w) >= CONTENT_LETTERS]
    if len(words) < 10 or any(word in known for word in words) or any(n in known for n in _numbers(answer)):
        return False
    return question.isascii() and answer.isascii() and "```" not in answer


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def breaks_off(text: str) -> bool:
    """Whether an answer stops in mid word or mid sentence, as one does that met a limit on its length."""
    bare = text.rstrip()
    if "```" in bare and len(_FENCE.findall(bare)) % 2:
        return True
    if not bare or bare[-1] in _ENDS:
        return False
    tail = bare[-200:]
    words = _WORD.findall(tail)
    if len(words) < BREAK_WORDS:
        return False
    if bare[-1] in ",(–":
        return True
    last = words[-1]
    if last in _NEVER_LAST and bare.endswith(last):
        return True
    return len(last) >= 4 and last.islower() and bare.endswith(last) and _is_half(last, bare)


def _is_half(last: str, text: str) -> bool:
    """Whether the last word stands nowhere else in the text while longer words begin with it."""
    before = text[: -len(last)]
    if re.search(rf"(?<!\w){last}(?!\w)", before):
        return False
    longer = re.findall(rf"(?<!\w){last}(\w{{3,}})", before)
    return bool(longer) and all(not ending.startswith(("s", "ed", "ing", "ly", "er")) for ending in longer)
