"""Whether a text says no more than another does: by numbers, names, negations and content words.

A cheap test, not a proof: it finds what was added, and cannot tell a sentence that has the right words in the
wrong order. Words are compared by a plain stem; a language without spaces by pairs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

SUPPORTED = 0.75  # share of the content words of an answer that its passage must have
KINSHIP = 0.2  # share of the content words of a rewritten text that the original must have
_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
_LEADS = " \t\r\"'“‘([*#-"  # may stand before the first word of a sentence
_FIXED = re.compile(
    r"`[^`]+`|https?://\S+|[\w.+-]+@[\w.-]+\.\w+|\[[A-Z_]{2,}\w*\]|\{\{?\w+\}?\}|<[A-Z_]{2,}\w*>"
)
_NUMBER_WORDS = {  # "one" is more often no number
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50",
    "sixty": "60", "hundred": "100",
}  # fmt: skip
_DENIALS = "no not never none nothing neither nor without cannot nobody nowhere"
_FORMS = """
a about after all also am an and any are as at be because been before being both but by can could did do does
doing done during each either for from had has have having he her here hers him his how i if in into is it its
just let may me might more most much must my of off on once one only or other our out over own per shall she
should so some such than that the their them then there these they this those through to too under until up
upon us use used uses using very was we were what when where whether which while who whom whose why will with
within would yes you your
"""
_NEGATIONS, _COMMON = frozenset(_DENIALS.split()), frozenset(_FORMS.split())


@dataclass(frozen=True, slots=True)
class Words:
    """What a text says: stems of its content words in order, its numbers, names and whether it denies."""

    content: tuple[str, ...]
    numbers: frozenset[str]
    names: frozenset[str]
    denies: bool


def words_of(text: str) -> Words:
    """The content of a text. A name is a word with a capital letter inside a sentence."""
    content: list[str] = []
    numbers: set[str] = set()
    names: set[str] = set()
    denies = False
    text = unicodedata.normalize("NFKC", text)
    for found in _TOKEN.finditer(text):
        token, low = found.group(), found.group().casefold()
        if token[0].isdigit() or low in _NUMBER_WORDS:
            numbers.add(_NUMBER_WORDS.get(low) or _number(token))
        elif low in _NEGATIONS or low.endswith(("n't", "n’t")):
            denies = True
        elif low not in _COMMON:
            stems = list(_stems(low))
            content += stems
            if token[0].isupper() and len(token) > 1 and _inside_sentence(text[: found.start()]):
                names.update(stems)
    return Words(tuple(content), frozenset(numbers), frozenset(names), denies)


def unsupported(question: str, answer: str, passage: str) -> str | None:
    """What of a question and its answer the passage does not say, in words; ``None`` if all is there.

    Words that the answer takes from the question count only where it has no others; numbers and names always
    do.
    """
    asked, said, known = words_of(question), words_of(answer), words_of(passage)
    have = frozenset(known.content)
    if extra := (asked.numbers | said.numbers) - known.numbers:
        return f"{len(extra)} number(s) that the passage does not have"
    if extra := (asked.names | said.names) - have:
        return f"{len(extra)} name(s) that the passage does not have"
    if said.denies and not known.denies:
        return "the answer denies something, and the passage nothing"
    own = [word for word in said.content if word not in frozenset(asked.content)] or said.content
    if not own and not said.numbers:
        return "the answer holds nothing that could be looked up in the passage"
    missing = sum(word not in have for word in own)
    if own and missing > (1 - SUPPORTED) * len(own):
        return f"{missing} of {len(own)} content words of the answer are not in the passage"
    return None


def fixed_parts(text: str) -> frozenset[str]:
    """What a paraphrase must keep as it is: numbers, code, addresses, placeholders."""
    return words_of(text).numbers | frozenset(_FIXED.findall(text))


def kinship(text: str, original: str) -> float:
    """The share of the content words of ``text`` that ``original`` has, too; 1 without any."""
    mine, have = words_of(text).content, frozenset(words_of(original).content)
    return sum(word in have for word in mine) / len(mine) if mine else 1.0


def says_the_same(text: str, original: str) -> bool:
    """Whether both have the same content words, numbers and negation, in whatever order."""
    first, second = words_of(text), words_of(original)
    return (frozenset(first.content), first.numbers, first.denies) == (
        frozenset(second.content),
        second.numbers,
        second.denies,
    )


def _inside_sentence(before: str) -> bool:
    lead = before.rstrip(_LEADS)
    return bool(lead) and lead[-1] not in ".!?:;…\n"


def _number(token: str) -> str:
    plain = token.replace(",", "") if _THOUSANDS.fullmatch(token) else token
    return plain.rstrip("0").rstrip(".") if "." in plain and plain.count(".") == 1 else plain


def _stems(word: str) -> Iterator[str]:
    if _UNSPACED.search(word):
        yield from (word[i : i + 2] for i in range(max(len(word) - 1, 1)))
    else:
        yield _stem(word)


def _stem(word: str) -> str:
    """A word without its commonest English endings; other languages lose little by it."""
    word = re.sub(r"['’]s?$", "", word)
    for ending, instead in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + instead
            break
    return word.removesuffix("e") if len(word) > 3 else word
