"""Code inside texts, which cleaning leaves as it stands: fenced, in backticks, or by its look."""

from __future__ import annotations

import re
from collections.abc import Callable

_FENCE = re.compile(r"^[ \t]{0,12}(`{3,}|~{3,})", re.MULTILINE)
_INLINE = re.compile(r"``[^`\n]+``|`[^`\n]+`")
_COVER = "\U0010fffe"  # a code point that is no character, so texts do not use it
_STATEMENT = re.compile(
    r"def \w|class \w+\s?[:({]|import \w|from [\w.]+ import |#include|public |private |protected |function\b"
    r"|(?:const|let|var) \w+ ?=|return\b.{0,80};?$|(?:else )?if ?\(|for ?\(|while ?\(|elif |else:|try:"
    r"|except\b.{0,60}:$|for \w+ in .{1,60}:$|if .{1,80}:$|print\(|SELECT |INSERT INTO |CREATE TABLE |<\?"
    r"|\$\w+ ?=|@\w+$|//|/\*|[}{\])]+[;,]?$|[\w.\[\]]{1,40} [-+*/]?= \S"
)


def code_spans(text: str) -> list[tuple[int, int]]:
    """``[start, end)`` of fenced blocks (an unclosed one reaches to the end) and of code in backticks."""
    spans = []
    position = 0
    while (opening := _FENCE.search(text, position)) is not None:
        spans += _inline_spans(text, position, opening.start())
        end = _fence_end(text, opening)
        spans.append((opening.start(), end))
        position = end
    return spans + _inline_spans(text, position, len(text))


def _inline_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    return [match.span() for match in _INLINE.finditer(text, start, end)]


def _fence_end(text: str, opening: re.Match[str]) -> int:
    """The end of the line that closes a fence, without its line end."""
    mark = opening[1]
    position = opening.end()
    while (line := _FENCE.search(text, position)) is not None:
        end = text.find("\n", line.end())
        end = len(text) if end < 0 else end
        if line[1].startswith(mark) and not text[line.end() : end].strip():
            return end
        position = line.end()
    return len(text)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """``change(text)``, with code standing untouched in it; ``text`` itself if that cannot be had.

    Each stretch of code is one character while ``change`` sees the text. A text that looks like bare code, or
    from which ``change`` takes some code away, stays as it is.
    """
    if "`" not in text and "~~~" not in text:
        changed = change(text)
        return text if changed != text and looks_like_code(text) else changed
    if _COVER in text:
        return text
    spans = code_spans(text)
    bare, position = [], 0
    for start, end in spans:
        bare += [text[position:start], _COVER]
        position = end
    covered = "".join([*bare, text[position:]])
    changed = change(covered)
    if changed == covered or changed.count(_COVER) != len(spans) or looks_like_code(covered):
        return text
    pieces = changed.split(_COVER)
    codes = [text[start:end] for start, end in spans] + [""]
    return "".join(part for pair in zip(pieces, codes, strict=True) for part in pair)


def looks_like_code(text: str) -> bool:
    """At least two lines, and three in ten, have the form of a statement of a common language."""
    if "\n" not in text:
        return False
    lines = [bare for line in text.split("\n") if (bare := line.strip())]
    hits = sum(1 for line in lines if line[-1] in ";{" or _STATEMENT.match(line))
    return hits >= 2 and hits * 10 >= len(lines) * 3
