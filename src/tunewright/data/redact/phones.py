"""Telephone numbers: their shape, what ``phonenumbers`` says of them, and the words around them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunewright.data.redact.findings import Finding
from tunewright.data.redact.local_phones import local_score
from tunewright.data.redact.nearby import after, before, counts_things, cue

_SHAPE = re.compile(
    r"(?<![\w./+=#-])(?<!\d )(?<!\d[,:])"
    r"(?:\+|00(?=[1-9]))?(?:\(0?\d{1,5}\)|\d{1,15})(?:(?:[ .-]|\)? ?\(| ?/ ?|\) ?| - ?"
    r"|(?<=\)))(?:\d{1,15})\)?){0,7}"
    r"(?![A-WYZa-wyz_]|[xX]\D|\d|[./:-]\d|%)"
)
_EXTENSION = re.compile(r" ?(?:,? ?(?:ext|extension|x)\.? ?)\d{1,6}(?!\w)", re.I)
_NANP = re.compile(r"(?:\+?1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}")
_DATE = re.compile(r"(?:19|20)\d\d[ ./-]\d{1,2}[ ./-]\d{1,2}|\d{1,2}[ ./-]\d{1,2}[ ./-](?:19|20)\d\d")
_YEARS = re.compile(r"(?:1[5-9]|20)\d\d ?[ /-] ?(?:1[5-9]|20)\d\d")
_CODE = re.compile(r"\d{5}-\d{4}|\d+\.\d+|97[89][ -][\d -]+|\d{1,3}(?: \d{3})+|\d{1,3}(?:\.\d{3})+")
_WORDS = cue(
    [
        r"(?:tele)?phones?(?: ?(?:no|number|nr|#))?",
        r"tel(?:\.|efon(?:o|u|nummer|szám|ní)?|éfono|éphone|efone)?",
        r"mobiles?(?: number)?",
        r"mob",
        r"cell(?:phone|ular)?",
        r"fax",
        r"call(?:ed|ing|s)?(?: me| us| him| her| them| back)?",
        r"contact(?: me| us| number)?",
        r"reach(?:ed|able)?(?: me| us| him| her| them)?",
        r"whats?app",
        r"text(?: me| us)?",
        r"sms",
        r"dial(?:l?ed)?",
        r"ring(?: me)?",
        r"hotline",
        r"toll[- ]free",
        r"helpline",
        r"voicemail",
        r"(?:my|his|her|their|our|your) (?:new |old |home |work |direct )?(?:number|line|registered)",
        r"desk",
        r"office",
        r"handy(?:nummer)?",
        r"rufnummer",
        r"portable",
        r"móvil",
        r"celular",
        r"cellulare",
        r"komórka",
        r"puhelin",
        r"telefoon",
        r"ruf(?:en)? (?:sie )?(?:mich )?(?:an)?",
        r"appelez(?:-moi)?(?: au)?",
        r"llám[ae](?:me|nos)?(?: al)?",
        r"matkapuhelin",
        r"sími",
    ]
)
_AFTER = re.compile(r"^[\s,(\\-]{0,4}(?:office|fax|mobile|cell|home|work|desk|direct|tel|phone|whatsapp)\b")
_NAMED = re.compile(_WORDS.pattern + r"[\s.:#]{0,3}(?:is|at|on|:)?[\s:]{0,2}$")  # nothing but that between
MIN_DIGITS, MAX_DIGITS = 7, 15


def phones(text: str, regions: tuple[str, ...]) -> Iterator[Finding]:
    """Numbers of 7 to 15 digits that look like, are valid as, or are called a telephone number."""
    for match in _SHAPE.finditer(text):
        value = match.group().rstrip()
        digits = sum(c.isdigit() for c in value)
        if not MIN_DIGITS <= digits <= MAX_DIGITS or value.count("(") != value.count(")"):
            continue
        end = match.start() + len(value)
        score = _score(text, match.start(), end, regions)
        if score:
            more = _EXTENSION.match(text, end)
            yield Finding(match.start(), more.end() if more else end, "PHONE", score)


def _score(text: str, start: int, end: int, regions: tuple[str, ...]) -> float:
    value = text[start:end]
    if _DATE.fullmatch(value) or _YEARS.fullmatch(value):
        return 0.0
    words = before(text, start, 40)
    named = _AFTER.match(after(text, end)) or _NAMED.search(words)
    called = named or _WORDS.search(words)
    if not called and counts_things(text, start):
        return 0.0
    spoken = len(re.findall(r"\d+", value)) >= 2
    if value[0] == "+" or (value[:2] == "00" and spoken):
        possible, valid = _judged(value, None)
        return 0.97 if valid else 0.85 if possible or called else 0.5
    if _NANP.fullmatch(value):
        plausible = value.lstrip("+1 .-(")[:1] not in "01"
        return 0.9 if called else 0.75 if plausible or "(" in value else 0.5
    if called:
        return (
            0.85 if named or spoken or value[0] in "0(" or any(_judged(value, r)[1] for r in regions) else 0.6
        )
    if not spoken:
        return 0.0
    if local := local_score(text, start, end):
        return local
    if _CODE.fullmatch(value):
        return 0.0
    return 0.5 if any(_judged(value, region)[1] for region in regions) else 0.0


def _judged(value: str, region: str | None) -> tuple[bool, bool]:
    """Possible and valid, by the numbering plan of ``region`` (``None``: that of the number's own code)."""
    import phonenumbers

    if value.startswith("00"):
        value = "+" + value[2:]
    try:
        number = phonenumbers.parse(value, region)
    except phonenumbers.NumberParseException:
        return False, False
    return phonenumbers.is_possible_number(number), phonenumbers.is_valid_number(number)
