"""``tunewright data …``: the words of the commands that look at data and make it; each hands them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunewright.cli.loading import loading
from tunewright.cli.options import Benchmarks, Columns, Files, Format, Group, Json
from tunewright.core.errors import ConfigError

data_app = typer.Typer(
    no_args_is_help=True,
    help="Look at data before training on it, and make it better.",
    rich_markup_mode=None,
)


@data_app.command("check")
def data_check(
    files: Files,
    column: Columns = None,
    format: Format = None,
    group: Group = None,
    sample: Annotated[
        Path | None, typer.Option(help="Inputs as users send them; coverage is measured against it.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Key with the time of a row; shows drift.")] = None,
    benchmark: Benchmarks = None,
    pairs: Annotated[
        Path | None, typer.Option(help="File for rows with gender swapped, to train on or probe with.")
    ] = None,
    audit: Annotated[bool, typer.Option(help="Audit quality and bias.")] = True,
    audit_rows: Annotated[int, typer.Option(min=100, help="Rows that the audit holds.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the rows that the audit draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Report malformed rows, duplicates, personal data, bias and more; exit 1 if a row is unusable."""
    from tunewright.cli import data as commands

    told = {"production": sample, "time": time, "pairs": pairs, "rows": audit_rows, "seed": seed}
    reading = {"columns": column, "format": format, "group": group, "benchmarks": benchmark}
    commands.check(files, reading, told if audit else None, as_json)


