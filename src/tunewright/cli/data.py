"""``tunewright data …``: no model is loaded unless a command names one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from tunewright.cli import output
from tunewright.core.config import build
from tunewright.core.errors import ConfigError, RunError
from tunewright.core.hashing import file_digest
from tunewright.data import check as checking
from tunewright.data.audit.settings import AuditSettings
from tunewright.data.check_view import check_lines
from tunewright.data.pipeline import WORK, PrepareSettings, prepare_to
from tunewright.data.split import SIDES, Side
from tunewright.run.yaml_text import parse_override


def check(files: list[Path], given: dict[str, Any], audit: dict[str, Any] | None, as_json: bool) -> None:
    """Print the report, with the audit as it is told, if it is; exit 1 if a row is unusable."""
    named = {name: str(value) if isinstance(value, Path) else value for name, value in (audit or {}).items()}
    settings = None if audit is None else build(AuditSettings, named, where="data check")
    benchmarks = _benchmarks(given["benchmarks"] or [])
    report = checking.check([str(f) for f in files], **_reading(given), audit=settings, benchmarks=benchmarks)
    output.emit(report.to_dict(), as_json, list(check_lines(report)))
    if not report.usable:
        raise typer.Exit(1)


def prepare(
    files: list[Path],
    out: Path,
    given: dict[str, Any],
    settings: Sequence[str],
    workers: int | None,
    as_json: bool,
) -> None:
    """Prepare ``files`` into ``out``, which must be new, empty, or left by the same command interrupted.

    ``given`` are settings as the command line names them, ``settings`` more as ``section.key=value``.
    """
    _refuse_in_use(out)
    values = _values(given)
    for text in settings:
        name, value = parse_override(text)
        _put(values, name.split("."), value)
    receipt = prepare_to(
        out,
        {"train": [str(f) for f in files]},
        build(PrepareSettings, values, where="data prepare"),
        workers=workers,
    )
    output.emit(receipt, as_json, _receipt_lines(receipt, out))


def prepare_again(directory: Path, out: Path, as_json: bool) -> None:
    """Prepare the files that ``directory`` was prepared from into ``out``, as it was decided since."""
    path = directory / "receipt.json"
    if not path.is_file():
        raise RunError(f"{path}: no such file; {directory} is not a prepared directory")
    _refuse_in_use(out)
    files: dict[Side, list[str]] = {side: [] for side in SIDES}
    digests: dict[str, str] = {}
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
        values = {**receipt["settings"], "decisions": str(directory)}
        for facts in receipt["files"]:
            files[facts["used_for"]].append(facts["path"])
            digests[facts["path"]] = facts["sha256"]
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path}: damaged; run `tunewright data prepare` again") from None
    for name, digest in digests.items():
        _refuse_other(Path(name), digest, directory)
    again = prepare_to(out, files, build(PrepareSettings, values, where=str(path)))
    output.emit(again, as_json, _receipt_lines(again, out))


def _refuse_other(path: Path, digest: str, directory: Path) -> None:
    """Raise ``RunError`` if a file is not there, or not the one that ``directory`` was prepared from."""
    if not path.is_file():
        seen_from = "" if path.is_absolute() else f" seen from {Path.cwd()}, where the command was given"
        raise RunError(f"{path}: not there{seen_from}; put it back, or go where {directory} was prepared")
    if file_digest(path) != digest:
        raise RunError(
            f"{path} has changed since {directory} was prepared; run `tunewright data prepare` anew"
        )


def _refuse_in_use(out: Path) -> None:
    """Raise ``RunError`` for a directory that holds anything but an interrupted preparation.

    One that was interrupted has ``WORK``, perhaps some of the lists, and no receipt yet, which comes last.
    """
    left = {path.name for path in out.iterdir()} if out.is_dir() else set()
    interrupted = WORK in left and "receipt.json" not in left
    if (out.exists() and not out.is_dir()) or (left and not interrupted):
        raise RunError(f"{out} is not empty; choose another directory")


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a preparation from the words of the command line."""
    compare = {**given["compare"], "benchmarks": _benchmarks(given["compare"]["benchmarks"] or [])}
    return {
        **_reading(given),
        "split": given["split"],
        "clean": {} if given["clean"] else None,
        "redact": given["redact"],
        "decisions": given["decisions"],
        "compare": compare,
    }


