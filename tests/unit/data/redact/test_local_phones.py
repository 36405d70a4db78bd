"""Local numbers without a telling word: their grouping speaks for them, or they stay."""

import pytest

from tunewright.data.redact.phones import phones


def scores(text):
    return [(text[f.start : f.end], f.score) for f in phones(text, ("US", "GB"))]


@pytest.mark.parametrize(
    "value", ["030 2345 6789", "0171 234 5678", "(0221) 345 6789", "0664/123 45 67", "044 668 18 00"]
)
def test_a_zero_and_groups_are_enough(value):
    assert scores(f"Ask for Ms Roe: {value}.") == [(value, 0.75)]


def test_without_a_zero_a_country_has_to_write_it_so():
    assert scores("We are at 22 12 34 56 today.") == [("22 12 34 56", 0.72)]
    assert scores("We are at 221 23 456 today.") == []
    assert scores("We saw 22 12 34 56 today.") == []


@pytest.mark.parametrize(
    "text",
    ["order 030 2345 6789", "lot no 0171 234 5678", "01 02 03 04 05", "ISBN 0-306-40615-2", "0-306-40615-2",
     "on 01-02-2003 04", "x0171 234 5678", "at 331.449.281 people", "001 234 567 890", "2003 04 05 06 07"],
)  # fmt: skip
def test_counts_dates_and_codes_stay(text):
    assert [s for _, s in scores(text) if s >= 0.7] == []


def test_amounts_in_thousands_are_asked_about_at_most():
    assert scores("It stood at 516 466 638 then.") == [("516 466 638", 0.5)]
