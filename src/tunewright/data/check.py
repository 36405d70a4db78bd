"""``data check``: what is in some files and what is wrong with them, in one pass that changes nothing.

    report = check(["train.jsonl", "test.jsonl"])
    report.usable            # False if a row was rejected
    report.to_dict()         # for --json

Memory: a few numbers and hashes per row, never the rows. ``check_view.py`` turns a report into text.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.data.check_tally import FileProfile, Finding, Tally
from tunewright.data.load import FileFacts, Reader
from tunewright.data.problems import Problem


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``check`` found. ``lengths``: the ``QUANTILES`` of words and characters of rows and answers;
    ``numbers``: those of labels that are numbers on a scale, of margins and of scores."""

    files: list[FileFacts]
    kinds: dict[str, int]
    rows: int
    kept: int
    problems: list[Problem]
    lengths: dict[str, dict[str, list[int]]]
    labels: dict[str, int]
    numbers: dict[str, list[float]]
    findings: list[Finding]

    @property
    def rejected(self) -> list[Problem]:
        return [p for p in self.problems if p.action == "rejected"]

    @property
    def usable(self) -> bool:
        """False if any row was rejected, or none was kept."""
        return self.kept > 0 and not self.rejected

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with ``usable`` and the number of problems of each reason."""
        counts = Counter((p.action, p.reason) for p in self.problems)
        reasons = [{"action": a, "reason": r, "count": n} for (a, r), n in sorted(counts.items())]
        return {"usable": self.usable, "reasons": reasons, **dataclasses.asdict(self)}


def check(
    paths: Iterable[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    group: str | None = None,
) -> CheckReport:
    """Read files and report; raises ``DataError`` for a file that cannot be read or recognised at all."""
    tally = Tally()
    files, problems = [], []
    for path in paths:
        reader = Reader(path, columns=columns, format=format, group=group)
        profile = FileProfile()
        for item in reader:
            if isinstance(item, Problem):
                problems.append(item)
            else:
                tally.add(item, reader.source, profile)
        profile.report_to(tally)
        files.append(reader.facts())
    rows = sum(f.rows for f in files)
    return CheckReport(
        files,
        dict(tally.kinds),
        rows,
        tally.kept,
        problems,
        tally.quantiles(),
        tally.labels_table(),
        tally.number_quantiles(),
        tally.findings(),
    )
