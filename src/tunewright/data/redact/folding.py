"""A text as the recognisers should see it, with the way back to where each character stands.

What people, editors and evasion put between or in place of characters is folded away: zero-width characters,
full-width forms, digits of other scripts, no-break spaces, long dashes, HTML entities, JSON escapes.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

# One piece that may fold: an entity, an escape of JSON inside a string, or a character beyond plain letters.
_PIECE = re.compile(
    r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8});"
    r"|\\(?:u[0-9a-fA-F]{4}|[nrtbf\"/])"
    r"|[^\x00-\x7f]"
)
_ESCAPES = {"n": "\n", "r": "\n", "t": "\t", "b": " ", "f": " ", '"': '"', "/": "/"}
_DASHES = frozenset("‐‑‒–—―−﹘﹣－")
_QUOTES = {"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "＇": "'"}


@dataclass(frozen=True, slots=True)
class Folded:
    """``text`` to search; ``original(start, end)`` is the stretch of the source that a match covers."""

    text: str
    starts: list[int] | None = None  # of each character of ``text``; None where nothing was folded
    ends: list[int] | None = None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Code points of the source string."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def fold(text: str) -> Folded:
    """Fold ``text``; a text without anything to fold is returned as it is, at the cost of one scan."""
    if text.isascii() and "&" not in text and "\\" not in text:
        return Folded(text)
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    last = 0
    changed = False
    for match in _PIECE.finditer(text):
        piece = match.group()
        new = _folded(piece)
        if new == piece:
            continue
        changed = True
        start, end = match.span()
        parts += (text[last:start], new)
        starts += range(last, start)
        ends += range(last + 1, start + 1)
        starts += [start] * len(new)
        ends += [end] * len(new)
        last = end
    if not changed:
        return Folded(text)
    parts.append(text[last:])
    starts += range(last, len(text))
    ends += range(last + 1, len(text) + 1)
    return Folded("".join(parts), starts, ends)


def lowered(text: str) -> str:
    """``text`` in lower case, as long as it was: the few capitals that would grow stay."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := c.lower()) == 1 else c for c in text)


def _folded(piece: str) -> str:
    if piece[0] == "&":
        plain = html.unescape(piece)
        return piece if plain == piece else "".join(map(_character, plain))
    if piece[0] == "\\":
        return _character(chr(int(piece[2:], 16))) if piece[1] == "u" else _ESCAPES[piece[1]]
    return _character(piece)


def _character(c: str) -> str:
    """One character: itself, a plain twin, or nothing for what cannot be seen."""
    if c.isascii():
        return c
    if c in _DASHES:
        return "-"
    if c in _QUOTES:
        return _QUOTES[c]
    category = unicodedata.category(c)
    if category in ("Cf", "Mn") and c != "\u0301":  # zero-width, bidi, soft hyphen, loose marks
        return ""
    if category == "Cs":  # half of a pair, which no recogniser can encode
        return "\ufffd"
    if category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "Nd":
        return str(unicodedata.digit(c))
    if "\uff01" <= c <= "\uff5e":
        return chr(ord(c) - 0xFEE0)
    if "\U0001d400" <= c <= "\U0001d7ff":  # mathematical letters
        return unicodedata.normalize("NFKC", c)
    return c
