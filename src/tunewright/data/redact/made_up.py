"""Names of people, streets and firms that are made up from parts: 256 given and 8,192 family names."""

from __future__ import annotations

from tunewright.data.redact.draw import Draw

_GIVEN_STARTS = "Ar Bel Cal Dor El Fen Gal Hal Is Jor Kel Lor Mar Nol Or Per".split()
_GIVEN_ENDS = "a an as el en ena et ia ian ien in is ita o on yn".split()
_FAMILY_STARTS = (
    "Ash Ald Alder Ames Apple Arm Bar Bay Beck Bell Birch Black Blake Bram Brent Brook Brown Burn Byrd Cald"
    " Camp Carl Chester Clare Clay Cliff Cold Cole Con Cope Cran Cress Crow Dal Dan Dar Dean Deer Den Dray"
    " Dun East Eld Elm Ever Fair Farn Fern Finch Flint Ford Fox Frost Gar Gates Glen Gold Green Grims Hale"
    " Ham Har Hart Haw Hazel Heath Hemp Hen High Hol Horn Hunt Ing Iron Kel Ken King Kirk Knigh Lam Lang"
    " Lark Lay Leigh Lind Long Lynd Mal Maple Mars Mead Mel Mill Moor Nether New Nor North Oak Old Os Pem"
    " Pen Pine Quill Rad Raven Red Ridge Rock Rose Row Rush Sand Shel Silver Stan Stone Swan Thorn Wake"
    " Wal War Wells West Whit"
).split()[:128]
_FAMILY_ENDS = (
    "acre bank beck berry borne bourne bridge brook burgh burn bury by castle church cliff combe cot cote"
    " cott cross dale den don down ey fell field fold ford gate gill grave grove ham head hill holm hope hurst"
    " kirk lake land ley low man mead mere mond more ney ridge rick shaw side smith stead stoke stone ton"
    " wall ward water well wick wood worth"
).split()[:64]
_KINDS_OF_FIRM = "Works Trading Services Supplies Partners Goods Studio Holdings".split()
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
