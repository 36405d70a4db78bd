"""``docs/objectives.md`` and ``docs/rewards.md`` are complete, and what they state is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tunewright.core.config import settings_of
from tunewright.objectives.base import OBJECTIVES
from tunewright.objectives.options.policy import DEFAULTS
from tunewright.objectives.options.table import OPTIONS
from tunewright.objectives.policy_losses import POLICY_LOSSES
from tunewright.objectives.preference_losses import PREFERENCE_LOSSES
from tunewright.objectives.rewards import REWARDS, RewardSpec, make_rewards, reward_specs
from tunewright.run.recipe import Recipe

ROOT = Path(__file__).parents[2]
OBJECTIVES_PAGE = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
REWARDS_PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
SHORT = re.findall(r"^\|.*?`(objective: .*?)` \(\[more\]", OBJECTIVES_PAGE, re.MULTILINE)
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", OBJECTIVES_PAGE + REWARDS_PAGE, re.MULTILINE | re.DOTALL)
CODE = re.findall(r"^```python\n(.*?)^```$", REWARDS_PAGE, re.MULTILINE | re.DOTALL)
ARXIV = re.compile(r"\b[0-9]{4}\.[0-9]{5}\b")
BY_TASK = {"multi": {"sort": "a.jsonl", "reply": "b.jsonl"}}  # data.train where it is no single file
PARTS = {"demonstrations": "a.jsonl", "comparisons": "b.jsonl", "prompts": "c.jsonl"}


def rows_of(page: str, name: str) -> list[list[str]]:
    """The cells of the table rows that begin with ``name``."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in page.splitlines()
        if line.startswith(f"| `{name}`")
    ]


@pytest.mark.parametrize("text", [*SHORT, *BLOCKS])
def test_recipes_of_the_pages_are_recipes(text):
    values = yaml.safe_load(text)
    name = values["objective"] if isinstance(values["objective"], str) else values["objective"]["name"]
    train = PARTS if name == "rlhf" else BY_TASK.get(name, "rows.jsonl")
    recipe = Recipe.model_validate({"data": {"train": train}, **values})
    assert recipe.objective.name == name
    if getattr(recipe.objective.options, "rewards", None):
        assert reward_specs(recipe.objective.options.rewards)


def test_every_objective_is_described():
    assert len(SHORT) >= 14 and {*OPTIONS} == {*OBJECTIVES, "rlhf"}
    for name in OPTIONS:
        assert f"`{name}`" in OBJECTIVES_PAGE, name


def test_every_paper_of_the_code_is_named():
    files = (ROOT / "src" / "tunewright" / "objectives").glob("*.py")
    cited = {paper for file in files for paper in ARXIV.findall(file.read_text(encoding="utf-8"))}
    assert len(cited) > 30
    assert not cited - {*ARXIV.findall(OBJECTIVES_PAGE)}


def test_every_loss_of_a_table_has_a_row():
    for name, loss in PREFERENCE_LOSSES.items():
        [row] = rows_of(OBJECTIVES_PAGE, name)
        assert ("p(y⁺)/n⁺" in row[1]) == (loss.sft_weight > 0 or name == "simpo"), name
    last = [name for name in PREFERENCE_LOSSES if not PREFERENCE_LOSSES[name].needs_reference]
    assert {*last} == {"simpo", "cpo", "orpo", "slic"}  # "the last four need no reference"
    for name in POLICY_LOSSES:
        [row] = rows_of(OBJECTIVES_PAGE, name)
        low, high = row[3].split(", ")
        assert float(high) == DEFAULTS[name].high, name
        assert (low == "none" and DEFAULTS[name].low == 1) or float(low) == DEFAULTS[name].low, name


def test_every_reward_and_its_settings_are_described():
    shared = {name for name, _ in settings_of(RewardSpec)}
    for name in REWARDS:
        [row] = rows_of(REWARDS_PAGE, name)
        for setting, _ in settings_of(REWARDS[name]):
            assert setting in shared or f"`{setting}`" in row[2], f"{name}: {setting}"
    for setting in shared - {"name"}:
        assert rows_of(REWARDS_PAGE, setting), setting


def test_the_code_of_the_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    function, call = CODE
    (tmp_path / "my_rewards.py").write_text(function, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    [block] = [yaml.safe_load(b) for b in BLOCKS if "my_rewards.py" in b]
    with make_rewards(block["objective"]["rewards"]) as rewards:
        scored = rewards.score(["2+2?"], ["Thank you, 4."], [{"answer": "4"}])
    assert scored.parts == {"numeric": [1.0], "length": [1.0], "is_polite": [1.0]}
    assert scored.total == [1.7]
    exec(call, {})
    assert capsys.readouterr().out.strip() == call.strip().rpartition("# ")[2]
