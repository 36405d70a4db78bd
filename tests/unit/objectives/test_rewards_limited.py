"""regex and json_schema, which run in the sandbox because answers can make them run away."""

import json
import socket
import time

import pytest

from tunewright.core.errors import ConfigError
from tunewright.objectives.rewards import RewardError, make_rewards
from tunewright.objectives.rewards.inside.schema import fits_schema

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def scores(entry, answers, base_dir=None):
    with make_rewards([entry], base_dir=base_dir) as rewards:
        return rewards.score([""] * len(answers), answers, [{}] * len(answers)).total


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"pattern": "b+"}, [1.0, 1.0, 0.0]),
        ({"pattern": "b+", "full": True}, [0.0, 1.0, 0.0]),
        ({"pattern": "(?i)^ABBA$"}, [1.0, 0.0, 0.0]),
        ({"pattern": ""}, [1.0, 1.0, 1.0]),
    ],
)
def test_regex(options, wanted):
    assert scores({"name": "regex", **options}, ["abba", "bb", "\ud800é\x00"]) == wanted


def test_a_pattern_that_runs_away_is_stopped_and_the_next_answer_is_scored():
    entry = {"name": "regex", "pattern": "(a+)+$", "seconds": 0.3}
    bad = "a" * 60 + "b"
    start = time.monotonic()
    with pytest.raises(
        RewardError, match=r"answer 1 of 2 .*matches\(\) of pattern.py took longer than 0.3 s"
    ):
        scores(entry, [bad, "aa"])
    with make_rewards([{**entry, "on_error": "zero"}]) as rewards:
        scored = rewards.score([""] * 3, ["aa", bad, "aa"], [{}] * 3)
    assert scored.total == [1.0, 0.0, 1.0] and scored.failed == 1
    assert time.monotonic() - start < 3.0


def test_json_schema():
    answers = [
        '{"name": "Ada", "age": 36}',
        ' {"name": "Ada"}\n',
        '{"age": 36}',
        '{"name": "Ada", "age": -1}',
        '{"name": "Ada", "x": 1}',
        '```json\n{"name": "Ada"}\n```',
        '{"name": "Ada"} and more',
        '{"name": "Ada", "age": NaN}',
        "",
        "null",
    ]
    entry = {"name": "json_schema", "schema": PERSON}
    assert scores(entry, answers) == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert scores({**entry, "partial": True}, answers) == [1, 1, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0.5]


def test_json_schema_from_a_file(tmp_path):
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    entry = {"name": "json_schema", "schema": "person.json"}
    assert scores(entry, ['{"name": "Ada"}', "{}"], base_dir=tmp_path) == [1.0, 0.0]


@pytest.mark.parametrize("schema", [True, {}])
def test_a_schema_that_allows_everything(schema):
    assert scores({"name": "json_schema", "schema": schema}, ["[1]", "[1"]) == [1.0, 0.0]


def test_hostile_json():
    deep = {"$ref": "#/$defs/list", "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}}
    answers = ["[" * 500 + "]" * 500, "[" * 100_000, "1" * 5000, "[[]]", "1e999999"]
    assert scores({"name": "json_schema", "schema": deep, "seconds": 5}, answers) == [0, 0, 0, 1, 0]


def test_a_schema_fetches_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/other.json"}
        with pytest.raises(RewardError, match="Unresolvable"):
            scores({"name": "json_schema", "schema": other, "seconds": 5}, ["1"])
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "not a JSON Schema, at type: 'objekt' is not valid"),
        ("missing.json", "cannot read the schema"),
        ("broken.json", "broken.json is not JSON"),
        ("list.json", "list.json holds no JSON Schema but '[1]'"),
    ],
)
def test_schemas_that_are_none(tmp_path, schema, message):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError) as caught:
        make_rewards([{"name": "json_schema", "schema": schema}], base_dir=tmp_path)
    assert message in str(caught.value)


def test_the_check_alone():
    assert fits_schema("", "[1, 2]", {}, {"maxItems": 1}, True) == 0.5
    assert fits_schema("", "[1]", {}, {"maxItems": 1}, True) == 1.0
