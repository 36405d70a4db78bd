"""Dates of birth: a date that stands where the words say that somebody was born."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunewright.data.redact.findings import Finding

# Month -> its number, in English and some neighbours; three letters are enough in English.
MONTHS = {
    name: number
    for number, names in enumerate(
        [
            "january jan januar janvier enero gennaio janeiro stycznia januari",
            "february feb februar février fevrier febrero febbraio fevereiro lutego februari",
            "march mar märz marz mars marzo março marca maart",
            "april apr avril abril aprile kwietnia",
            "may mai mayo maggio maio maja mei maj",
            "june jun juni juin junio giugno junho czerwca",
            "july jul juli juillet julio luglio julho lipca",
            "august aug août aout agosto sierpnia augusti augustus",
            "september sep sept septembre septiembre settembre setembro września",
            "october oct oktober octobre octubre ottobre outubro października",
            "november nov novembre noviembre novembro listopada",
            "december dec dezember décembre diciembre dicembre dezembro grudnia",
        ],
        start=1,
    )
    for name in names.split()
}
_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_D, _M, _Y = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:18|19|20)\d\d"
DATE = re.compile(
    rf"(?<![\w./-])(?:"
    rf"{_Y}([-/.])(?:{_M})\1(?:{_D})"
    rf"|(?:{_D})(?P<s>[-/.] ?)(?:{_M})(?P=s)(?:{_Y}|\d\d)"
    rf"|(?:{_M})(?P<u>[-/.])(?:{_D})(?P=u)(?:{_Y}|\d\d)"
    rf"|(?:{_D})(?:st|nd|rd|th|\.)?(?: (?:of|de|di))? ?[-/ ] ?(?:{_MONTH})\.?,?(?: (?:of|de"
    rf"|del))? ?[-/ ] ?(?:{_Y})"
    rf"|(?:{_MONTH})\.? (?:{_D})(?:st|nd|rd|th)?,? (?:{_Y})"
    rf"|{_Y} ?年 ?{_M} ?月 ?{_D} ?日"
    rf")(?![\w/-]|\.\d)",
    re.I,
)
WORDS = (
    "born", "birth", "dob", "d.o.b", "geboren", "geburt", "né le", "née le", "naissance", "nacid",
    "nacimiento",
    "nato il", "nata il", "nascita", "nascimento", "nascid", "urodz", "geboorte", "född", "født", "syntynyt",
    "birthday", "出生",
)  # fmt: skip
_CUE = re.compile("|".join(re.escape(word) for word in WORDS))
_NOT_A_PERSON = re.compile(r"\b(?:company|firm|organi[sz]ation|idea|city|band)\b")
REACH = 60  # code points between the word and the date


def birth_dates(text: str, lower: str) -> Iterator[Finding]:
    """Whole dates (a year alone is none) at most ``REACH`` behind a word about birth, in its sentence."""
    seen = -1
    for word in _CUE.finditer(lower):
        window = text[word.end() : word.end() + REACH + 24]
        match = DATE.search(window)
        if not match or match.start() > REACH:
            continue
        between = window[: match.start()]
        start = word.end() + match.start()
        if (
            start == seen
            or ("\n\n" in between)
            or _NOT_A_PERSON.search(lower[max(0, word.start() - 40) : start])
        ):
            continue
        seen = start
        far = re.search(r"[.!?]\s+[A-Z]", between) and not re.search(r"(?i)\b(?:it['’]?s|it is)\b", between)
        yield Finding(start, word.end() + match.end(), "DATE_OF_BIRTH", 0.5 if far else 0.92)
