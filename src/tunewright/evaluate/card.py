"""The model card: what was made, from what, how good it is, in Markdown that people and hubs can read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tunewright.evaluate import show
from tunewright.evaluate.report_scores import (
    View,
    level_of,
    metrics_of,
    primary_metric,
    system_name,
    systems_in_order,
)
from tunewright.evaluate.report_view import cell

OWNER = "**For the owner to fill in.**"


def model_card(
    result: Mapping[str, Any],
    receipt: Mapping[str, Any],
    *,
    license: str = "unknown",
    library_name: str = "peft",
    reproduce: Sequence[str] = (),
) -> str:
    """The README of a tuned model: YAML front matter, then Markdown.

    ``result`` is the content of ``result.json``, ``receipt`` the data receipt: its ``files`` with their
    hashes become the lineage. ``license`` stays ``unknown`` unless the owner names one; ``library_name`` is
    what reads it: ``peft`` for most adapters, ``transformers`` for a whole model.
    """
    parts = [
        _front_matter(result, license, library_name),
        f"# {_plain(result['name'])}",
        _what(result),
        "## Verdict",
        _verdict(result),
        "## Results",
        _results(result),
        "## Intended use",
        f"{OWNER} Who should use this model, for what, and for what not.",
        "## Limits",
        _limits(result),
        "## Data",
        _lineage(result, receipt),
        "## Training",
        _training(result),
        "## Reproduce",
        _reproduce(reproduce),
        f"Written by Tunewright {_plain(result['tunewright'])} on {_plain(result['created'])}. "
        "`report.html` beside this file shows answers, curves and every setting.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(result: Mapping[str, Any], license: str, library_name: str) -> str:
    tags = [
        "tunewright",
        result["model"]["objective"],
        *(["lora"] if "lora" in result["model"]["adapt"].lower() else []),
    ]
    fields = {
        "base_model": result["model"]["name"],
        "library_name": library_name,
        "license": license,
        "tags": list(dict.fromkeys(tags)),
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _what(result: Mapping[str, Any]) -> str:
    model, state = (
        result["model"],
        "" if result["status"] == "finished" else " **The run was stopped before its end.**",
    )
    return (
        f"{_plain(model['name'])}, adapted with {_plain(model['adapt'])} "
        f"(objective: {_plain(model['objective'])}); {show.number(model.get('trained_parameters'))} of "
        f"{show.number(model.get('parameters'))} parameters trained.{state}"
    )


def _verdict(result: Mapping[str, Any]) -> str:
    verdict, metric = result["verdict"], primary_metric(result)
    lines = [f"**{verdict['word']}.** {_plain(verdict['reason'])}"]
    rows = verdict.get("rows_that_would_decide")
    if verdict["word"] == "CAN'T TELL":
        had = f"; this run had {show.number(metric['n'])}" if metric else ""
        lines.append(f"About {show.number(rows)} test rows would decide{had}." if rows is not None else "")
    return "\n\n".join(line for line in lines if line)


def _results(result: Mapping[str, Any]) -> str:
    metrics = metrics_of(result)
    if not metrics:
        return "No metric was measured, so nothing is known about the quality of this model."
    rows = [_row(metric, name) for metric in metrics for name in systems_in_order(metric["systems"])]
    level = level_of(result)
    head = ("Metric", "System", "n", f"Score ({level} interval)", f"Tuned minus this ({level} interval)")
    notes = [f"- `{_code(m['name'])}`: {_plain(show.sentence(m['description']))}" for m in metrics]
    return _table(head, rows) + "\n\n" + "\n".join(notes)


def _row(metric: View, name: str) -> tuple[str, ...]:
    decimals = show.decimals_for(metric["unit"], [s["value"] for s in metric["systems"].values()])
    score, found = metric["systems"][name], (metric.get("differences") or {}).get(name)
    value = show.quantity(score["value"], metric["unit"], decimals)
    lead = ""
    if found:
        bounds = show.interval(found["low"], found["high"], decimals, sign=True)
        lead = f"{show.change(found['value'], metric['unit'], decimals)} ({bounds})"
    interval = show.interval(score.get("low"), score.get("high"), decimals)
    return metric["name"], system_name(name), show.number(metric["n"]), f"{value} ({interval})", lead


def _limits(result: Mapping[str, Any]) -> str:
    warnings = [f"- {_plain(w)}" for w in result.get("warnings") or []]
    known = "The run warned of the following:\n\n" + "\n".join(warnings) + "\n\n" if warnings else ""
    return f"{known}{OWNER} Known weaknesses, languages, groups of people it was not tested on."


def _lineage(result: Mapping[str, Any], receipt: Mapping[str, Any]) -> str:
    counts = result["counts"]
    split = ", ".join(
        f"{show.number(counts[k])} {k}" for k in ("train", "validation", "test") if counts.get(k) is not None
    )
    text = f"Rows: {split}; {show.number(counts.get('rejected'))} rejected."
    files = [f for f in receipt.get("files") or [] if isinstance(f, Mapping)]
    if not files:
        return f"{text} There is no data receipt, so the data cannot be traced to files."
    columns = list(dict.fromkeys(k for f in files for k in f))
    rows = [tuple(cell(f.get(c)) for c in columns) for f in files]
    return f"{text}\n\n{_table([show.words_of(c) for c in columns], rows)}"


def _training(result: Mapping[str, Any]) -> str:
    facts, counts, cost = result.get("training") or {}, result["counts"], result.get("cost") or {}
    steps, tokens = show.number(counts.get("steps")), show.number(counts.get("tokens_trained"))
    lines = [f"- {steps} steps, {tokens} tokens read"]
    if facts.get("stop_reason"):
        lines.append(f"- Ended: {_plain(show.sentence(facts['stop_reason']))}")
    if facts.get("best_validation_loss") is not None:
        loss = show.number(facts["best_validation_loss"], 4)
        lines.append(
            f"- Kept the checkpoint of step {show.number(facts['best_step'])} (validation loss {loss})"
        )
    if cost.get("seconds"):
        lines.append(
            f"- {show.duration(sum(cost['seconds'].values()))} in all on {_plain(result['model']['device'])}"
        )
    return "\n".join(lines)


def _reproduce(commands: Sequence[str]) -> str:
    if not commands:
        return "No commands were recorded."
    return "\n".join(f"    {show.visible(line).replace(chr(10), ' ')}" for line in commands)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *[[_plain(c) for c in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text on one line in which no character means anything to Markdown or HTML."""
    line = " ".join(show.visible(str(text)).split())
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", line)


def _code(text: str) -> str:
    """Text inside a code span, which knows no escapes."""
    return " ".join(show.visible(text).replace("`", "'").split())
