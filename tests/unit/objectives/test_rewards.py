"""The list of rewards: names, weights, sums, failures; and the groups that teach nothing."""

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest

from tunewright.core.errors import ConfigError, DataError, TrainError
from tunewright.objectives import rewards as package
from tunewright.objectives.rewards import (
    REWARDS,
    RewardError,
    RewardSpec,
    constant_groups,
    make_rewards,
    reward_specs,
)


def score(entries, answers, examples=None, **more):
    with make_rewards(entries, **more) as rewards:
        return rewards.score(["?"] * len(answers), answers, examples or [{}] * len(answers))


def test_the_total_is_the_weighted_sum_of_the_parts():
    entries = [
        "numeric",
        {"name": "length", "most": 2, "weight": 0.5},
        {"name": "exact_match", "weight": -0.25},
    ]
    scored = score(entries, ["#### 4", "a b c", "4"], [{"answer": "4"}] * 3)
    assert scored.parts == {
        "numeric": [1.0, 0.0, 1.0],
        "length": [1.0, 0.5, 1.0],  # "a b c" is 1 over 2: 1 - 1/2
        "exact_match": [0.0, 0.0, 1.0],
    }
    assert scored.total == [1.5, 0.25, 1.25]
    assert scored.failed == 0 and scored.errors == ()


def test_names_are_unique():
    def regex(prompt, answer, example):
        return 0.0

    entries = [{"name": "regex", "pattern": p} for p in "abc"] + [regex]
    assert [s.name for s in reward_specs(entries)] == ["regex", "regex_2", "regex_3", "regex_4"]


def test_every_built_in_reward_is_found_by_its_name():
    names = {"exact_match", "length", "regex", "json_schema", "numeric", "countdown", "countdown_format"}
    assert set(REWARDS) == names | {"judge", "model", "code"}
    assert all(issubclass(REWARDS[name], RewardSpec) for name in REWARDS)


@pytest.mark.parametrize("name", ["regex", "json_schema", "judge", "length", "numeric", "code", "model"])
def test_every_option_is_described(name):
    for option, field in REWARDS[name].model_fields.items():
        assert field.description and field.description.endswith("."), f"{name}.{option}"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["numerik"], "entry 1: unknown reward 'numerik'. Did you mean 'numeric'?"),
        ([{"name": "regex", "patern": "x"}], "unknown setting 'patern'. Did you mean 'pattern'?"),
        ([{"name": "json_schema", "shema": {}}], "unknown setting 'shema'. Did you mean 'schema'?"),
        ([{"name": "json_schema"}], "schema: Field required"),
        ([{"name": "regex"}], "pattern: Field required"),
        (["numeric", {"weight": 2}], "entry 2: give a name, or `file` and `function`"),
        ([{"file": "a.py", "name": "x"}], "function: Field required"),
        ([{"file": "a.py", "function": "f", "second": 1}], "Did you mean 'seconds'?"),
        ([{"file": "a.py", "function": "f", "name": "numeric"}], "'numeric' is built in and has no `file`"),
        ([3], "entry 1: give a name"),
        ([], "give a list of at least one reward"),
        ("numeric", "give a list of at least one reward"),
        ({"name": "numeric"}, "give a list of at least one reward"),
        ([{"name": "numeric", "weight": math.nan}], "weight: Input should be a finite number"),
        ([{"name": "numeric", "on_error": "skip"}], "on_error: Input should be 'stop' or 'zero'"),
        ([{"name": "length"}], "give `target`, `most` or both"),
        ([{"name": "length", "target": 5, "most": 4}], "`most` (4) is less than `target` (5)"),
        ([{"name": "length", "target": 0}], "target: Input should be greater than 0"),
        ([{"name": "length", "most": 4, "unit": "tokens"}], "unit: Input should be 'words' or 'characters'"),
        ([{"name": "regex", "pattern": "(a"}], "pattern: is no regular expression: missing )"),
        ([{"name": "model", "path": ""}], "path: String should have at least 1 character"),
    ],
)
def test_a_wrong_list_is_explained(entries, message):
    with pytest.raises(ConfigError) as caught:
        reward_specs(entries)
    assert message in str(caught.value)