def _benchmarks(words: Sequence[str]) -> dict[str, str]:
    """``["exam=exam.jsonl"]`` -> ``{"exam": "exam.jsonl"}``."""
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, file) in zip(words, pairs, strict=True):
        if not (name and equals and file):
            raise ConfigError(f"--benchmark {word!r} is not of the form NAME=FILE, e.g. exam=exam.jsonl")
    return {name: file for name, _, file in pairs}


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Put ``value`` into nested ``values`` under a dotted path; a section that is off is switched on."""
    *sections, leaf = path
    for section in sections:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, dict) else {}
        values = values[section]
    values[leaf] = value


def show(file: Path, options: dict[str, Any], as_json: bool) -> None:
    """Print rendered rows token by token."""
    from tunewright.run.looking import rendered_rows

    rows, notes = rendered_rows(
        str(file), options["model"], options["n"], options["train_on"], output.columns_of(options["columns"])
    )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        output.emit(rows, True, [])
        return
    console = Console(highlight=False)
    for row in rows:
        text = Text()
        for token, weight, _ in row["tokens"]:
            text.append(token, style="bold green" if weight else "dim")
        trained = sum(weight != 0 for _, weight, _ in row["tokens"])
        name = f"{row['where']}: " + (f"{row['part']}, " if "part" in row else "")
        console.print(f"{name}{len(row['tokens'])} tokens, {trained} trained", style="cyan")
        console.print(text, soft_wrap=True)
        if not console.is_terminal:
            console.print("weights: " + " ".join(f"{w:g}" for _, w, _ in row["tokens"]), soft_wrap=True)


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """How files are read: the options that ``check`` and ``prepare`` share."""
    reading = {name: options[name] for name in ("format", "group")}
    return {**reading, "columns": output.columns_of(options["columns"])}


def _receipt_lines(receipt: dict[str, Any], out: Path) -> list[str]:
    """What was done with the rows, for people; every count stands in the receipt as well."""
    lines = [f"{receipt['rows_in']} rows read, {receipt['rows_out']} kept, {receipt['rejected']} left out"]
    reasons: Counter[str] = Counter()
    for step in receipt["steps"]:
        reasons.update(step["rejected"])
    lines += [f"  {count:>7} left out: {reason}" for reason, count in reasons.most_common()]
    lines += [f"  {count:>7} repaired: {reason}" for reason, count in receipt["repaired"].items()]
    lines += [f"  {facts['rows']:>7} {out / side}.jsonl" for side, facts in receipt["splits"].items()]
    lines += [f"note: {note}" for note in receipt["notes"] + found_notes(receipt)]
    if receipt["rejected"]:
        lines.append(f"each row that was left out: {out / 'rejected.jsonl'}")
    return [*lines, f"receipt: {out / 'receipt.json'}"]


def found_notes(receipt: dict[str, Any]) -> list[str]:
    """Sentences for what was found in rows that stay, and should be looked at."""
    notes = []
    if found := receipt.get("personal_data"):
        for kind, actions in found["found"].items():
            notes.append(f"{kind}: " + ", ".join(f"{count} {action}" for action, count in actions.items()))
        if (receipt["settings"]["redact"] or {}).get("names") == "cues":
            notes.append(
                "people were looked for by the words around them; --names full asks a language model as well,"
                " and finds more, more slowly"
            )
        if found["values_to_decide"]:
            notes.append(
                f"{found['values_to_decide']} value(s) may be personal and were left as they are: decide with"
                " `tunewright data review`"
            )
    if (found := receipt.get("contradictions")) and found["questions"]:
        purpose = ", perhaps on purpose" if found["on_purpose"] else ""
        notes.append(
            f"{found['questions']} question(s) with answers that contradict each other, {found['rows']} rows"
            f"{purpose}: see contradictions.jsonl"
        )
    if (found := receipt.get("label_conflicts")) and found["clusters"]:
        notes.append(f"{found['rows']} rows are like others with another label: see contradictions.jsonl")
    for name, found in receipt.get("contamination", {}).items():
        notes.append(
            f"{found['rows']} row(s) hold {found['items']} item(s) of {name}, the first at"
            f" {found['first'][0]['place']}"
        )
    for sentence in receipt.get("near_duplicates", {}).get("notes", []):
        notes.append(sentence)
    return notes
