"""The split by time: the latest rows are never learnt from, groups stay whole, what has no time is said."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.core.config import build
from tunewright.core.errors import DataError
from tunewright.data.load import load
from tunewright.data.pipeline import PrepareSettings, prepare_to
from tunewright.data.split_time import PLACES, deal_by_time, seconds_of

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("1970-01-02", 86400), ("1970-01-01T01:00:00+01:00", 0), ("1970-01-01 00:00:01Z", 1), (1.5, 1.5),
        (1_700_000_000_000, 1_700_000_000), ("1700000000", 1_700_000_000), (datetime(1970, 1, 1, 0, 1), 60),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
    ],
)  # fmt: skip
def test_times_that_are_read(value, seconds):
    assert seconds_of(value) == seconds


@pytest.mark.parametrize("value", [None, "", "yesterday", True, [1], "12/31/2024"])
def test_what_is_no_time(value):
    assert math.isnan(seconds_of(value))


def test_the_latest_rows_test_and_those_before_them_validate():
    sides, notes = deal_by_time(np.arange(10), np.arange(10.0)[::-1].copy(), SHARES)
    assert sides.tolist() == [2, 2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert notes[-1] == "test: 2 rows from 1970-01-01T00:00:08+00:00 to 1970-01-01T00:00:09+00:00"


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 50)), min_size=15, max_size=60))
def test_nothing_that_is_trained_on_is_later_than_a_whole_group_that_is_not(rows):
    names = [group for group, _ in rows]
    groups = np.array([names.index(name) for name in names])
    times = np.array([float(at) for _, at in rows])
    if len(set(names)) < 3:
        with pytest.raises(DataError, match="too few"):
            deal_by_time(groups, times, SHARES)
        return
    sides, _ = deal_by_time(groups, times, SHARES)
    assert set(sides.tolist()) == {0, 1, 2}
    latest = {
        g: max(t for other, t in zip(groups, times, strict=True) if other == g) for g in set(groups.tolist())
    }
    by_side = {
        side: {latest[g] for g, s in zip(groups.tolist(), sides, strict=True) if s == side}
        for side in (0, 1, 2)
    }
    assert max(by_side[PLACES["train"]]) <= min(by_side[PLACES["validation"]])
    assert max(by_side[PLACES["validation"]]) <= min(by_side[PLACES["test"]])
    assert all(
        len({s for g2, s in zip(groups, sides, strict=True) if g2 == g}) == 1 for g in set(groups.tolist())
    )


def test_prepare_divides_by_the_time_of_rows(tmp_path):
    rows = [{"question": f"q {i}", "answer": f"a {i}", "on": f"2024-01-{1 + i % 28:02}"} for i in range(56)]
    rows.append({"question": "q", "answer": "a", "on": "soon"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = build(PrepareSettings, {"split": {"time": "on"}})
    receipt = prepare_to(tmp_path / "out", {"train": [tmp_path / "a.jsonl"]}, settings)
    test = load([tmp_path / "out" / "test.jsonl"]).examples
    assert {(e.meta.line - 1) % 28 for e in test} == {25, 26, 27}
    rejected = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert (rejected["line"], rejected["reason"]) == (57, "no_time")
    assert receipt["rows_in"] == receipt["rows_out"] + 1
    with pytest.raises(DataError, match="no training row has a time under 'when'"):
        settings = build(PrepareSettings, {"split": {"time": "when"}})
        prepare_to(tmp_path / "none", {"train": [tmp_path / "a.jsonl"]}, settings)


def test_a_year_is_a_year_however_it_is_written():
    first = seconds_of("2024-01-01")
    assert seconds_of("2024") == seconds_of(2024) == seconds_of(2024.0) == first
    assert seconds_of(2023) < first < seconds_of("2024-02-01")
