"""What stands in place of a value: a mask, or a pseudonym of the same form that means nobody.

A pseudonym depends on the key and the value alone, so it is the same wherever the value stands. Where a
range is reserved for documentation or tests, it lies there; otherwise it is made so that it cannot work.
"""

from __future__ import annotations

import re
from calendar import month_name
from collections.abc import Callable
from datetime import date, timedelta

from tunewright.data.redact.birth import MONTHS
from tunewright.data.redact.draw import Draw
from tunewright.data.redact.findings import SECRETS
from tunewright.data.redact.made_up import firm, full_name, street
from tunewright.data.redact.payment import iban_remainder, luhn


def mask(kind: str) -> str:
    """``[EMAIL]``: no character that JSON, HTML or a template would take for its own."""
    return f"[{kind}]"


def normal(kind: str, value: str) -> str:
    """The form in which two spellings of one value are the same."""
    folded = " ".join(value.casefold().split())
    if kind == "PERSON":
        words = [w.strip(".,") for w in folded.split()]
        return " ".join(words)
    if kind in ("PHONE", "CREDIT_CARD", "IBAN", "US_SSN", "NATIONAL_ID", "MAC_ADDRESS", "BANK_ACCOUNT"):
        digits = re.sub(r"[^0-9a-z]", "", folded)
        return digits.removeprefix("00") if kind == "PHONE" and digits.startswith("00") else digits
    return value if kind in SECRETS else folded


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """The value that replaces ``value`` (as folded); a mask for secrets, which need no form."""
    maker = _MAKERS.get(kind)
    if maker is None:
        return mask(kind)
    if kind == "DATE_OF_BIRTH":
        return _date(Draw(key, "shift"), value) or mask(kind)
    return maker(Draw(key, "pseudonym", kind, normal(kind, value)), value) or mask(kind)


def _email(draw: Draw, value: str) -> str:
    given, family = full_name(draw)
    return f"{given}.{family}{draw.below(10**5):05d}@example.com".lower()


def _phone(draw: Draw, value: str) -> str:
    """The grouping stays; North American numbers get 555-01xx, others 00 behind country code and zero."""
    digits = [c for c in value if c.isdigit()]
    national = len(digits) - 10 if re.search(r"\d{3}\D{0,2}\d{3}\D?\d{4}(?!\d)", value) else -1
    if national in (0, 1) and (national == 0 or digits[0] == "1"):
        new = f"{draw.below(8) + 2}{draw.below(100):02d}55501{draw.below(100):02d}"
        made = [*digits[:national], *new]
    else:
        fixed = _fixed_digits(value)
        made = digits[:fixed] + ["0", "0"] + [str(draw.below(10)) for _ in digits[fixed + 2 :]]
    rest = iter(made)
    return "".join(next(rest) if c.isdigit() else c for c in value)


def _fixed_digits(value: str) -> int:
    """How many digits are the country code or the zero before a national number."""
    if value.startswith(("+", "00")):
        code = re.match(r"(?:\+|00)(\d{1,3})", value)
        zeros = 2 if value.startswith("00") else 0
        return zeros + (min(2, len(code.group(1))) if code else 0)
    return 1 if value.lstrip("(").startswith("0") else 0


def _card(draw: Draw, value: str) -> str:
    """Beginnings that the schemes keep for tests, and a checksum that is right."""
    digits = [c for c in value if c.isdigit()]
    head = "370000" if len(digits) == 15 else "400000"
    made = head + "".join(str(draw.below(10)) for _ in range(len(digits) - 7))
    made += next(d for d in "0123456789" if luhn(made + d))
    rest = iter(made)
    return "".join(next(rest) if c.isdigit() else c for c in value)


def _iban(draw: Draw, value: str) -> str:
    """Country, length and grouping stay, letters become X, and the check digits are right."""
    letters = [c for c in value if c.isalnum()]
    country = "".join(letters[:2]).upper()
    body = "".join("X" if c.isalpha() else str(draw.below(10)) for c in letters[4:])
    made = f"{country}{98 - iban_remainder(f'{country}00{body}'):02d}{body}"
    if value.islower():
        made = made.lower()
    rest = iter(made)
    return "".join(next(rest) if c.isalnum() else c for c in value)


def _ssn(draw: Draw, value: str) -> str:
    """Area 900 and above with a group below 50, which is issued neither here nor as a tax number."""
    made = iter(f"{900 + draw.below(100)}{1 + draw.below(49):02d}{1 + draw.below(9999):04d}")
    return "".join(next(made) if c.isdigit() else c for c in value)


