"""``tunewright data synthesize``: rows written by a model, from documents or from rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tunewright.cli import output
from tunewright.cli.console import ConsoleObserver
from tunewright.core.config import Section, build
from tunewright.core.endpoint import Endpoint, check_url, key_from
from tunewright.data.near import near_texts
from tunewright.data.synthetic.reasons import REASONS
from tunewright.run.synthesize import Budget, Inputs, SynthesisSettings, synthesize
from tunewright.run.writers import ServerWriter, Writer


class ServerSettings(Section):
    """Where the model is; without ``url`` it runs on this machine."""

    url: str | None = Field(default=None, description="Server, up to and with /v1.")
    key_env: str = Field(default="", description="Environment variable that holds the API key.")
    seconds: float = Field(default=120.0, gt=0, le=3600, description="Time limit for one request.")

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None:
            check_url(value)
        return value


def command(files: Sequence[Path], out: Path, options: dict[str, Any], as_json: bool) -> None:
    """Make the rows and print their account.

    ``options``: those of ``SynthesisSettings``, ``Budget`` and ``ServerSettings`` by name, and ``real``,
    ``test`` and ``columns``; what is ``None`` keeps its default.
    """
    given = {name: value for name, value in options.items() if value is not None}
    settings = build(SynthesisSettings, _of(SynthesisSettings, given), where="data synthesize")
    budget = build(Budget, _of(Budget, given), where="data synthesize")
    server = build(ServerSettings, _of(ServerSettings, given), where="data synthesize")
    inputs = Inputs(
        [str(f) for f in files],
        [str(f) for f in given.get("real", ())],
        [str(f) for f in given.get("test", ())],
        output.columns_of(given.get("columns")),
    )
    writer = _writer(settings.model, server)
    observe = ConsoleObserver()
    receipt = synthesize(inputs, settings, writer, out, budget=budget, similar=near_texts, observe=observe)
    output.emit(receipt, as_json, receipt_lines(receipt, out))


def receipt_lines(receipt: dict[str, Any], out: Path) -> list[str]:
    """The account for people."""
    lines = [
        f"{receipt['answered']} of {receipt['asks']} requests answered in {receipt['replies']} replies,"
        f" {receipt['malformed_replies']} of them malformed, {receipt['tokens']} tokens",
        f"{receipt['rows']:>7} {out / 'rows.jsonl'}",
    ]
    lines += [
        f"{count:>7} left out ({reason}): {REASONS[reason]}" for reason, count in receipt["left_out"].items()
    ]
    if receipt["stopped"]:
        lines.append(f"note: stopped at {receipt['stopped']}, {receipt['not_asked']} requests were not sent")
    return [*lines, f"receipt: {out / 'receipt.json'}"]


def _of(section: type[Section], given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in section.model_fields}


def _writer(model: str, server: ServerSettings) -> Writer:
    key = key_from(server.key_env, "data synthesize")
    if server.url is not None:
        return ServerWriter(Endpoint(server.url, key, server.seconds))
    from tunewright.run.local_writer import LocalWriter

    return LocalWriter(model)
