"""What is printed: one document, numbers in their unit, and the way on."""

import json

import pytest

from tunewright.cli.output import columns_of, emit, metric_lines, verdict_lines
from tunewright.core.errors import ConfigError


def test_json_is_one_document(capsys):
    emit({"a": [1, "é"]}, True, ["ignored"])
    assert json.loads(capsys.readouterr().out) == {"a": [1, "é"]}
    emit({}, False, ["one", "two"])
    assert capsys.readouterr().out == "one\ntwo\n"


def test_shares_are_per_cent():
    estimate = {"value": 0.4171, "low": 0.3012, "high": 0.5391}
    metric = {"name": "exact_match", "unit": "share", "n": 60, "systems": {"tuned": estimate}}
    metric["differences"] = {"zero_shot": {"value": 0.1, "low": -0.05, "high": 0.25, "p": 0.04}}
    lines = metric_lines([metric])
    assert lines[0] == "exact_match  (n = 60)"
    assert lines[1].split() == ["tuned", "41.7", "%", "[30.12,", "53.91]"]
    assert "+10 points [-5, +25]  p = 0.04" in lines[2]


def test_an_open_verdict_says_what_would_decide():
    verdict = {"word": "CAN'T TELL", "reason": "R.", "metric": "bleu", "rows_that_would_decide": 1234}
    assert verdict_lines(verdict) == ["", "CAN'T TELL: R.", "About 1,234 test rows would decide."]
    nothing = verdict_lines({**verdict, "rows_that_would_decide": None})
    assert nothing[-1] == "No number of test rows can be named that would decide."
    assert len(verdict_lines({**verdict, "metric": None, "rows_that_would_decide": None})) == 2
    assert len(verdict_lines({**verdict, "word": "SHIP"})) == 2


def test_columns():
    assert columns_of(None) is None
    assert columns_of(["prompt=a.b", "completion={x}={y}"]) == {"prompt": "a.b", "completion": "{x}={y}"}
    for word in ("prompt", "=a", "prompt="):
        with pytest.raises(ConfigError, match="target=source"):
            columns_of([word])