# --- functions that come from outside


def test_a_python_function_is_a_reward():
    def words(prompt, answer, example):
        return len(answer.split()) + len(prompt) + example["more"]

    scored = score([words], ["a b", "c"], [{"more": 10}, {"more": 20}])
    assert scored.parts == {"words": [13.0, 22.0]}


def test_an_error_of_a_python_function_keeps_its_type_and_names_the_row():
    def broken(prompt, answer, example):
        return 1 / len(answer)

    with pytest.raises(ZeroDivisionError) as caught:
        score([broken], ["a", ""])
    assert caught.value.__notes__ == ["while scoring with reward 'broken', answer 2 of 2 (prompt '?')"]


def test_a_model_reward_is_supplied_from_outside():
    entries = [{"name": "model", "path": "runs/a", "weight": 2}, {"name": "model", "path": "runs/b"}]
    assert [(s.name, s.path) for s in reward_specs(entries)] == [("model", "runs/a"), ("model_2", "runs/b")]
    seen = []

    def batch(prompts, answers, examples):
        seen.append((prompts, answers, examples))
        return np.array([0.5, -1.5], dtype=np.float32)

    supply = {"model": batch, "model_2": lambda p, a, e: [1, 2]}
    scored = score(entries, ["x", "y"], [{"k": 1}, {}], supply=supply)
    assert scored.parts == {"model": [0.5, -1.5], "model_2": [1.0, 2.0]} and scored.total == [2.0, -1.0]
    assert seen == [(["?", "?"], ["x", "y"], [{"k": 1}, {}])]


def test_a_scorer_can_be_supplied_under_a_name_of_its_own():
    assert score(["mine"], ["x"], supply={"mine": lambda p, a, e: [0.25]}).total == [0.25]


@pytest.mark.parametrize(
    ("entries", "supply", "message"),
    [
        ([{"name": "model", "path": "r"}], {}, "reward 'model': its scorer is made elsewhere and was not"),
        (["numeric"], {"numeric": list}, "reward 'numeric' is built in, so it cannot be supplied"),
        (["mein"], {"meine": list}, "Did you mean 'meine'"),
    ],
)
def test_what_is_not_supplied_is_an_error(entries, supply, message):
    with pytest.raises(ConfigError, match="reward") as caught:
        make_rewards(entries, supply=supply)
    assert message in str(caught.value)


# --- scores that are none


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "returned nan"),
        (math.inf, "returned inf"),
        (None, "returned NoneType 'None'"),
        (True, "returned bool 'True'"),
        ("1", "returned str '1'"),
    ],
)
def test_a_score_that_is_no_number_stops_or_counts_as_0(value, message):
    def some(prompts, answers, examples):
        return [1.0, value]

    with pytest.raises(RewardError) as caught:
        score(["some"], ["a", "b"], supply={"some": some})
    assert str(caught.value).startswith("reward 'some', answer 2 of 2 (prompt '?'): " + message)
    assert isinstance(caught.value, TrainError)
    scored = score([{"name": "some", "on_error": "zero"}], ["a", "b"], supply={"some": some})
    assert scored.total == [1.0, 0.0] and scored.failed == 1 and message in scored.errors[0]


@pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0, 3.0], []])
def test_a_batch_function_must_give_one_score_per_answer(scores):
    with pytest.raises(RewardError, match="score"):
        score([{"name": "some", "on_error": "zero"}], ["a", "b"], supply={"some": lambda p, a, e: scores})


@pytest.mark.parametrize("value", [1e308, -1e308, 1.001e6, 10**400])
def test_a_score_beyond_the_limit_names_reward_and_value(value):
    supply = {"some": lambda p, a, e: [value]}
    shown = "inf" if value == 10**400 else str(value)
    with pytest.raises(RewardError) as caught:
        score(["some"], ["a"], supply=supply)
    assert str(caught.value) == (
        f"reward 'some', answer 1 of 1 (prompt '?'): returned {shown}; a reward is a finite number of at most"
        " 1e+06 in size"
    )
    assert score([{"name": "some", "on_error": "zero"}], ["a"], supply=supply).total == [0.0]


