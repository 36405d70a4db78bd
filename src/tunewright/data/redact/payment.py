"""Card numbers and bank accounts: a checksum, a length that the issuer uses, and the words around them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunewright.data.redact.findings import Finding
from tunewright.data.redact.nearby import before, counts_things, cue

_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){11,18}(?![\w]|[.-]\d)")
_CARD_WORDS = cue(
    [
        r"cards?",
        r"credit ?cards?",
        r"debit",
        r"visa",
        r"mastercard",
        r"master card",
        r"amex",
        r"american express",
        r"maestro",
        r"discover",
        r"diners",
        r"jcb",
        r"cc",
        r"pan",
        r"charge(?:d)?(?: it)?(?: to)?",
        r"card (?:no|number|num)",
        r"kreditkarte(?:nnummer)?",
        r"karte",
        r"carte(?: bancaire)?",
        r"tarjeta",
        r"carta di credito",
        r"cartão",
        r"karta",
    ]
)


def luhn(digits: str) -> bool:
    """The checksum of ISO/IEC 7812: every second digit from the right doubled, the sum ends in 0."""
    total = 0
    for i, c in enumerate(reversed(digits)):
        d = int(c) * (1 + i % 2)
        total += d - 9 if d > 9 else d
    return total % 10 == 0


def issued(digits: str) -> bool:
    """Whether a scheme issues numbers with this beginning and length."""
    n, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    if digits[0] == "4":
        return n in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return n == 16
    if two in (34, 37):
        return n == 15
    if 300 <= three <= 305 or three == 309 or two in (36, 38, 39):
        return 14 <= n <= 19
    if four == 6011 or 644 <= three <= 649 or two == 65 or two == 62 or two == 60:
        return 16 <= n <= 19
    if four in (1800, 2131):
        return n == 15
    if 3528 <= four <= 3589:
        return 16 <= n <= 19
    return False


def cards(text: str) -> Iterator[Finding]:
    """Numbers of 12 to 19 digits that pass the checksum and are issued, or that are called a card."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match.group())
        if not luhn(digits) or len(set(digits)) < 2:
            continue
        words = before(text, match.start(), 60)
        called = _CARD_WORDS.search(words) is not None
        grouped = re.fullmatch(r"\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}", match.group())
        plain = match.group().isdigit()
        if not (grouped or plain or called):
            continue
        if issued(digits):
            score = 0.98 if called else 0.45 if counts_things(text, match.start()) else 0.85
        else:
            score = 0.85 if called else 0.0
        if score:
            yield Finding(*match.span(), "CREDIT_CARD", score)


# Country -> characters of its IBAN (the register of ISO 13616).
IBAN_LENGTHS = {
    code: int(length)
    for length, codes in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for code in codes.split()
}
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2})\d{2}(?=[ -]?[A-Za-z0-9])")


def ibans(text: str) -> Iterator[Finding]:
    """Account numbers of the length of their country whose remainder by 97 is 1."""
    for match in _IBAN_START.finditer(text):
        length = IBAN_LENGTHS.get(match.group(1).upper())
        end = _end_of(text, match.start(), length) if length else 0
        if end and iban_remainder(re.sub("[ -]", "", text[match.start() : end])) == 1:
            yield Finding(match.start(), end, "IBAN", 0.98)


def _end_of(text: str, start: int, length: int) -> int:
    """Where ``length`` letters and digits end, single spaces and dashes between them left out; 0 if not."""
    count, i = 0, start
    while i < len(text) and count < length:
        c = text[i]
        if c.isascii() and c.isalnum():
            count += 1
        elif c not in " -" or text[i - 1] in " -":
            return 0
        i += 1
    whole = count == length and (i == len(text) or not text[i].isalnum())
    return i if whole else 0


def iban_remainder(value: str) -> int:
    """ISO 7064 mod 97-10 of an IBAN without spaces; 1 for a valid one."""
    moved = (value[4:] + value[:4]).upper()
    return int("".join(str(int(c, 36)) for c in moved)) % 97
