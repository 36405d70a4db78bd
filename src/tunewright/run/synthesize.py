"""Rows written by a model: asked for within a budget, checked, sifted, and written with their account.

    receipt = synthesize(Inputs(["manual.md"]), SynthesisSettings(making="questions", model="m"), writer, out)

Every reply is on disk before it is used, so a run that is cut off goes on where it stopped, and the same
replies give the same rows in the same order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from tunewright.core.config import Section
from tunewright.core.endpoint import Completion, Failure
from tunewright.core.errors import DataError, RunError
from tunewright.core.events import Observer, Progress, Warned, silent
from tunewright.core.hashing import file_digest
from tunewright.core.paths import write_json, written_atomically
from tunewright.core.records import Example
from tunewright.data.apart import kept_apart
from tunewright.data.canonical import to_jsonl
from tunewright.data.load import load
from tunewright.data.synthetic.makers import Ask, ask_negatives, ask_paraphrases, ask_passages
from tunewright.data.synthetic.mark import Making
from tunewright.data.synthetic.passages import documents_of, passages_of
from tunewright.data.synthetic.reasons import Left
from tunewright.data.synthetic.replies import Malformed
from tunewright.data.synthetic.sieve import Similar, sift
from tunewright.run.writers import Body, Replies, Writer

REFUSED = {400, 413, 422}  # HTTP statuses that concern one request, and not the server or the key


class SynthesisSettings(Section):
    """What is made, and how it is asked for."""

    making: Making = Field(description="questions from documents, paraphrases or negatives of rows.")
    model: str = Field(min_length=1, description="Name of the model that writes.")
    count: int = Field(default=3, ge=1, le=20, description="Most rows from one passage or row.")
    passage: int = Field(default=1200, ge=200, le=20_000, description="Characters of a passage.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="How freely it writes.")
    max_new_tokens: int = Field(default=800, ge=16, le=32_000, description="Longest reply.")
    retries: int = Field(default=2, ge=0, le=10, description="Further tries for a reply of the wrong form.")
    seed: int = Field(default=0, ge=0, description="Seed of the sampling.")


class Budget(Section):
    """How much may be asked for in all, what was asked before the last crash included."""

    max_requests: int | None = Field(default=None, ge=1, description="Most replies.")
    max_tokens: int | None = Field(default=None, ge=1, description="Most tokens read and written.")

    def spent(self, replies: Replies) -> str | None:
        """The limit that is reached, if one is."""
        if self.max_requests is not None and len(replies) >= self.max_requests:
            return f"max_requests {self.max_requests}"
        if self.max_tokens is not None and replies.tokens >= self.max_tokens:
            return f"max_tokens {self.max_tokens}"
        return None

    def room(self, replies: Replies, most: int) -> int:
        """How many requests may be sent now."""
        return most if self.max_requests is None else min(most, self.max_requests - len(replies))


@dataclass(frozen=True)
class Inputs:
    """Files: what is made from, what it must not repeat (``real``), and what judges (``test``)."""

    files: Sequence[str]
    real: Sequence[str] = ()
    test: Sequence[str] = ()
    columns: dict[str, str] | None = None


@dataclass
class _Progress:
    """What is known of each ask: its rows, or how often its reply was malformed."""

    found: dict[int, list[Example | Left]] = field(default_factory=dict)
    failed: dict[int, list[str]] = field(default_factory=dict)
    stopped: str | None = None


def synthesize(
    inputs: Inputs,
    settings: SynthesisSettings,
    writer: Writer,
    out: Path,
    *,
    budget: Budget | None = None,
    similar: Similar | None = None,
    observe: Observer = silent,
) -> dict[str, Any]:
    """Make rows and write ``rows.jsonl``, ``rejected.jsonl`` and ``receipt.json``, which is returned.

    An ``out`` that holds an unfinished job of the same inputs and settings is gone on with. Raises
    ``RunError`` if it holds anything else or the server fails, and ``DataError`` for unusable inputs.
    """
    test = load(inputs.test, columns=inputs.columns).examples if inputs.test else []
    asks, left = _asks(inputs, settings, test)
    if not asks:
        raise DataError(f"nothing to ask for in {', '.join(inputs.files)}: {_reasons(left) or 'no rows'}")
    facts = _facts(inputs, settings, writer)
    _claim(out, facts)
    replies = Replies(out / "replies.jsonl")
    progress = _asked(asks, settings, writer, replies, budget or Budget(), observe)
    made, more = _made(asks, progress)
    real = load(inputs.real, columns=inputs.columns).examples if inputs.real else []
    own = [] if settings.making == "questions" else load(inputs.files, columns=inputs.columns).examples
    rows, sifted = sift(made, [*own, *real], test, similar)
    left += [*more, *sifted]
    content = to_jsonl(rows)
    receipt = {
        **facts,
        "asks": len(asks),
        "answered": len(progress.found),
        "not_asked": len(asks) - len(progress.found) - len(progress.failed),
        "stopped": progress.stopped,
        "replies": len(replies),
        "tokens": replies.tokens,
        "replies_whose_tokens_are_estimated": replies.uncounted,
        "malformed_replies": sum(map(len, progress.failed.values())),
        "rows": len(rows),
        "left_out": dict(sorted(Counter(item.reason for item in left).items())),
        "near_duplicates": "not looked for" if similar is None else "looked for",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    _write(out / "rows.jsonl", content)
    _write(out / "rejected.jsonl", b"".join(orjson.dumps(asdict(item)) + b"\n" for item in left))
    write_json(out / "receipt.json", receipt)
    return receipt


def _asks(
    inputs: Inputs, settings: SynthesisSettings, test: Sequence[Example]
) -> tuple[list[Ask], list[Left]]:
    """What to ask for, in the order of the files, and what cannot be made from."""
    left: list[Left] = []
    found: Iterable[Ask | Left]
    if settings.making == "questions":
        documents = [document for file in inputs.files for document in documents_of(file)]
        passages = (p for document in documents for p in passages_of(document, settings.passage))
        found = ask_passages(passages, settings.count)
    else:
        rows, left = _fit_to_make_from(load(inputs.files, columns=inputs.columns).examples, test)
        if settings.making == "paraphrases":
            found = ask_paraphrases(rows, settings.count)
        else:
            found = ask_negatives(rows, settings.seed)
    asks = []
    for item in found:
        if isinstance(item, Left):
            left.append(item)
        else:
            asks.append(item)
    return asks, left


def _fit_to_make_from(rows: Sequence[Example], test: Sequence[Example]) -> tuple[list[Example], list[Left]]:
    """Rows that ask nothing of what the test asks."""
    apart, asked = kept_apart(rows, [], test)
    return apart, [Left(p.source, p.line, "asks_test", p.detail) for p in asked]


def _asked(
    asks: Sequence[Ask],
    settings: SynthesisSettings,
    writer: Writer,
    replies: Replies,
    budget: Budget,
    observe: Observer,
) -> _Progress:
    """Ask until every reply has its form, the tries or the budget are used up; in waves, in order."""
    progress = _Progress()
    pending = list(range(len(asks)))
    for attempt in range(settings.retries + 1):
        again: list[int] = []
        for start in range(0, len(pending), writer.at_once):
            wave = pending[start : start + writer.at_once]
            bodies = [_body(asks[i], settings, attempt) for i in wave]
            refused = _fill(bodies, writer, replies, budget, progress)
            for i, body in zip(wave, bodies, strict=True):
                known = replies.get(body)
                if known is not None and not _read(asks[i], known, settings.model, progress, i):
                    again.append(i)
            for position, failure in refused.items():
                i = wave[position]
                progress.found[i] = [_left(asks[i], "refused", f"HTTP {failure.status}")]
            observe(Progress("synthesize", len(progress.found), len(asks)))
            if progress.stopped:
                observe(Warned(0, f"the budget is used up ({progress.stopped}): raise it to go on"))
                return progress
        pending = again
    return progress


def _fill(
    bodies: Sequence[Body], writer: Writer, replies: Replies, budget: Budget, progress: _Progress
) -> dict[int, Failure]:
    """Ask for what is not known yet, as far as the budget goes; returns what the server refused by position.

    Raises ``RunError`` where the server, and not a request, is at fault.
    """
    unknown = [i for i, body in enumerate(bodies) if replies.get(body) is None]
    if not unknown:
        return {}
    progress.stopped = budget.spent(replies)
    if progress.stopped:
        return {}
    room = budget.room(replies, len(unknown))
    progress.stopped = f"max_requests {budget.max_requests}" if room < len(unknown) else None
    refused: dict[int, Failure] = {}
    fatal: Failure | None = None
    for i, answer in zip(unknown[:room], writer.write([bodies[i] for i in unknown[:room]]), strict=True):
        if isinstance(answer, Completion):
            replies.add(bodies[i], answer)
        elif answer.status in REFUSED:
            refused[i] = answer
        else:
            fatal = fatal or answer
    if fatal is None and len(refused) == room and not len(replies):
        fatal = next(iter(refused.values()))  # it refuses everything
    if fatal is not None:
        raise RunError(
            f"{writer.where} fails: {fatal}. {len(replies)} replies are kept; give the same command again to"
            " go on"
        )
    return refused


def _read(ask: Ask, reply: Completion, model: str, progress: _Progress, number: int) -> bool:
    """Take a reply; whether it had the form that was asked for."""
    try:
        progress.found[number] = ask.read(reply.text, model)
    except Malformed as wrong:
        progress.failed.setdefault(number, []).append(str(wrong))
        return False
    return True


def _body(ask: Ask, settings: SynthesisSettings, attempt: int) -> Body:
    """A request; another try is sampled anew, and so never greedily."""
    warm = max(settings.temperature, 0.7) if attempt else settings.temperature
    return {
        "model": settings.model,
        "messages": list(ask.chat),
        "temperature": warm,
        "max_tokens": settings.max_new_tokens,
        "seed": settings.seed + attempt,
    }


def _made(asks: Sequence[Ask], progress: _Progress) -> tuple[list[Example], list[Left]]:
    """All rows in the order of the asks, and what was left out of the replies."""
    rows: list[Example] = []
    left: list[Left] = []
    for number, ask in enumerate(asks):
        if number in progress.found:
            for item in progress.found[number]:
                if isinstance(item, Left):
                    left.append(item)
                else:
                    rows.append(item)
        elif number in progress.failed:
            left.append(_left(ask, "malformed", progress.failed[number][-1]))
    return rows, left


def _left(ask: Ask, reason: str, detail: str) -> Left:
    return Left(ask.source, ask.line, reason, detail)


def _reasons(left: Sequence[Left]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(x.reason for x in left).items())


def _facts(inputs: Inputs, settings: SynthesisSettings, writer: Writer) -> dict[str, Any]:
    """What makes a job this one: settings, place of the model, and the content of every file."""
    named = (("made_from", inputs.files), ("real", inputs.real), ("test", inputs.test))
    files = [
        {"used_for": use, "path": path, "sha256": file_digest(Path(path))}
        for use, paths in named
        for path in paths
    ]
    return {
        "settings": settings.model_dump(),
        "server": writer.where,
        "columns": inputs.columns,
        "files": files,
    }


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Make ``out`` the place of this job; raises ``RunError`` if it is that of something else."""
    note = out / "job.json"
    if note.exists():
        if orjson.loads(note.read_bytes()) != facts:
            raise RunError(
                f"{out} holds a job of other settings, files or server; choose another directory with --out"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty; choose another directory with --out")
    write_json(note, facts)


def _write(path: Path, content: bytes) -> None:
    with written_atomically(path) as temporary:
        temporary.write_bytes(content)
