"""White space: what no reader sees goes; what carries meaning (code, tables, poems, Markdown) stays.

A doubled space here or there, or two after a full stop, teaches a model nothing wrong and stays. A *ragged*
text, as it comes out of pages and PDF files, has its runs of spaces and its stray indentation taken out.
"""

from __future__ import annotations

import re

from tunewright.data.clean.code import outside_code

RAGGED_RUNS = 3  # runs of spaces inside lines of prose that make a text ragged
_RUN = re.compile(r"(?<=\S)[ \t]{2,}+(?=\S)")
_AFTER_SENTENCE = re.compile(r"[.!?:;]['\")\]]?  \Z")
_LINE_END_SPACES = re.compile(r"(?<=[^ \t])[ \t]++(?=\n)|(?<=\n)[ \t]++(?=\n)")
_BLANK_LINES = re.compile(r"\n{4,}")
_ITEMS = re.compile(r"(?<=\S)[ \t]{3,}+-[ \t]++(?=[^\W\d_])")
_WORD = re.compile(r"[^\W\d_]{2,}")
_LIST_ITEM = re.compile(r"[-*+•‣◦]|\(?\w{1,3}[.)]")
STRAY_INDENT, STRAY_ITEM_INDENT = 8, 16  # columns before a line of prose, and before an item of a list
_STRAY = " " * STRAY_INDENT
PROSE_WORDS, PROSE_SHARE = 8, 0.6


def tidy(text: str) -> str:
    """Line ends as LF, no space at the ends of lines (Markdown's two for a line break stay) or of the text,
    at most two blank lines in a row, and ragged prose in single spaces. Code stays as it is."""
    if "\r" in text:
        text = outside_code(text, lambda prose: prose.replace("\r\n", "\n").replace("\r", "\n"))
    if "\n" not in text:
        bare = text.strip(" \t")
        return bare if "  " not in bare and "\t" not in bare else outside_code(bare, _tidy_prose)
    if not ("  " in text or "\t" in text or " \n" in text or "\n\n\n\n" in text or text != text.strip()):
        return text
    return outside_code(text, _tidy_prose)


def _tidy_prose(text: str) -> str:
    text = text.rstrip(" \t\n")
    lead = len(text) - len(text.lstrip(" \t\n"))
    first = text.rfind("\n", 0, lead) + 1  # the indentation of the first line may belong to its layout
    text = text[first if "\n" in text[lead:] else lead :]
    if " \n" in text or "\t\n" in text:
        text = _LINE_END_SPACES.sub(_line_break, text)
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    pairs = text.count("  ") + text.count("\t")  # at least as many as there are runs
    stray = text.startswith(_STRAY) or f"\n{_STRAY}" in text
    return _unragged(text) if pairs >= RAGGED_RUNS or stray else text


def _line_break(match: re.Match[str]) -> str:
    """Two spaces between two lines of one paragraph are a line break in Markdown."""
    text, end = match.string, match.end()
    breaks = match[0] == "  " and match.start() and text[match.start() - 1] != "\n"
    return "  " if breaks and text[end + 1 : end + 2] not in ("", "\n", " ", "\t") else ""


def _unragged(text: str) -> str:
    lines = text.split("\n")
    starts = [_column_starts(line) for line in lines]
    prose = [_is_prose(line) for line in lines]
    plain = [p and not _in_columns(starts, n) for n, p in enumerate(prose)]
    runs = sum(_odd_runs(line) for line, is_plain in zip(lines, plain, strict=True) if is_plain)
    strays = [p and _stray(line) for line, p in zip(lines, prose, strict=True)]
    if runs < RAGGED_RUNS and not any(strays):
        return text
    for n, line in enumerate(lines):
        lead = "" if strays[n] else line[: len(line) - len(line.lstrip(" \t"))]
        body = line.lstrip(" \t")
        lines[n] = lead + (_single_spaced(body) if plain[n] and runs >= RAGGED_RUNS else body)
    return "\n".join(lines)


def _single_spaced(line: str) -> str:
    """Single spaces, and each item of a list that ran together (``a:    - b    - c``) on its own line."""
    items = _ITEMS.findall(line)
    return _RUN.sub(" ", _ITEMS.sub("\n- ", line) if len(items) > 1 else line)


def _odd_runs(line: str) -> int:
    """Runs of spaces inside a line, the two after a sentence not counted."""
    if "  " not in line.lstrip(" ") and "\t" not in line:
        return 0
    return sum(
        1 for m in _RUN.finditer(line) if not _AFTER_SENTENCE.search(line[max(0, m.start() - 2) : m.end()])
    )


def _column_starts(line: str) -> frozenset[int]:
    return frozenset(m.end() for m in _RUN.finditer(line)) if "  " in line else frozenset()


def _in_columns(starts: list[frozenset[int]], n: int) -> bool:
    """Whether the line shares a column with the line above or below, as in a table laid out with spaces."""
    here = starts[n]
    return bool(here) and any(here & starts[m] for m in (n - 1, n + 1) if 0 <= m < len(starts))


def _is_prose(line: str) -> bool:
    """Enough words, mostly letters, and no cells of a table."""
    if len(line) < PROSE_WORDS * 3 or line.count("|") > 1:
        return False
    letters = sum(map(len, words)) if len(words := _WORD.findall(line)) >= PROSE_WORDS else 0
    return letters > PROSE_SHARE * (len(line) - line.count(" ") - line.count("\t"))


def _stray(line: str) -> bool:
    """Whether a line of prose is set in so far that no list or quotation explains it."""
    bare = line.lstrip(" \t")
    indent = len(line) - len(bare)
    return indent >= (STRAY_ITEM_INDENT if _LIST_ITEM.match(bare) else STRAY_INDENT)
