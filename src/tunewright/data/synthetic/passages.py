"""Documents cut into passages that know where they stand: ``document.text[start:end]`` is the passage.

Positions count characters of the decoded text, nothing changed: no line end is translated, no mark left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunewright.core.errors import DataError
from tunewright.core.records import Text
from tunewright.data.container import container_of, opened
from tunewright.data.load import load

SHORTEST = 80  # characters; less holds no question and answer worth a request
LARGEST = 256 * 2**20  # bytes of a plain document
_ENDS = (
    re.compile(r"\r?\n[ \t]*\r?\n"),  # a paragraph
    re.compile(r"\r?\n"),
    re.compile(r"[.!?…。！？][\"'”’)\]]*\s"),  # a sentence
    re.compile(r"\s"),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text and the line where it stands; ``lines``: those of the text are those of the file."""

    source: str
    line: int
    text: str
    lines: bool = False


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document: characters ``[start, end)`` of its text, and the line of the file."""

    source: str
    line: int
    start: int
    end: int
    text: str


def documents_of(path: str) -> list[Document]:
    """A plain text or Markdown file as one document, or each row of a data file that holds texts.

    Raises ``DataError`` for a file that cannot be read, is no UTF-8, or holds rows of another kind.
    """
    if container_of(Path(path)) == "text":
        with opened(Path(path)) as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise DataError(f"{path}: the document is over {LARGEST >> 20} MB; divide it")
        try:
            return [Document(path, 1, content.decode("utf-8"), lines=True)]
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    found = []
    for example in load([path]).examples:
        if not isinstance(example, Text):
            raise DataError(
                f"{example.meta.where()}: questions are made from documents, and this row is none; give plain"
                " text, Markdown, or rows with a text"
            )
        found.append(Document(path, example.meta.line, example.text))
    return found


def passages_of(document: Document, size: int) -> Iterator[Passage]:
    """The document in pieces of at most ``size`` characters, cut at the end of a paragraph, line, sentence
    or word.

    White space around a passage belongs to none; every other character belongs to one.
    """
    text, start = document.text, 0
    while start < len(text):
        end = _cut(text, start, size)
        piece = text[start:end]
        first = start + len(piece) - len(piece.lstrip("\ufeff \t\r\n\f\v"))
        last = start + len(piece.rstrip())
        if first < last:
            line = document.line + (text.count("\n", 0, first) if document.lines else 0)
            yield Passage(document.source, line, first, last, text[first:last])
        start = end


def _cut(text: str, start: int, size: int) -> int:
    """Where the piece ends: the last good place in its second half, else at ``size``."""
    if len(text) - start <= size:
        return len(text)
    for pattern in _ENDS:
        ends = [m.end() for m in pattern.finditer(text, start + size // 2, start + size)]
        if ends:
            return ends[-1]
    return start + size
