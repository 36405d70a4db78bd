"""Reading and writing the files of a run directory other than checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tunewright.core.errors import RunError
from tunewright.core.events import Event, Observer, Progress, Saved
from tunewright.core.paths import RunDir, write_json, written_atomically
from tunewright.engine.checkpoint import newest, steps
from tunewright.evaluate.runner import Answers


def event_writer(run: RunDir) -> Observer:
    """An observer that appends each event to ``events.jsonl`` as it happens."""
    run.root.mkdir(parents=True, exist_ok=True)

    def write(event: Event) -> None:
        if isinstance(event, Progress):  # for the eye only
            return
        with run.events.open("ab") as f:
            f.write(orjson.dumps(event.to_dict(), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    return write


def read_events(run: RunDir) -> Iterator[dict[str, Any]]:
    """The events of a run in order; a last line cut off by a crash is left out."""
    if not run.events.exists():
        return
    for line in run.events.read_bytes().splitlines():
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            return


def trimmed_events(run: RunDir) -> list[dict[str, Any]]:
    """Make the log true again after a crash: what came after the newest good checkpoint will come again.

    Drops those events, a half-written line, and the end of training; returns what is left.
    """
    good, _ = newest(run.checkpoints)
    step = next((s for s, path in steps(run.checkpoints).items() if path == good), None)
    kept = [e for e in read_events(run) if _stays(e, step)]
    if step is not None and not any(e["event"] == "Saved" and e["step"] == step for e in kept):
        kept.append(Saved(step, str(good)).to_dict())  # the crash came between the rename and the log
    with written_atomically(run.events) as temporary:
        temporary.write_bytes(b"".join(orjson.dumps(e) + b"\n" for e in kept))
    return kept


def _stays(event: dict[str, Any], step: int | None) -> bool:
    if event["event"] in {"StepEnd", "EvalEnd", "Saved"} or event.get("step", 0) > 0:
        return step is not None and event["event"] != "Ended" and event["step"] <= step
    return event["event"] not in {"Started", "Ended"} or step is not None


def write_answers(run: RunDir, answers: dict[str, Answers]) -> None:
    """``answers.json``: what each system answered to each test row, and each metric's rows."""
    write_json(run.root / "answers.json", {name: _plain(a) for name, a in answers.items()})


def read_answers(run: RunDir) -> dict[str, Answers]:
    """The inverse of ``write_answers``; empty if nothing was scored yet."""
    path = run.root / "answers.json"
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {name: _answers(facts) for name, facts in stored.items()}


def read_result(path: Path) -> dict[str, Any]:
    """``result.json`` of a finished run; raises ``RunError`` if there is none or it cannot be read."""
    file = RunDir(path).result
    if not file.exists():
        raise RunError(f"{path} has no result.json: the run has not finished; try `tunewright resume {path}`")
    try:
        result: Any = json.loads(file.read_bytes())
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(result, dict):
        raise _damaged(file, f"it holds {type(result).__name__}, not an object")
    return result


def _damaged(file: Path, why: str) -> RunError:
    return RunError(
        f"{file} is damaged: {why}; delete it and make it anew with `tunewright resume {file.parent}`"
    )


def _plain(answers: Answers) -> dict[str, Any]:
    return {
        **asdict(answers),
        "scores": {name: rows.tolist() for name, rows in answers.scores.items()},
        "parts": {task: _plain(part) for task, part in answers.parts.items()},
    }


def _answers(facts: dict[str, Any]) -> Answers:
    scores = {name: np.asarray(rows) for name, rows in facts["scores"].items()}
    parts = {task: _answers(part) for task, part in facts["parts"].items()}
    return Answers(**{**facts, "scores": scores, "parts": parts})
