"""``tunewright data review``: shows each uncertain finding where it stands and remembers what is decided.

The text is read from the original file and shown on the terminal only; it is written nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import typer
from rich.console import Console
from rich.text import Text

from tunewright.cli import output
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.names import nearest
from tunewright.data.container import container_of
from tunewright.data.raw_rows import raw_rows
from tunewright.data.redact.findings import Action
from tunewright.data.redact.keys import redaction_key
from tunewright.data.redact.queue import CHOICES, Asked, decide, decisions, questions
from tunewright.data.redact.walk import at_path
from tunewright.data.rows import Notes

AROUND = 80  # code points shown on either side
LETTERS = {"m": "mask", "p": "pseudonym", "d": "drop", "k": "keep", "s": "skip", "q": "quit"}


def review(
    directory: Path,
    decide_words: Sequence[str] = (),
    listing: bool = False,
    as_json: bool = False,
    key_file: str | None = None,
    ask: Callable[[str], str] | None = None,
) -> None:
    """Ask about each open question of a prepared directory, or list them, or take decisions ``ID=action``.

    Raises ``DataError`` if a source is missing or has changed since, ``ConfigError`` for a wrong decision.
    """
    asked = questions(directory)
    by_id: dict[str, list[Asked]] = {}
    for question in asked:
        by_id.setdefault(question.id, []).append(question)
    if decide_words:
        _take(directory, decide_words, by_id)
    said = decisions(directory)
    if listing or decide_words or as_json:
        output.emit(_document(by_id, said), as_json, _list_lines(by_id, said))
        return
    if ask is None and not sys.stdin.isatty():
        raise ConfigError(
            "no terminal to ask on; use --list to see the questions and --decide ID=keep to answer"
        )
    _ask_all(directory, by_id, said, redaction_key(key_file), ask or typer.prompt)


def _take(directory: Path, words: Sequence[str], by_id: dict[str, list[Asked]]) -> None:
    """All of ``ID=action`` or none: nothing is written before every one was found right."""
    pairs = []
    for word in words:
        id_, equals, action = word.partition("=")
        if not equals or action not in CHOICES:
            raise ConfigError(
                f"--decide {word!r} is not of the form ID=action; actions: {', '.join(CHOICES)}"
            )
        if id_ not in by_id:
            raise ConfigError(f"--decide: no question has the id {id_!r}. {nearest(id_, list(by_id)[:20])}")
        pairs.append((id_, action))
    for id_, action in pairs:
        decide(directory, id_, action)


def _document(by_id: dict[str, list[Asked]], said: dict[str, Action]) -> dict[str, Any]:
    rows = [
        {
            "id": id_,
            "type": places[0].type,
            "score": max(p.score for p in places),
            "decision": said.get(id_),
            "places": [f"{p.source}:{p.line} {p.field}[{p.start}:{p.end}]" for p in places],
        }
        for id_, places in by_id.items()
    ]
    return {"questions": len(by_id), "open": sum(r["decision"] is None for r in rows), "values": rows}


def _list_lines(by_id: dict[str, list[Asked]], said: dict[str, Action]) -> list[str]:
    lines = [
        f"{id_}  {places[0].type:<15} {said.get(id_, 'open'):<10} {len(places)} x, first {places[0].source}:"
        f"{places[0].line} {places[0].field}"
        for id_, places in by_id.items()
    ]
    left = sum(id_ not in said for id_ in by_id)
    return [*lines, f"{len(by_id)} questions, {left} open"]


def _ask_all(
    directory: Path,
    by_id: dict[str, list[Asked]],
    said: dict[str, Action],
    key: bytes,
    ask: Callable[[str], str],
) -> None:
    console = Console(highlight=False)
    left = [places for id_, places in by_id.items() if id_ not in said]
    texts = _texts([places[0] for places in left])
    for number, places in enumerate(left, 1):
        first = places[0]
        console.print(_shown(first, _field(first, texts, key), f"{number}/{len(left)}", len(places)))
        answer = _answer(ask)
        if answer == "quit":
            break
        if answer != "skip":
            decide(directory, first.id, cast(Action, answer))
    now = decisions(directory)
    open_ = sum(id_ not in now for id_ in by_id)
    console.print(f"{len(by_id)} questions, {open_} open.")
    console.print(f"`tunewright data review {directory} --apply NEW` prepares anew, as decided.")


def _answer(ask: Callable[[str], str]) -> str:
    while True:
        word = ask("[m]ask, [p]seudonym, [d]rop the row, [k]eep, [s]kip, [q]uit").strip().lower()
        answer = LETTERS.get(word, word)
        if answer in LETTERS.values():
            return answer


def _texts(asked: Sequence[Asked]) -> dict[tuple[str, int], Any]:
    """The rows that the questions are about, read from their files: one pass over each."""
    wanted: dict[str, set[int]] = {}
    for question in asked:
        wanted.setdefault(question.source, set()).add(question.line)
    rows: dict[tuple[str, int], Any] = {}
    for source, lines in wanted.items():
        path = Path(source)
        if not path.is_file():
            raise DataError(
                f"{source}: the file is gone; put it back, or run `tunewright data prepare` again"
            )
        for raw in raw_rows(path, container_of(path), Notes()):
            if raw.line in lines:
                rows[source, raw.line] = raw.value
            if raw.line >= max(lines):
                break
    return rows


def _field(asked: Asked, rows: dict[tuple[str, int], Any], key: bytes) -> str:
    """The field in question; raises ``DataError`` if it does not hold there what was asked about."""
    row = rows.get((asked.source, asked.line))
    text = at_path(row, asked.field) if isinstance(row, dict) else None
    if text is None or not asked.is_value(text, key):
        raise DataError(
            f"{asked.source}:{asked.line}: {asked.field} has changed since it was prepared, or the "
            f"key is another; "
            "run `tunewright data prepare` again"
        )
    return text


def _shown(asked: Asked, text: str, place: str, times: int) -> Text:
    before, value, behind = text[: asked.start], text[asked.start : asked.end], text[asked.end :]
    more = f", {times} places" if times > 1 else ""
    shown = Text(
        f"\n{place}  {asked.type} ({asked.score:.2f}{more})  {asked.source}:{asked.line} {asked.field}\n"
    )
    shown.append("…" * (len(before) > AROUND) + _plain(before[-AROUND:]))
    shown.append(_plain(value), style="bold reverse")
    shown.append(_plain(behind[:AROUND]) + "…" * (len(behind) > AROUND))
    return shown


def _plain(text: str) -> str:
    """Without line breaks and what a terminal would take for commands."""
    return "".join(c if c.isprintable() else " " for c in text)
