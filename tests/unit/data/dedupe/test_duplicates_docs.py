"""``docs/duplicates.md`` is true: its example runs, and its tables are those of the code."""

import re
from pathlib import Path

import pytest

from tunewright.data.contamination.known import known_table
from tunewright.data.dedupe.similar import similarity_of
from tunewright.data.problems import RULES

PAGE = (Path(__file__).parents[4] / "docs" / "duplicates.md").read_text(encoding="utf-8")


def test_the_example_runs():
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/duplicates.md", "exec"), {})


def words(count):
    return [f"w{'abcdefghijklmnopqr'[i // 10]}{'abcdefghij'[i % 10]}" for i in range(count)]


def replaced(count, number):
    """Two texts of ``count`` words that differ in ``number`` words, none beside another."""
    made = words(count)
    for i in range(number):
        made[5 + i * 20] = "new"
    return similarity_of(" ".join(words(count)), " ".join(made))


@pytest.mark.parametrize(
    ("least", "changed"),
    [
        (13, lambda n: similarity_of(" ".join(words(n)), " ".join([*words(n), "new"]))),
        (13, lambda n: similarity_of(" ".join(words(n)), " ".join(["new", *words(n)]))),
        (22, lambda n: similarity_of(" ".join(words(n)), " ".join([*words(n)[:9], "new", *words(n)[9:]]))),
        (27, lambda n: replaced(n, 1)),
        (165, lambda n: replaced(n, 6)),
    ],
)
def test_what_is_still_near_from_how_many_words_on(least, changed):
    assert changed(least) >= 0.8
    assert re.search(rf"^\| {least}\b", PAGE, re.MULTILINE)
    if least < 165:
        assert changed(least - 1) < 0.8
    else:
        assert replaced(165, 7) < 0.8


def test_the_bundled_test_sets_of_the_page_are_those_of_the_table():
    rows = re.findall(r"^\| `(\S+)` \| .*? \| ([\d,]+) \| (.*?) \|$", PAGE, re.MULTILINE)
    expected = [(e["name"], f"{e['items']:,}", e["licence"]) for e in known_table()]
    assert rows == expected


def test_the_reasons_of_the_page_are_rules():
    named = set(re.findall(r"\(`(\w+)`(?:, `(\w+)`)?\)", PAGE))
    codes = {code for pair in named for code in pair if code}
    assert codes == {"near_test", "near_validation", "near_duplicate", "in_benchmark", "in_public_set"}
    assert codes <= RULES.keys()