def _ip(draw: Draw, value: str) -> str:
    """The nets of RFC 5737 and RFC 3849, which are for documentation."""
    if ":" in value:
        return "2001:db8:" + ":".join(f"{draw.below(65535) + 1:x}" for _ in range(6))
    return f"{('192.0.2', '198.51.100', '203.0.113')[draw.below(3)]}.{draw.below(254) + 1}"


def _mac(draw: Draw, value: str) -> str:
    """A locally administered address: no maker gives it."""
    mark = value[2]
    made = mark.join(["02", *(f"{draw.below(256):02x}" for _ in range(5))])
    return made.upper() if value.upper() == value else made


def _person(draw: Draw, value: str) -> str:
    given, family = full_name(draw)
    return made_of_words(value, given, family)


def made_of_words(value: str, given: str, family: str) -> str:
    """As many words as in ``value``: given name, an initial or more in the middle, family name, title."""
    words = value.split()
    end = words.pop() if len(words) > 2 and words[-1].strip(".").lower() in _AFTER_NAME else None
    if len(words) == 1:
        made = [given]
    else:
        middle = [
            family[1:2].upper() + ("." if w.endswith(".") else "")
            for w in words[1:-1]
            if len(w.strip(".")) == 1
        ]
        made = [given, *middle, family]
    text = " ".join([*made, *([end] if end else [])])
    return text.lower() if value.islower() else text.upper() if value.isupper() and len(value) > 3 else text


_AFTER_NAME = frozenset(["md", "phd", "jr", "sr", "ii", "iii", "iv", "esq", "rn", "do", "dds"])
_NUMBERS = re.compile(r"\d+")
_LONG_MONTHS = list(month_name)[1:]


def shift_days(draw: Draw) -> int:
    """By how many days all dates move; one number for a key, so that distances stay."""
    return 180 + draw.below(1000)


def _date(draw: Draw, value: str) -> str | None:
    """The date moved back by the days of the key, written as before; ``None`` if it cannot be read."""
    numbers = [(m.start(), m.end(), int(m.group())) for m in _NUMBERS.finditer(value)]
    word = re.search(r"[^\W\d_]{3,}", value)
    try:
        if word and len(numbers) == 2 and word.group().lower() in MONTHS:
            month = MONTHS[word.group().lower()]
            old = date(numbers[1][2], month, numbers[0][2])
            new = old - timedelta(shift_days(draw))
            name = _LONG_MONTHS[new.month - 1]
            name = name[:3] if len(word.group()) == 3 and month != 5 else name
            pieces = {numbers[0][:2]: str(new.day), numbers[1][:2]: str(new.year), word.span(): name}
        elif len(numbers) == 3:
            order = _order([n for _, _, n in numbers], numbers[0][1] - numbers[0][0])
            parts = dict(zip(order, numbers, strict=True))
            short = parts["y"][1] - parts["y"][0] == 2
            year = parts["y"][2] + (1900 if short else 0)
            new = date(year, parts["m"][2], parts["d"][2]) - timedelta(shift_days(draw))
            written = {
                "y": f"{new.year % 100:02d}" if short else str(new.year),
                "m": str(new.month),
                "d": str(new.day),
            }
            padded = any(value[s:e].startswith("0") for s, e, _ in numbers) or "-" in value
            pieces = {
                (s, e): written[o].zfill(2) if padded and o != "y" else written[o]
                for o, (s, e, _) in parts.items()
            }
        else:
            return None
    except (ValueError, OverflowError):
        return None
    for (start, end), text in sorted(pieces.items(), reverse=True):
        value = value[:start] + text + value[end:]
    return re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", value)


def _order(numbers: list[int], first_width: int) -> str:
    """Which number is the year, the month and the day; month first where both could be."""
    if first_width == 4:
        return "ymd"
    return "dmy" if numbers[0] > 12 else "mdy"


_MAKERS: dict[str, Callable[[Draw, str], str | None]] = {
    "EMAIL": _email,
    "PHONE": _phone,
    "CREDIT_CARD": _card,
    "IBAN": _iban,
    "US_SSN": _ssn,
    "NATIONAL_ID": lambda draw, value: draw.alike(value),
    "PASSPORT": lambda draw, value: draw.alike(value),
    "DRIVER_LICENSE": lambda draw, value: draw.alike(value),
    "MEDICAL_LICENSE": lambda draw, value: draw.alike(value),
    "BANK_ACCOUNT": lambda draw, value: draw.alike(value),
    "CRYPTO": lambda draw, value: draw.alike(value),
    "DATE_OF_BIRTH": _date,
    "IP_ADDRESS": _ip,
    "MAC_ADDRESS": _mac,
    "STREET_ADDRESS": street,
    "PERSON": _person,
    "ORGANIZATION": firm,
}
