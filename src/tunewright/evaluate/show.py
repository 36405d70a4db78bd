"""How values are shown to people: text made visible, numbers with fitting digits, differences between texts.

Everything here is a pure function of plain values; escaping for HTML stays with the template engine.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import NamedTuple

# Joiners that scripts and emoji need, and format characters that have a shape of their own.
_HARMLESS = {0x200C, 0x200D, *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
_HIDDEN_KINDS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_ORDINARY = re.compile(r"[\t\n\x20-\x7e]*")


def visible(text: str) -> str:
    """Replace control, bidirectional and other unseen characters by their name, as ``⟦U+202E⟧``.

    Tab and line feed stay. What data says must be what the reader sees, and lone surrogates cannot be
    written to a file at all.
    """
    text = text.replace("\r\n", "\n")
    if _ORDINARY.fullmatch(text):
        return text
    return "".join(f"⟦U+{ord(c):04X}⟧" if _is_hidden(c) else c for c in text)


def _is_hidden(character: str) -> bool:
    if character in "\t\n" or ord(character) in _HARMLESS:
        return False
    return unicodedata.category(character) in _HIDDEN_KINDS


def shortened(text: str, limit: int) -> tuple[str, int]:
    """The first ``limit`` characters, and how many were left out."""
    return text[:limit], max(0, len(text) - limit)


def decimals_for(unit: str, values: Iterable[float | None]) -> int:
    """Decimals that suit a group of values: one for percent, else enough for about three digits."""
    if unit == "%":
        return 1
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    return 3 if largest < 2 else 2 if largest < 100 else 1


def number(value: float | None, decimals: int = 0, *, sign: bool = False) -> str:
    """``1234.5`` as ``1,234.5`` with a true minus; ``None`` in words."""
    if value is None:
        return "not measured"
    text = f"{value:+,.{decimals}f}" if sign else f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def quantity(value: float | None, unit: str, decimals: int) -> str:
    """A number with its unit: ``41.7%``, ``12.3 ms``."""
    if value is None:
        return number(value)
    space = "" if unit in ("%", "") else " "
    return f"{number(value, decimals)}{space}{unit}"


def change(value: float | None, unit: str, decimals: int) -> str:
    """A difference with its sign; a difference of two percentages is in points."""
    if value is None:
        return number(value)
    suffix = " points" if unit == "%" else f" {unit}" if unit else ""
    return f"{number(value, decimals, sign=True)}{suffix}"


def interval(low: float | None, high: float | None, decimals: int, *, sign: bool = False) -> str:
    """``29.2 to 54.1``, or words if there is none."""
    if low is None or high is None:
        return "no interval"
    return f"{number(low, decimals, sign=sign)} to {number(high, decimals, sign=sign)}"


def p_value(p: float | None) -> str:
    """Three decimals, and never a zero that nobody measured."""
    if p is None:
        return "not tested"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """``95`` as ``1 min 35 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def megabytes(size: float) -> str:
    """``2400`` as ``2.40 GB`` (decimal prefixes)."""
    return f"{size / 1000:.2f} GB" if size >= 1000 else f"{size:.0f} MB"


def words_of(name: str) -> str:
    """``rows_in`` as ``Rows in``."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """With a capital at its start and one full stop at its end."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


class Piece(NamedTuple):
    """A stretch of an answer: ``same`` as the reference, ``added`` to it, or ``missing`` from it."""

    kind: str
    text: str


_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_COMMON_ENOUGH = 0.35
_DIFF_WORDS = 1500


def difference(reference: str, answer: str) -> list[Piece]:
    """How ``answer`` differs from ``reference``, word by word.

    Texts that share little (or are very long) come back as one ``other`` piece: a patchwork of chance
    matches would tell the reader nothing.
    """
    old, new = _WORD.findall(reference), _WORD.findall(answer)
    if max(len(old), len(new)) > _DIFF_WORDS:
        return [Piece("other", answer)]
    matcher = SequenceMatcher(str.isspace, old, new, autojunk=False)
    if answer != reference and matcher.ratio() < _COMMON_ENOUGH:
        return [Piece("other", answer)]
    pieces: list[Piece] = []
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        gone, come = "".join(old[a0:a1]), "".join(new[b0:b1])
        if tag == "equal":
            pieces.append(Piece("same", come))
            continue
        pieces += [Piece(kind, text) for kind, text in (("missing", gone), ("added", come)) if text]
    return pieces
