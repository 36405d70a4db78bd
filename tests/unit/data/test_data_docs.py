"""``docs/data.md`` is true: each format has an example that loads, and the rules are those of the code."""

import re
from pathlib import Path

import pytest

from tunewright.core.records import kind_of
from tunewright.data.load import load
from tunewright.data.problems import RULES
from tunewright.data.schema import BY_NAME, FORMATS

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^`(\w+)`:(?:(?!^`).)*?```json\n(.*?)\n```", PAGE, re.DOTALL | re.MULTILINE)


def test_every_format_has_one_example_in_the_order_of_the_table():
    assert [name for name, _ in EXAMPLES] == [known.name for known in FORMATS]


@pytest.mark.parametrize(("name", "row"), EXAMPLES)
def test_examples_load_without_a_problem(tmp_path, name, row):
    path = tmp_path / "example.jsonl"
    path.write_text(row + "\n", encoding="utf-8")
    loaded = load([path])
    assert loaded.problems == []
    assert loaded.files[0].format == name
    assert [kind_of(example) for example in loaded.examples] == [BY_NAME[name].becomes]


def test_rules_of_the_page_are_the_rules_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (\w+) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert rows == [(name, rule.what, rule.action, rule.remedy) for name, rule in RULES.items()]
