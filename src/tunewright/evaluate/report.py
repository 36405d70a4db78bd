"""The report of a run: one HTML file that needs no network, no font and no script to be read.

    >>> write_text(run.report, render_report(ReportData(result=result, receipt=receipt)))

Adding a section: a function in ``report_view.py``, a template in ``report/``, a line in ``page.html.j2``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunewright.core.errors import RunError
from tunewright.evaluate import report_scores as scores
from tunewright.evaluate import report_view as view
from tunewright.evaluate import show

_FOLDER = Path(__file__).with_suffix("")
_REQUIRED = ("status", "tunewright", "created", "name", "model", "counts", "verdict")


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows, as plain values. Only ``result`` is required; gaps are said in words.

    result:      the content of ``result.json``. Metric values, intervals and differences are in the metric's
                 ``unit`` (41.7 with unit ``%``, or 0.417 with unit ``share``); a difference is tuned minus
                 baseline. Intervals are at their ``level``, 95 % if they name none.
    curves:      ``train``, ``validation``, ``learning_rate``: lists of (step, value); ``metric``: ``None`` or
                 ``{"name", "points"}``.
    answers:     one mapping per test row: ``where``, ``prompt``, ``reference``, ``answers`` and ``scores`` by
                 system, ``group`` (``random``, ``worst`` or ``best``).
    first_batch: the documents of the first packed batch, each a list of (token text, loss weight, role).
    batch_labels: the label of each of these documents, where a head learns labels instead of tokens.
    receipt:     the data receipt, any nesting of mappings and lists.
    settings:    one mapping per setting: ``name``, ``value``, ``source`` (default, recipe, command line or
                 auto) and ``help``.
    reproduce:   the command lines that repeat the run.
    """

    result: Mapping[str, Any]
    curves: Mapping[str, Any] = field(default_factory=dict)
    answers: Sequence[Mapping[str, Any]] = ()
    first_batch: Sequence[Sequence[tuple[str, float, str]]] = ()
    batch_labels: Sequence[str] = ()
    receipt: Mapping[str, Any] = field(default_factory=dict)
    settings: Sequence[Mapping[str, Any]] = ()
    reproduce: Sequence[str] = ()


def render_report(report: ReportData) -> str:
    """The whole page as text. Raises ``RunError`` if ``result`` lacks a part that every report needs."""
    missing = [k for k in _REQUIRED if k not in report.result]
    if missing:
        raise RunError(f"the result lacks {', '.join(missing)}; write result.json before the report")
    style, script = (_FOLDER / "style.css").read_text("utf-8"), (_FOLDER / "filter.js").read_text("utf-8")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            result=report.result,
            predicted=report.result["model"].get("judged") in view.PREDICTED,
            numeric=report.result["model"].get("judged") == "numbers",
            sampled=report.result["model"].get("judged") == view.SAMPLED,
            referenced=any(a["reference"] for a in report.answers),
            compared=report.result["model"].get("judged") in view.COMPARED,
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
            verdict=scores.verdict(report.result),
            forests=scores.forests(report.result),
            level=scores.level_of(report.result),
            facts=view.run_facts(report.result),
            metrics=scores.metrics_table(report.result),
            groups=view.answer_groups(report.answers),
            unfinished=view.unfinished(report.result),
            training=view.training(report.result, report.curves),
            batch=view.batch(report.first_batch, report.batch_labels),
            receipt=view.receipt_blocks(report.receipt),
            cost=view.cost(report.result),
            settings=[{**s, "value": view.cell(s["value"])} for s in report.settings],
            reproduce=report.reproduce,
        )
    )


def _policy(style: str, script: str) -> str:
    """A policy that forbids every load, and every style and script but the two of this page.

    Even text that slipped through escaping could neither run nor fetch. Source: CSP Level 3, hash sources.
    """
    hashes = f"style-src {_source(style)}; script-src {_source(script)}"
    return f"default-src 'none'; {hashes}; base-uri 'none'; form-action 'none'"


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: Any) -> Any:
    """Text on its way into the page: unseen characters are named. Markup made here passes as it is."""
    return show.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = show.number
    environment.filters["words"] = show.words_of
    return environment
