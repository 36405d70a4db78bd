"""``docs/synthetic.md`` is true: the prompts and reasons are those of the code, and the marks can be read."""

import json
import re
from pathlib import Path

from tunewright.data.origin import is_own_meta
from tunewright.data.synthetic.mark import read_mark
from tunewright.data.synthetic.prompts import NEAR_MISS, RULE, TASKS
from tunewright.data.synthetic.reasons import REASONS

PAGE = (Path(__file__).parents[4] / "docs" / "synthetic.md").read_text(encoding="utf-8")


def test_prompts():
    assert re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL) == [*TASKS.values(), NEAR_MISS, RULE]


def test_reasons():
    table = PAGE.partition("| reason | what |")[2].partition("## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", table, re.MULTILINE)) == REASONS


def test_marks():
    metas = [json.loads(line)["meta"] for line in re.findall(r"^\{\"messages.*$", PAGE, re.MULTILINE)]
    assert len(metas) == 2 and all(is_own_meta(meta) and read_mark(meta["synthetic"]) for meta in metas)
