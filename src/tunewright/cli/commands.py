"""What the commands do once the heavy libraries may be loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from tunewright.cli import output
from tunewright.cli.console import ConsoleObserver
from tunewright.core.errors import ConfigError, ModelError, RunError
from tunewright.core.paths import RunDir
from tunewright.core.records import Message
from tunewright.data.render import Renderer
from tunewright.models.generate import Sampling, stream
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.models.save import own_stop_ids
from tunewright.run import planning, starter
from tunewright.run import quickstart as bundled
from tunewright.run.judge import Judging
from tunewright.run.judge import compare as judge_compare
from tunewright.run.judge import evaluate as judge_evaluate
from tunewright.run.methods import first_run
from tunewright.run.methods import resume as resume_run
from tunewright.run.methods import train as train_run
from tunewright.run.recipe import parse_override
from tunewright.run.resolve import resolve
from tunewright.run.session import Run
from tunewright.run.store import read_result
from tunewright.run.train import settled

OPTION_OF = {"model.name": "--model", "data.train": "--data", "output.dir": "--out"}


def quickstart(out: Path, as_json: bool) -> None:
    """Run the bundled recipe."""
    with _resumable(out):
        run = bundled.run(out, ConsoleObserver())
    _finish(run, as_json)


def init(directory: Path) -> None:
    """Write the starter recipe; never over an existing file."""
    typer.echo(f"wrote {starter.write(directory)}; next: tunewright plan {directory / 'recipe.yaml'}")


def plan(recipe: Path, overrides: Sequence[str], memory: str | None, as_json: bool) -> None:
    """Print the plan; ``memory`` is how much to plan for, as text."""
    room = planning.megabytes(memory) if memory else None
    whole = resolve(recipe, None, dict(parse_override(o) for o in overrides))
    first, remark = first_run(whole)
    facts = {**planning.plan(first, ConsoleObserver(), room), "remark": remark}
    output.emit(facts, as_json, planning.lines(facts))


def train(
    words: Sequence[str], model: str | None, data: Path | None, out: Path | None, as_json: bool
) -> None:
    """Resolve the words of the command line to a recipe and run it."""
    recipe = [w for w in words if "=" not in w]
    if len(recipe) > 1:
        raise ConfigError(f"one recipe at a time: {' '.join(recipe)}")
    if not recipe and data is None:
        raise ConfigError("give a recipe, or --data FILE (and --model NAME)")
    overrides = dict(parse_override(w) for w in words if "=" in w)
    options = {"model.name": model, "data.train": data and str(data), "output.dir": out and str(out)}
    overrides = _together({k: v for k, v in options.items() if v is not None}, overrides)
    resolved, directory = settled(resolve(Path(recipe[0]) if recipe else None, None, overrides))
    with _resumable(directory.root):
        run = train_run(resolved, ConsoleObserver())
    _finish(run, as_json)


def _together(options: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    """Settings from options and from words; raises ``ConfigError`` if both give the same one."""
    for name, value in options.items():
        section = name.partition(".")[0]
        for word in words.keys() & {name, section}:
            raise ConfigError(
                f"{OPTION_OF[name]} {value} and {word}={words[word]} are both given; leave one of them out"
            )
    return options | words


def resume(directory: Path, as_json: bool) -> None:
    """Go on with a run."""
    with _resumable(directory):
        run = resume_run(directory, ConsoleObserver())
    _finish(run, as_json)


def evaluate(model: str, data: Path, options: dict[str, Any], as_json: bool) -> None:
    """Score one model."""
    result = judge_evaluate(model, data, _judging(options), ConsoleObserver())
    lines = [f"{result['model']} on {result['data']}, {result['n']} rows"]
    lines += [f"  {m['name']:<24} {output.estimate(m, m['unit'])}" for m in result["metrics"]]
    if result["unfinished"]:
        lines.append(f"  {result['unfinished']} answers were cut before they ended")
    output.emit(result, as_json, lines)


def compare(models: Sequence[str], data: Path, options: dict[str, Any], as_json: bool) -> None:
    """Compare models; exit 1 if the candidate is worse."""
    result = judge_compare(models, data, _judging(options), ConsoleObserver())
    cut = [
        f"{n} answers of {name} were cut before they ended" for name, n in result["unfinished"].items() if n
    ]
    lines = [*output.metric_lines(result["metrics"]), *cut, *output.verdict_lines(result["verdict"])]
    output.emit(result, as_json, lines)
    _exit_by(result["verdict"])


def chat(model: str, system: str | None, temperature: float, max_new_tokens: int) -> None:
    """A conversation in the terminal."""
    use_all_cores()
    loaded = load(model)
    if loaded.judges:
        raise ModelError(
            f"{model} was trained to judge text with a head and cannot answer; see `tunewright eval {model}`"
        )
    renderer = Renderer(loaded.tokenizer)
    stop_ids = renderer.stop_ids | own_stop_ids(loaded.model)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, stop_ids=stop_ids)
    turns = [Message("system", system)] if system else []
    typer.echo(f"{loaded.ref.name}, {loaded.precision.reason}. An empty line ends.", err=True)
    for line in _lines_from_user():
        turns.append(Message("user", line))
        pieces = stream(loaded.model, renderer.prompt(turns), sampling, renderer.decode)
        turns.append(Message("assistant", _spoken(pieces)))


def runs(folder: Path, as_json: bool) -> None:
    """List the runs below ``folder``."""
    found = [_run_facts(p.parent) for p in sorted(folder.glob("*/recipe.yaml"))]
    lines = [f"{f['run']:<40} {_standing(f)}" for f in found]
    output.emit(found, as_json, lines or [f"no runs in {folder}"])


def _run_facts(path: Path) -> dict[str, Any]:
    facts = {"run": str(path), "finished": RunDir(path).result.exists(), "verdict": None, "created": None}
    try:
        result = read_result(path) if facts["finished"] else {}
    except RunError as error:
        return {**facts, "error": str(error)}
    verdict = (result.get("verdict") or {}).get("word")
    return {**facts, "verdict": verdict, "created": result.get("created")}


def _standing(facts: dict[str, Any]) -> str:
    if "error" in facts:
        return f"error: {facts['error']}"
    return facts["verdict"] or f"not finished; tunewright resume {facts['run']}"


def _lines_from_user() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not line:
            return
        yield line


def _spoken(pieces: Iterable[str]) -> str:
    """Write pieces as they come; Ctrl-C ends the answer, not the conversation."""
    answer = ""
    try:
        for piece in pieces:
            answer += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        typer.echo(" (interrupted)", err=True)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return answer


@contextmanager
def _resumable(directory: Path) -> Iterator[None]:
    """Say how to go on if the user interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        where = f"go on with: tunewright resume {directory}"
        kept = (RunDir(directory).data / "receipt.json").exists()
        typer.echo(f"interrupted; {where if kept else 'nothing was written yet, start again'}", err=True)
        raise typer.Exit(130) from None


def _judging(options: dict[str, Any]) -> Judging:
    shots_from = options.get("shots_from")
    return Judging(
        metrics=options["metrics"] or None,
        columns=output.columns_of(options["columns"]),
        rows=options["rows"],
        shots=options.get("shots", 0),
        shots_from=str(shots_from) if shots_from else None,
    )


def _finish(run: Run, as_json: bool) -> None:
    result, report = run.result, RunDir(run.path).report.resolve()
    lines = output.metric_lines(result["metrics"]) + output.verdict_lines(result["verdict"])
    output.emit(result, as_json, [*lines, "", f"report: file://{report}", str(run.path)])
    _exit_by(result["verdict"])


def _exit_by(verdict: dict[str, Any]) -> None:
    if verdict["word"] == "DON'T SHIP":
        raise typer.Exit(1)
