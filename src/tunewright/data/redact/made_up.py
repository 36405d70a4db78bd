"""Names of people, streets and firms that are made up from parts: 256 given and 8,192 family names."""

from __future__ import annotations

from tunewright.data.redact.draw import Draw
from tunewright.data.redact.wordlists import words

_GIVEN_STARTS, _GIVEN_ENDS = words("given_starts"), words("given_ends")
_FAMILY_STARTS, _FAMILY_ENDS = words("family_starts"), words("family_ends")
_KINDS_OF_FIRM = words("firms")
FAMILIES = len(_FAMILY_STARTS) * len(_FAMILY_ENDS)
GIVEN = len(_GIVEN_STARTS) * len(_GIVEN_ENDS)


def given_name(draw: Draw) -> str:
    """One of 256."""
    return _GIVEN_STARTS[draw.below(len(_GIVEN_STARTS))] + _GIVEN_ENDS[draw.below(len(_GIVEN_ENDS))]


def family_name(draw: Draw) -> str:
    """One of 8,192."""
    return _FAMILY_STARTS[draw.below(len(_FAMILY_STARTS))] + _FAMILY_ENDS[draw.below(len(_FAMILY_ENDS))]


def full_name(draw: Draw) -> tuple[str, str]:
    """Given and family name: one of some two million pairs."""
    return given_name(draw), family_name(draw)


def street(draw: Draw, value: str) -> str:
    """A house number and a street; a flat where there was one."""
    flat = any(word in value.lower() for word in ("apt", "apartment", "suite", "unit", "flat"))
    made = f"{draw.below(899) + 100} {family_name(draw)} Street"
    return f"{made} Apt. {draw.below(89) + 10}" if flat else made


def firm(draw: Draw, value: str) -> str:
    """``Ashford Trading``"""
    return f"{family_name(draw)} {_KINDS_OF_FIRM[draw.below(len(_KINDS_OF_FIRM))]}"
