"""Two thousand of the mutated lines, and some of the files, that the benchmark has a hundred thousand of."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import fuzz_data

    return fuzz_data


def test_no_line_is_lost_whatever_was_done_to_it(fuzz, tmp_path):
    reasons = fuzz.fuzz_lines(tmp_path, 2000, 1, fuzz.everything_on())
    assert {"broken_json", "invalid_utf8", "too_deep", "lone_surrogate"} <= reasons.keys()


def test_files_are_prepared_or_refused_in_words(fuzz, tmp_path):
    outcomes = fuzz.fuzz_files(tmp_path, 30, 1, fuzz.everything_on())
    assert sum(outcomes.values()) == 30 and any("prepared" in name for name in outcomes)


def test_a_lost_line_would_be_noticed(fuzz, tmp_path, monkeypatch):
    entries = fuzz._entries
    monkeypatch.setattr(fuzz, "_entries", lambda path: entries(path)[1:])
    with pytest.raises(AssertionError, match="lines lost"):
        fuzz.fuzz_lines(tmp_path, 200, 2, fuzz.PrepareSettings())
