"""The command line: a thin shell. Each command parses its words, calls the library and prints the answer."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.loading import loading
from tunewright.cli.main_data import data_app
from tunewright.cli.options import Columns, Json
from tunewright.core.errors import TunewrightError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.add_typer(data_app, name="data")
adapter_app = typer.Typer(
    no_args_is_help=True, help="Combine, extract and merge adapters.", rich_markup_mode=None
)
app.add_typer(adapter_app, name="adapter")

Overrides = Annotated[list[str] | None, typer.Argument(help="Settings as section.key=value.")]
DataFile = Annotated[Path, typer.Option("--data", help="File with the questions and the right answers.")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="Metric; repeatable. The first decides.")]
Rows = Annotated[int | None, typer.Option(help="Use at most this many rows.")]

NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def main() -> None:
    """Entry point: errors that are the user's to mend are one sentence and exit status 2."""
    try:
        app()
    except TunewrightError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        if error.errno in NO_SPACE:
            said += "; free some space, or raise the limit, and give the same command again"
        typer.echo(f"error: {said}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Turn your data into a better language model, and prove that it is better."""
    if version:
        from tunewright import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/quickstart"), as_json: Json = False
) -> None:
    """The whole life cycle on the embedded model and bundled data; ends in a report."""
    with loading():
        from tunewright.cli import commands

    commands.quickstart(out, as_json)


@app.command()
def init(directory: Annotated[Path, typer.Argument(help="Where to put recipe.yaml.")] = Path(".")) -> None:
    """Write a commented recipe.yaml, fitted to this machine."""
    with loading():
        from tunewright.cli import commands

    commands.init(directory)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    overrides: Overrides = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory to plan for, e.g. 4GB; default all there is.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every setting with its source, what the run would do and the memory it needs, without doing it."""
    with loading():
        from tunewright.cli import commands

    commands.plan(recipe, overrides or [], memory, as_json)


@app.command()
def train(
    words: Annotated[
        list[str] | None, typer.Argument(help="RECIPE and settings as section.key=value.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model, instead of a recipe.")] = None,
    data: Annotated[Path | None, typer.Option(help="Training file, instead of a recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    as_json: Json = False,
) -> None:
    """Train, prove and report; the last line printed is the run directory."""
    with loading():
        from tunewright.cli import commands

    commands.train(words or [], model, data, out, as_json)


@app.command()
def resume(run: Annotated[Path, typer.Argument(help="Run directory.")], as_json: Json = False) -> None:
    """Go on with an interrupted run, to the same bits."""
    with loading():
        from tunewright.cli import commands

    commands.resume(run, as_json)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Run directory, model, adapter, hub id or embedded name.")],
    data: DataFile,
    metric: Metrics = None,
    column: Columns = None,
    rows: Rows = None,
    shots: Annotated[int, typer.Option(help="Examples put before each question.")] = 0,
    shots_from: Annotated[Path | None, typer.Option(help="File to take the examples from.")] = None,
    as_json: Json = False,
) -> None:
    """Score a model on a file: every metric with n and interval."""
    with loading():
        from tunewright.cli import commands

    options = {"metrics": metric, "columns": column, "rows": rows, "shots": shots, "shots_from": shots_from}
    commands.evaluate(model, data, options, as_json)


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="Two or more models; the last is the candidate.")],
    data: DataFile,
    metric: Metrics = None,
    column: Columns = None,
    rows: Rows = None,
    as_json: Json = False,
) -> None:
    """Compare models on the same rows: paired differences with intervals, and a verdict."""
    with loading():
        from tunewright.cli import commands

    commands.compare(models, data, {"metrics": metric, "columns": column, "rows": rows}, as_json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Run directory, model, adapter, hub id or embedded name.")],
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
) -> None:
    """Talk to a model; answers stream. An empty line or Ctrl-D ends."""
    with loading():
        from tunewright.cli import commands

    commands.chat(model, system, temperature, max_new_tokens)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of run directories.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs with their verdicts."""
    with loading():
        from tunewright.cli import commands

    commands.runs(folder, as_json)


@adapter_app.command("combine")
def adapter_combine(
    adapters: Annotated[list[str], typer.Argument(help="Two or more LoRA adapters or runs of one base.")],
    out: Annotated[Path, typer.Option(help="New directory for the adapter.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Weight of each, in order; repeatable. Default: the mean.")
    ] = None,
    how: Annotated[str, typer.Option(help="linear, ties, dare or dare_ties.")] = "linear",
    density: Annotated[float, typer.Option(help="Share of each that ties and dare keep.")] = 0.5,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the result; default: the sum.")] = None,
    seed: Annotated[int, typer.Option(help="Decides what dare drops.")] = 0,
    as_json: Json = False,
) -> None:
    """Write one adapter that does what several do together."""
    with loading():
        from tunewright.cli import adapters as commands

    options = {"how": how, "density": density, "rank": rank, "seed": seed}
    commands.combine(adapters, weight, out, options, as_json)


@adapter_app.command("extract")
def adapter_extract(
    tuned: Annotated[str, typer.Argument(help="A whole tuned model.")],
    base: Annotated[str, typer.Argument(help="The model that it was made from.")],
    out: Annotated[Path, typer.Option(help="New directory for the adapter.")],
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 32,
    rest: Annotated[
        str, typer.Option(help="Differences outside linear layers: refuse, keep or drop.")
    ] = "refuse",
    as_json: Json = False,
) -> None:
    """Write the difference of two models as a LoRA adapter, with the share of it that the rank holds."""
    with loading():
        from tunewright.cli import adapters as commands

    commands.extract(tuned, base, out, {"rank": rank, "rest": rest}, as_json)


@adapter_app.command("merge")
def adapter_merge(
    adapter: Annotated[str, typer.Argument(help="An adapter, or a run with one.")],
    out: Annotated[Path, typer.Option(help="New directory for the model.")],
    as_json: Json = False,
) -> None:
    """Fold an adapter into its base and write the whole model; compared before and after."""
    with loading():
        from tunewright.cli import adapters as commands

    commands.merge(adapter, out, as_json)