@data_app.command("prepare")
def data_prepare(
    files: Files,
    out: Annotated[Path, typer.Option(help="New directory for the prepared rows and the receipt.")],
    column: Columns = None,
    format: Format = None,
    group: Group = None,
    validation: Annotated[float, typer.Option(help="Share of rows for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of rows for the final test.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides which row goes where.")] = 0,
    time: Annotated[str | None, typer.Option(help="Key with the time of a row; the latest test.")] = None,
    clean: Annotated[bool, typer.Option(help="Mend texts, and leave out rows that teach nothing.")] = True,
    redact: Annotated[str, typer.Option(help="Personal data: mask, pseudonym, drop, keep or off.")] = "mask",
    names: Annotated[str, typer.Option(help="People: off, by cues, or in full with a model.")] = "cues",
    decisions: Annotated[
        Path | None, typer.Option(help="Prepared directory whose decisions (data review) are obeyed.")
    ] = None,
    near: Annotated[str, typer.Option(help="Near-duplicates: drop, group or off.")] = "drop",
    benchmark: Benchmarks = None,
    known: Annotated[
        str, typer.Option(help="Items of well-known public test sets: note, drop or off.")
    ] = "note",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default as many as pay.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting as section.key=value; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Clean, redact, drop duplicates and split; writes the rows and a receipt that accounts for each."""
    from tunewright.cli import data as commands

    reading = {"columns": column, "format": format, "group": group}
    split = {"validation": validation, "test": test, "seed": seed, "time": time}
    compare = {"near": near, "known": known, "benchmarks": benchmark}
    personal = {"redact": {"action": redact, "names": names}, "decisions": decisions and str(decisions)}
    given = {**reading, **personal, "clean": clean, "compare": compare, "split": split}
    commands.prepare(files, out, given, settings or [], workers, as_json)


@data_app.command("review")
def data_review(
    directory: Annotated[Path, typer.Argument(help="Prepared directory.")],
    listed: Annotated[bool, typer.Option("--list", help="List the questions; ask nothing.")] = False,
    decide: Annotated[
        list[str] | None, typer.Option(help="ID=mask, pseudonym, drop or keep; repeatable.")
    ] = None,
    apply: Annotated[
        Path | None, typer.Option(help="New directory: prepare the same files again, as it was decided.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="File with the key, if it is not your own.")] = None,
    as_json: Json = False,
) -> None:
    """Decide on uncertain findings, one by one, each shown where it stands; decisions are remembered."""
    from tunewright.cli import data, review

    if apply is not None and (listed or decide or key):
        raise ConfigError(
            "--apply prepares anew, by what was decided before; give it without the other options"
        )
    if apply is None:
        review.review(directory, decide or [], listed, as_json, str(key) if key else None)
    else:
        data.prepare_again(directory, apply, as_json)


@data_app.command("recommend")
def data_recommend(
    problem: Annotated[Path, typer.Option(help="20 to 200 examples of what good looks like.")],
    candidates: Annotated[list[Path], typer.Option(help="Data sets that could teach it.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[CANDIDATE]...")] = None,
    model: Annotated[str, typer.Option(help="Model that is to be taught.")] = "smollm2-135m-instruct",
    rows: Annotated[int, typer.Option(min=4, help="Rows of each data set that are looked at.")] = 32,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens of a row that are looked at.")] = 192,
    finalists: Annotated[int, typer.Option(min=0, help="Data sets that are trained on for proof.")] = 3,
    race_tokens: Annotated[int, typer.Option(min=256, help="Tokens that each finalist may train on.")] = 6144,
    replies: Annotated[int, typer.Option(min=0, help="Replies shown before and after.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides which rows are drawn.")] = 0,
    test: Annotated[Path | None, typer.Option(help="Test set whose rows must not be taught.")] = None,
    as_json: Json = False,
) -> None:
    """Which data set to train on for a problem, measured; exit 1 if none helps."""
    with loading():
        from tunewright.cli import recommend as commands

    told = {"model": model, "rows": rows, "max_length": max_length, "finalists": finalists, "seed": seed}
    told |= {"race_tokens": race_tokens, "replies": replies}
    commands.recommend(problem, [*candidates, *(more or [])], told, test, as_json)


@data_app.command("synthesize")
def data_synthesize(
    files: Annotated[list[Path], typer.Argument(help="Documents, or rows to write others from.")],
    out: Annotated[Path, typer.Option(help="New directory for the rows and the receipt.")],
    make: Annotated[str | None, typer.Option(help="questions, paraphrases or negatives.")] = None,
    model: Annotated[str | None, typer.Option(help="Model that writes.")] = None,
    url: Annotated[str | None, typer.Option(help="OpenAI-compatible server, up to and with /v1.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Environment variable with the API key.")] = None,
    real: Annotated[
        list[Path] | None, typer.Option(help="Real rows, of which none is to be copied; repeatable.")
    ] = None,
    test: Annotated[list[Path] | None, typer.Option(help="Test rows to stay clear of; repeatable.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Rows asked for at a time.")] = None,
    passage: Annotated[int | None, typer.Option(min=1, help="Characters of a passage.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 writes the likeliest.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest reply.")] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="New tries after a malformed reply.")] = None,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Requests at most.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens at most.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Time limit for one request.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the writing.")] = None,
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Rows written by a model from documents or rows; each checked, marked, and never for testing."""
    with loading():
        from tunewright.cli import synthesize as commands

    told: dict[str, Any] = {
        "making": make,
        "model": model,
        "url": url,
        "key_env": key_env,
        "seconds": seconds,
        "seed": seed,
    }
    told |= {"real": real, "test": test, "columns": column, "count": count, "passage": passage}
    told |= {"temperature": temperature, "max_new_tokens": max_new_tokens, "retries": retries}
    told |= {"max_requests": max_requests, "max_tokens": max_tokens}
    commands.command(files, out, told, as_json)


@data_app.command("show")
def data_show(
    file: Annotated[Path, typer.Argument(help="Data file.")],
    model: Annotated[str, typer.Option(help="Model whose chat template is used.")] = "smollm2-135m-instruct",
    n: Annotated[int, typer.Option("-n", min=1, help="Rows to show.")] = 3,
    train_on: Annotated[str, typer.Option(help="assistant, last, all or message.")] = "assistant",
    column: Columns = None,
    as_json: Json = False,
) -> None:
    """Show rendered rows with the weight of every token: trained tokens stand out, context is dim."""
    from tunewright.cli import data as commands

    options: dict[str, Any] = {"model": model, "n": n, "train_on": train_on, "columns": column}
    commands.show(file, options, as_json)
