"""A ``CheckReport`` as lines of plain text, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Iterator

from tunewright.data.audit.result import Part
from tunewright.data.check import CheckReport
from tunewright.data.check_tally import PLACES, Finding
from tunewright.data.problems import RULES, Problem

LABELS_SHOWN = 10


def check_lines(report: CheckReport) -> Iterator[str]:
    """The report from the whole to the detail: files, problems, sizes, labels, numbers, findings."""
    for file in report.files:
        yield f"{file.path}: {file.rows} rows, {file.container}, {file.format}"
    verdict = "usable" if report.usable else "not usable as it is"
    yield f"{report.rows} rows, {report.kept} kept, {len(report.rejected)} rejected: {verdict}"
    yield from _problems(report.problems)
    yield from _sizes(report)
    yield from _labels(report.labels)
    for what, (low, *middle, high) in report.numbers.items():
        yield f"{what}: {low:g} to {high:g}, median {middle[2]:g}, 95 % up to {middle[4]:g}"
    for finding in report.findings:
        yield from _finding(finding)
    for part in report.audit:
        yield from _part(part)


def _part(part: Part) -> Iterator[str]:
    if part.verdict == "skipped":
        yield f"audit: {part.name}: not looked at. {part.meaning}"
        return
    yield f"audit: {part.name}: {part.verdict}. {part.measured[0].upper()}{part.measured[1:]}."
    yield from (f"    {line}" for line in part.lines)
    if part.verdict == "look":
        yield f"    {part.meaning} {part.advice}"


def _problems(problems: list[Problem]) -> Iterator[str]:
    for action in ("rejected", "repaired", "noted"):
        by_reason: dict[str, list[Problem]] = {}
        for item in problems:
            if item.action == action:
                by_reason.setdefault(item.reason, []).append(item)
        for reason, items in sorted(by_reason.items(), key=lambda pair: -len(pair[1])):
            yield f"{action}: {len(items)} x {RULES[reason].what} ({reason}). {RULES[reason].remedy}"
            yield from (f"    {item.where()}: {item.detail}" for item in items[:PLACES])
            if len(items) > PLACES:
                yield f"    … and {len(items) - PLACES} more"


def _sizes(report: CheckReport) -> Iterator[str]:
    for what, units in report.lengths.items():
        for unit, values in units.items():
            low, *_, high = values
            yield f"{what}: {low} to {high} {unit}, median {values[3]}, 95 % up to {values[5]}"


def _labels(labels: dict[str, int]) -> Iterator[str]:
    if labels:
        shown = ", ".join(f"{label} ({n})" for label, n in list(labels.items())[:LABELS_SHOWN])
        rest = len(labels) - LABELS_SHOWN
        yield f"{len(labels)} labels: {shown}" + (f" … and {rest} more" if rest > 0 else "")


def _finding(finding: Finding) -> Iterator[str]:
    yield f"found: {finding.count} x {finding.what} ({finding.code}). {finding.why} {finding.advice}"
    if finding.places:
        more = finding.count - len(finding.places)
        yield "    " + ", ".join(finding.places) + (f" … and {more} more" if more > 0 else "")
