"""``data check``: what is in some files and what is wrong with them, in one pass that changes nothing.

    report = check(["train.jsonl", "test.jsonl"])
    report.usable            # False if a row was rejected
    report.to_dict()         # for --json

With ``audit=AuditSettings()`` the rows are audited for quality and bias too (``audit/``).

Memory: a few numbers and hashes per row; the audit holds a bounded sample of the rows. ``check_view.py``
turns a report into text.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tunewright.core.paths import written_atomically
from tunewright.data.audit.counterfactual import swapped_example
from tunewright.data.audit.result import Part
from tunewright.data.audit.settings import AuditSettings
from tunewright.data.audit.whole import Audit
from tunewright.data.canonical import to_jsonl
from tunewright.data.check_benchmarks import LookUp
from tunewright.data.check_tally import FileProfile, Finding, Tally
from tunewright.data.clean.refusals import refuses
from tunewright.data.columns import MISSING, lookup
from tunewright.data.contamination.benchmarks import index_of
from tunewright.data.load import FileFacts, Reader
from tunewright.data.problems import Problem
from tunewright.data.rows import Raw


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``check`` found. ``lengths``: the ``QUANTILES`` of words and characters of rows and answers;
    ``numbers``: those of labels that are numbers on a scale, of margins and of scores; ``audit`` the parts of
    the audit, empty where none was asked for or there are too few rows."""

    files: list[FileFacts]
    kinds: dict[str, int]
    rows: int
    kept: int
    problems: list[Problem]
    lengths: dict[str, dict[str, list[int]]]
    labels: dict[str, int]
    numbers: dict[str, list[float]]
    findings: list[Finding]
    audit: list[Part] = field(default_factory=list)

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
    audit: AuditSettings | None = None,
    benchmarks: Mapping[str, str] | None = None,
) -> CheckReport:
    """Read files and report; raises ``DataError`` for a file that cannot be read or recognised at all.

    ``benchmarks``: name -> file of test items that should not stand in the rows; public test sets that are
    bundled are always looked for.
    """
    looked_up = LookUp(index_of(benchmarks or {}, public=True))
    tally, auditor = Tally(), Audit(audit, refuses, columns) if audit else None
    files, problems = [], []
    with _pairs_file(audit) as pairs:
        for path in paths:
            time = audit.time if audit else None
            reader = Reader(
                path, columns=columns, format=format, group=group, besides=(time,) if time else ()
            )
            profile = FileProfile()
            for raw in reader.raws():
                for item in reader.read(raw):
                    if isinstance(item, Problem):
                        problems.append(item)
                        continue
                    key = tally.add(item, reader.source, profile)
                    looked_up.add(item)
                    if auditor:
                        auditor.sample.add(item, key, _time(raw, time))
                    if pairs and (other := swapped_example(item)) is not None:
                        pairs.write(to_jsonl([other]))
            problems += reader.file_problems()
            profile.report_to(tally)
            files.append(reader.facts())
    labels = tally.labels_table()
    return CheckReport(
        files,
        dict(tally.kinds),
        sum(f.rows for f in files),
        tally.kept,
        problems,
        tally.quantiles(),
        labels,
        tally.number_quantiles(),
        tally.findings() + looked_up.findings(),
        auditor.parts(labels) if auditor else [],
    )


@contextmanager
def _pairs_file(audit: AuditSettings | None) -> Iterator[BinaryIO | None]:
    """Where swapped rows go, if anywhere; an existing file is replaced only when all are written."""
    if audit is None or audit.pairs is None:
        yield None
        return
    with written_atomically(Path(audit.pairs)) as temporary, temporary.open("wb") as file:
        yield file


def _time(raw: Raw, column: str | None) -> object:
    """What stands in the time column of a row; ``None`` without one."""
    value = lookup(raw.value, column) if column else MISSING
    return None if value is MISSING else value
