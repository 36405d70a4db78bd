"""Local telephone numbers of many countries that no word announces: their grouping has to speak for them."""

from __future__ import annotations

import re
from itertools import pairwise

from tunewright.data.redact.nearby import before
from tunewright.data.redact.wordlists import words

# Where a number without a country code may come from, beyond the countries that the settings name.
REGIONS = words("phone_regions")
# The zero that is dialled before the number of an area, and two or more groups behind it.
_ZERO = re.compile(r"\(?0[1-9]\d{0,3}(?:\) ?| ?/ ?|[ .-])\d{2,5}(?:([ .-])\d{2,5}(?:\1\d{2,5}){0,2})")
_PAIRS = re.compile(r"\d\d(?:\D\d\d)+")
_THOUSANDS = re.compile(r"\d{1,3}(?:[ .]\d{3})+")
_DATE_FIRST = re.compile(r"\d{1,2}([ ./-])\d{1,2}\1(?:19|20)\d\d|(?:19|20)\d\d")
_REACHED = re.compile(r"(?:^|\s)(?:at|on|under|via|by|auf|unter|au|al|no)\s$")
MIN_DIGITS, MAX_DIGITS = 8, 11


def local_score(text: str, start: int, end: int) -> float:
    """How sure it is that the grouped number ``text[start:end]`` is one of a telephone, by its form alone.

    A zero before the area and three groups that some country uses are enough. Without the zero the groups
    have to be those in which a country writes its numbers, behind a word such as *at* or *on*.
    """
    value = text[start:end]
    groups = re.findall(r"\d+", value)
    digits = "".join(groups)
    if not MIN_DIGITS <= len(digits) <= MAX_DIGITS or _DATE_FIRST.match(value) or _counting(groups):
        return 0.0
    if _ZERO.fullmatch(value) and len(digits) > MIN_DIGITS:
        used = any(_groups_of(digits, region) for region in REGIONS)
        return (0.5 if _PAIRS.fullmatch(value) else 0.75) if used else 0.0
    if value[0] in "0(" or not _REACHED.search(before(text, start, 8)):
        return 0.0
    if not any(_groups_of(digits, region) == groups for region in REGIONS):
        return 0.0
    return 0.5 if _THOUSANDS.fullmatch(value) else 0.72


def _counting(groups: list[str]) -> bool:
    """Whether the groups are numbers in a row: 01 02 03 04 05."""
    numbers = [int(group) for group in groups]
    return len(numbers) > 2 and len({b - a for a, b in pairwise(numbers)}) == 1


def _groups_of(digits: str, region: str) -> list[str]:
    """The groups in which ``region`` writes this number of its own; none if it has no such number."""
    import phonenumbers

    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return []
    if not phonenumbers.is_valid_number_for_region(number, region):
        return []
    return re.findall(r"\d+", phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL))
