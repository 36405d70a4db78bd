"""Historical drift: do rows of different times differ, in what, and since when?

Rows are put in the order of their time column and cut into periods of equal size. Each later period is
compared with the first: shares of labels (chi-square, population stability index), lengths, and texts
(two-sample test).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time

from tunewright.data.audit.intervals import Estimate, auc, chi_square, holm, p_of_auc, stability_index
from tunewright.data.audit.result import Part, shortened, skipped
from tunewright.data.audit.sample import Row, classes_of, drawn, within
from tunewright.data.audit.two_sample import DIFFERENT, FEWEST, differs, in_words, told_apart

NAME = "drift over time"
ROWS, CHARACTERS = 10_000, 3_000_000
PERIODS = 8
PER_PERIOD = 3 * FEWEST
SHIFTED = 0.1  # population stability index, by custom "moderate"
LONGER = 0.1  # distance of the AUC of lengths from 0.5 that matters
CERTAIN = 0.01


@dataclass(frozen=True, slots=True)
class Period:
    """One stretch of time against the first one; ``psi`` and ``p_labels`` are of the shares of labels,
    ``length`` the probability that a row of it is longer than one of the first period, ``p`` are adjusted for
    their number."""

    begin: str
    end: str
    n: int
    psi: float | None
    p_labels: float
    length: Estimate
    p_length: float
    text: Estimate
    changed: tuple[str, ...] = ()


def moment(value: object) -> float | None:
    """Seconds since 1970 of a date, an ISO 8601 text, a year or year and month, or a number (seconds, or
    milliseconds from 10^11 on); ``None`` for anything else. A time without a zone is read as UTC."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC).timestamp()
    if isinstance(value, int | float):
        return _of_number(float(value))
    text = str(value).strip()
    if re.fullmatch(r"(?:19|20)\d\d(?:-\d\d?)?", text):
        year, _, month = text.partition("-")
        return moment(date(int(year), int(month or 1), 1)) if 0 < int(month or 1) <= 12 else None
    if re.fullmatch(r"\d{9,14}(?:\.\d+)?", text):
        return _of_number(float(text))
    try:
        return moment(datetime.fromisoformat(text))
    except ValueError:
        return None


def _of_number(number: float) -> float | None:
    if 1900 <= number < 2101:
        return moment(date(int(number), 1, 1))
    return number / 1000 if number >= 1e11 else number if number > 0 else None


def drift(rows: Sequence[Row], total: int, column: str, seed: int = 0) -> Part:
    """The part of the report; rows without a readable time are counted and left out."""
    rows = within(rows, CHARACTERS, ROWS)
    timed = [(when, row) for row in rows if (when := moment(row.time)) is not None]
    timed.sort(key=lambda pair: (pair[0], pair[1].arrived))
    count = min(PERIODS, len(timed) // PER_PERIOD)
    if count < 2 or timed[0][0] == timed[-1][0]:
        why = (
            f"Needs {2 * PER_PERIOD} rows of different times; {len(timed)} of {len(rows)} rows have a time in"
            f" {column!r} that can be read (ISO 8601, year, or seconds since 1970)."
        )
        return skipped(NAME, why, len(timed), total, "Name the column with the time of a row.")
    found = compared(_cut(timed, count), seed)
    return _part(found, len(timed), len(rows), total)


def _cut(timed: list[tuple[float, Row]], count: int) -> list[list[tuple[float, Row]]]:
    """``count`` periods of equal size; rows of one moment stay together."""
    edges = [round(i * len(timed) / count) for i in range(count + 1)]
    for i in range(1, count):
        while edges[i] < len(timed) and timed[edges[i]][0] == timed[edges[i] - 1][0]:
            edges[i] += 1
    parts = [timed[a:b] for a, b in itertools.pairwise(edges)]
    return [part for part in parts if len(part) >= FEWEST]


def compared(periods: list[list[tuple[float, Row]]], seed: int = 0) -> list[Period]:
    """Each later period against the first, p values adjusted over all of them."""
    if len(periods) < 2:
        return []
    classes = dict(zip(map(id, rows := [r for p in periods for _, r in p]), classes_of(rows), strict=True))
    labels = [Counter(c for _, r in p if (c := classes[id(r)]) is not None) for p in periods]
    lengths = [[len(r.text) for _, r in p] for p in periods]
    texts = [[r.prompt for _, r in p] for p in periods]
    names = sorted(set().union(*labels))
    tables = [[c[name] for name in names] for c in labels]
    tests = [chi_square(tables[0], t) if len(names) > 1 else 1.0 for t in tables[1:]]
    longer = [auc(later, lengths[0]) for later in lengths[1:]]
    told = [told_apart(texts[0], later, seed) for later in texts[1:]]
    adjusted = holm([*tests, *map(p_of_auc, longer), *map(p_of_auc, told)])
    later = range(1, len(periods))
    found = []
    for i in later:
        p_labels, p_length, p_text = adjusted[i - 1 :: len(later)]
        psi = stability_index(tables[0], tables[i]) if len(names) > 1 else None
        text = told[i - 1]
        changed = [
            *(["labels"] if psi is not None and p_labels < CERTAIN and psi >= SHIFTED else []),
            *(["lengths"] if p_length < CERTAIN and abs(longer[i - 1].value - 0.5) >= LONGER else []),
            *(["texts"] if p_text < CERTAIN and differs(text) else []),
        ]
        begin, end = (_day(periods[i][k][0]) for k in (0, -1))
        found.append(
            Period(begin, end, len(periods[i]), psi, p_labels, longer[i - 1], p_length, text, tuple(changed))
        )
    return found


def began(periods: Sequence[Period], what: str) -> str | None:
    """The day from which ``what`` differed from the first period and did so to the end."""
    since = None
    for period in reversed(periods):
        if what not in period.changed:
            break
        since = period.begin
    return since


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _part(periods: list[Period], n: int, looked: int, total: int) -> Part:
    if not periods:
        return skipped(NAME, "Almost all rows have the same time.", n, total)
    last = periods[-1]
    lines = []
    for what in ("labels", "texts", "lengths"):
        since = began(periods, what)
        if since:
            how = {
                "labels": f"population stability index {last.psi or 0:.2f}, over 0.25 is a clear shift",
                "texts": f"AUC {last.text.value:.2f} [{last.text.low:.2f}, {last.text.high:.2f}]",
                "lengths": f"a late row is longer than an early one with probability {last.length.value:.2f}",
            }[what]
            lines.append(f"{what} differ from the first period since {since} at the latest ({how})")
        elif any(what in p.changed for p in periods):
            when = ", ".join(f"{p.begin} to {p.end}" for p in periods if what in p.changed)
            lines.append(f"{what} differed for a time: {when}")
    without = f"; {looked - n} rows without a readable time left out" if looked > n else ""
    measured = (
        f"{len(periods) + 1} periods of {drawn(n, total)} by time{without}; texts of the first and"
        f" the last period"
        f" {in_words(last.text)} (AUC {last.text.value:.2f} [{last.text.low:.2f}, {last.text.high:.2f}];"
        f" from {DIFFERENT} on it matters)"
    )
    return Part(
        NAME,
        "look" if lines else "fine",
        measured,
        "Old rows teach what is no longer so, and a random test set flatters the model."
        if lines
        else "Rows of all times are alike.",
        "Train on the later rows or weight them, and test on the latest." if lines else "Nothing to do.",
        n,
        total,
        shortened(lines),
        {"periods": [_plain(p) for p in periods]},
    )


def _plain(period: Period) -> dict[str, object]:
    return {**asdict(period), "length": period.length._asdict(), "text": period.text._asdict()}
