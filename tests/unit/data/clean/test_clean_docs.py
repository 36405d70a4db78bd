"""``docs/clean.md`` is true: its filters and reasons are those of the code, and its example runs."""

import re
from pathlib import Path

from tunewright.data.clean import STEPS
from tunewright.data.problems import RULES

PAGE = (Path(__file__).parents[4] / "docs" / "clean.md").read_text(encoding="utf-8")


def test_the_table_of_filters_is_that_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| .* \| (repair|drop|note) \| .* \|$", PAGE, re.MULTILINE)
    assert rows == [(name, steps[0]) for name, steps in STEPS.items()]


def test_the_reasons_are_those_of_the_rules():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (repaired|rejected|noted) \| (.*?) \|$", PAGE, re.MULTILINE)
    names = [*STEPS, "unsettled"]
    assert rows == [(n, RULES[n].what, RULES[n].action, RULES[n].remedy) for n in names]


def test_the_example_runs():
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(program, "docs/clean.md", "exec"), {})
