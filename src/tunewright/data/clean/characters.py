"""Characters that should not stand in a text: broken, invisible, or not in normal form."""

from __future__ import annotations

import re
import unicodedata

from tunewright.data.clean.code import outside_code

_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])

# UTF-8 read as a one-byte encoding leaves a lead byte and a continuation byte as two odd characters. In this
# order: Latin-1 or Windows-1252, bare C1 controls, Mac Roman, DOS, Windows-1251.
_CONTINUATION = (
    "\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122\ufffd"
)
_SUSPECT = re.compile(
    f"[\u00c2-\u00f4][{_CONTINUATION}]|[\u0080-\u009f]|\u201a\u00c4|\u221a[^ \\d(]|[\u251c\u252c]"
    "|\u0432\u0402"
    "|[\u0420\u0421][\u00a0-\u00bf\u0402-\u040f\u0452-\u045f\u2018-\u203a\u20ac\u2116\u2122]"
)
_ABOUT_ENCODING = re.compile(
    r"mojibake|utf-?8|latin-?1|iso-?8859|cp-?125\d|windows-125\d|charset|unicode|ftfy", re.I
)
# Of the characters whose last byte Windows-1252 does not have, the closing quote is the one people write.
_LOST_QUOTE = "\u00e2\u20ac\ufffd"
_OPEN_QUOTE = "\u00e2\u20ac\u0153"


def has_mojibake(text: str) -> bool:
    """Whether ``mend_mojibake`` has something to mend, or a replacement character was left behind."""
    return not text.isascii() and ("\ufffd" in text or mend_mojibake(text) != text)


def mend_mojibake(text: str) -> str:
    """Lines that were decoded with the wrong encoding read again, where ftfy is sure; code stays.

    A text about encodings shows broken characters on purpose and stays, too.
    """
    if text.isascii() or _SUSPECT.search(text) is None or _ABOUT_ENCODING.search(text):
        return text
    return outside_code(text, lambda prose: "\n".join(map(_line_mended, prose.split("\n"))))


def _line_mended(line: str) -> str:
    if line.isascii() or _SUSPECT.search(line) is None:
        return line
    import ftfy  # heavy, and most data never needs it

    if _OPEN_QUOTE in line:
        line = line.replace(_LOST_QUOTE, "\u00e2\u20ac\x9d")
    return ftfy.fix_encoding(line)


def nfc(text: str) -> str:
    """Unicode normal form C outside code."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return outside_code(text, lambda prose: unicodedata.normalize("NFC", prose))


_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]+"
)
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")  # Thai, Lao, Burmese, Khmer
_MARKS = "\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069"  # directions that right-to-left text needs
_JOINING = re.compile(  # scripts whose letters change with a joiner or a non-joiner: Arabic, Syriac, Indic …
    "[\u0600-\u08ff\u0900-\u0dff\u0f00-\u0fff\u1000-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc]"
)
_BLACK_FLAG = "\U0001f3f4"


def has_invisible(text: str) -> bool:
    """Whether ``without_invisible`` would change the text."""
    return without_invisible(text) != text


def without_invisible(text: str) -> str:
    """Without control characters, zero-width characters and changes of direction that have no use.

    Kept: joiners in emoji and between letters of scripts that need them, flags of regions, direction marks
    in text that has right-to-left letters, zero-width spaces in text written without spaces. The separators
    of lines and paragraphs become line ends. Overriding a direction (U+202D, U+202E) is never kept.
    """
    if text.isascii():
        raw = text.encode()
        kept = raw.translate(None, _CONTROLS)
        return text if len(kept) == len(raw) else kept.decode()
    if _INVISIBLE.search(text) is None:
        return text
    allowed = ""
    if _RIGHT_TO_LEFT.search(text):
        allowed += _MARKS
    if _UNSPACED.search(text):
        allowed += "\u200b"
    spared = re.compile(f"[{allowed}]") if allowed else None
    return _INVISIBLE.sub(lambda match: _sweep(match, spared), text)


def _sweep(match: re.Match[str], spared: re.Pattern[str] | None) -> str:
    """What stays of one run of invisible characters."""
    run, text = match[0], match.string
    before = text[match.start() - 1] if match.start() else ""
    if run[0] in "\u200c\u200d" and _joins(before, text[match.end() : match.end() + 1]):
        return run[0]
    if run[0] >= "\U000e0020" and before == _BLACK_FLAG:
        return run if run[-1] == "\U000e007f" and min(run) >= "\U000e0020" else ""
    kept = [c if spared is not None and spared.match(c) else _LINE_ENDS.get(c, "") for c in run]
    return "".join(kept)


_LINE_ENDS = {"\u2028": "\n", "\u2029": "\n\n"}


def _joins(before: str, after: str) -> bool:
    """Whether a joiner stands after an emoji, or beside letters of a script that uses it."""
    if not before:
        return False
    emoji = before == "\ufe0f" or before >= "\U0001f000" or "\u2190" <= before <= "\u2bff"
    return (emoji and after > "\u2000") or _JOINING.match(before) is not None
