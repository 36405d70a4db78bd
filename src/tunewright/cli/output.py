"""Printing answers: one JSON document on stdout, or plain tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from tunewright.core.errors import ConfigError


def emit(document: Any, as_json: bool, lines: Sequence[str]) -> None:
    """Print ``document`` as JSON, or ``lines`` for people."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str) if as_json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def number(value: float, unit: str) -> str:
    """A value in its unit: shares as per cent."""
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.4g}"


def estimate(e: dict[str, Any], unit: str) -> str:
    """``41.7 % [30.1, 53.9]``"""
    scale = 100 if unit == "share" else 1
    return f"{number(e['value'], unit)} [{scale * e['low']:.4g}, {scale * e['high']:.4g}]"


def change(d: dict[str, Any], unit: str) -> str:
    """``+11.6 points [+2.1, +20.8]``"""
    scale, name = (100, " points") if unit == "share" else (1, "")
    return f"{scale * d['value']:+.4g}{name} [{scale * d['low']:+.4g}, {scale * d['high']:+.4g}]"


def metric_lines(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """A table of every metric: one column per system, then the differences."""
    lines = []
    for m in metrics:
        lines.append(f"{m['name']}  (n = {m['n']})")
        for system, e in m.get("systems", {}).items():
            lines.append(f"  {system:<28} {estimate(e, m['unit'])}")
        for system, d in m.get("differences", {}).items():
            lines.append(f"  change from {system:<16} {change(d, m['unit'])}  p = {d['p']:.3g}")
    return lines


def verdict_lines(verdict: dict[str, Any]) -> list[str]:
    """The verdict in one or two lines."""
    lines = ["", f"{verdict['word']}: {verdict['reason']}"]
    if verdict["word"] == "CAN'T TELL" and verdict["metric"]:
        rows = verdict["rows_that_would_decide"]
        lines.append(
            f"About {rows:,} test rows would decide."
            if rows
            else "No number of test rows can be named that would decide."
        )
    return lines


def columns_of(words: Sequence[str] | None) -> dict[str, str] | None:
    """``["prompt=body"]`` -> ``{"prompt": "body"}``."""
    if not words:
        return None
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, source) in zip(words, pairs, strict=True):
        if not (name and equals and source):
            raise ConfigError(f"--column {word!r} is not of the form target=source, e.g. prompt=body")
    return {name: source for name, _, source in pairs}