def test_scores_at_the_limit_are_taken():
    assert score(["some"], ["a"], supply={"some": lambda p, a, e: [-1e6]}).total == [-1e6]


@pytest.mark.parametrize(("weight", "total"), [(-1e300, "-4e+305"), (3.0, "1.2e+06")])
def test_a_weighted_sum_beyond_the_limit_names_the_reward(weight, total):
    entries = [{"name": "length", "most": 9}, {"name": "some", "weight": weight}]
    with pytest.raises(RewardError) as caught:
        score(entries, ["a"], supply={"some": lambda p, a, e: [4e5]})
    said = str(caught.value)
    assert f"the sum of the rewards of answer 1 is {total}, beyond 1e+06 in size" in said
    assert f"reward 'some', which gave 400000 with weight {weight:g}; lower the weights" in said


def test_an_error_of_several_lines_is_told_in_one(tmp_path):
    def failing(prompts, answers, examples):
        return [RewardError("first\n  second\n")]

    with pytest.raises(RewardError, match=r"\(prompt '\?'\): first second$"):
        score(["some"], ["a"], supply={"some": failing})
    (tmp_path / "mine.py").write_text(
        "def f(prompt, answer, example):\n    raise ValueError('one\\n\\n two')\n"
    )
    with pytest.raises(RewardError, match=r"raised ValueError at mine\.py:2: one two$"):
        score([{"file": str(tmp_path / "mine.py"), "function": "f"}], ["a"])


def test_a_row_without_the_reference_stops_even_under_on_error_zero():
    with pytest.raises(DataError) as caught:
        score([{"name": "numeric", "on_error": "zero"}], ["1", "2"], [{"answer": 1}, {"anwser": 2}])
    text = str(caught.value)
    assert "reward 'numeric', answer 2 of 2" in text
    assert "no column 'answer'" in text and "Did you mean 'anwser'?" in text


def test_the_three_lists_must_be_of_one_length():
    with make_rewards(["numeric"]) as rewards, pytest.raises(DataError, match="1 prompts, 2 answers and 1"):
        rewards.score(["?"], ["a", "b"], [{}])


def test_no_answers_are_no_scores():
    scored = score(["numeric", "exact_match"], [])
    assert scored.total == [] and scored.parts == {"numeric": [], "exact_match": []}


def test_every_reward_is_closed_even_if_one_cannot_be(tmp_path):
    (tmp_path / "r.py").write_text("def f(prompt, answer, example):\n    return 1.0\n")
    code = {"file": "r.py", "function": "f"}
    rewards = make_rewards([code, code, code], base_dir=tmp_path)
    assert [spec.name for spec, _ in rewards.rewards] == ["f", "f_2", "f_3"]
    first, middle, last = (reward for _, reward in rewards.rewards)
    close = middle.close
    middle.close = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        rewards.close()
    assert first.pid is None and middle.pid is not None and last.pid is None
    close()


# --- groups


def test_constant_groups():
    scores = [1.0, 1.0, 1.0, 0.0, 0.5, 0.5, 0.1 + 0.2, 0.3]
    assert constant_groups(scores, 2) == [0, 2]
    assert constant_groups(scores, 4) == []
    assert constant_groups(scores, 1) == list(range(8))
    assert constant_groups([], 4) == []
    assert constant_groups([2.0] * 4, 4) == [0]


@pytest.mark.parametrize("group", [0, -1, 3])
def test_scores_that_do_not_divide_into_groups(group):
    with pytest.raises(ConfigError, match=f"4 scores do not divide into groups of {group}"):
        constant_groups([1.0] * 4, group)


def test_the_package_loads_no_torch():
    code = "import sys, tunewright.objectives.rewards as r; list(map(r.REWARDS.__getitem__, r.REWARDS)); "
    code += "print('torch' in sys.modules, 'transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_the_example_of_the_package_is_true():
    assert doctest.testmod(package) == (0, 2)
