"""The user's environment in its own process: what crosses, what may go wrong, and what is left."""

import psutil
import pytest

from tunewright.core.errors import ConfigError, DataError, TrainError
from tunewright.core.records import Message, Meta, Prompt
from tunewright.objectives.dialogue import Dialogue, Question, shown_to_rewards
from tunewright.objectives.environment import make_environment
from tunewright.objectives.options.policy import EnvironmentOptions, GroupOptions, PpoOptions
from tunewright.objectives.rewards.sandbox import MOST_BYTES
from tunewright.objectives.sampler import Sampled

CODE = '''
import json, os, sys, time

def reply(messages):
    """Adds two numbers."""
    print("noise")
    left, plus, right = messages[-1]["content"].partition("+")
    return [{"role": "tool", "content": str(int(left) + int(right)), "name": "add"}] if plus else None

def whole(messages):
    return [{"role": "tool", "content": json.dumps(messages)}]

def wrong(messages):
    what = messages[-1]["content"]
    while what == "hang":
        pass
    if what == "sleep":
        time.sleep(60)
    if what == "raise":
        raise KeyError("no such tool")
    if what == "exit":
        os._exit(3)
    if what == "memory":
        return "x" * 10**11
    circle = []
    circle.append(circle)
    return {"set": {1}, "nan": [float("nan")], "object": object(), "circle": circle, "mute": Mute(),
            "long": "x" * 2**20, "text": "4", "number": 4, "none": None,
            "mapping": {"role": "tool", "content": "4"}}[what]

class Mute:
    def __repr__(self):
        raise RuntimeError("not a word")
'''


@pytest.fixture
def made(tmp_path):
    """Makes environments of functions in CODE, and closes them."""
    (tmp_path / "tools.py").write_text(CODE)
    opened = []

    def make(function="reply", **options):
        options = EnvironmentOptions(file=str(tmp_path / "tools.py"), function=function, **options)
        opened.append(make_environment(options))
        return opened[-1]

    yield make
    for environment in opened:
        environment.close()


def said(text):
    return [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]


def test_messages_cross_in_both_directions(made):
    add = made()
    assert add(said("2+40")) == [{"role": "tool", "content": "42", "name": "add"}]
    assert add(said("42")) is None
    odd = [*said("é\ud800\x00\n\u2028"), {"role": "tool", "content": "x", "tool_calls": [{"a": [1, None]}]}]
    [found] = made("whole")(odd)
    assert found["content"].count('"role"') == 3 and r"\u00e9\ud800\u0000\n\u2028" in found["content"]
    assert '"tool_calls": [{"a": [1, null]}]' in found["content"]


def test_one_process_that_ends_with_it(made):
    before = set(psutil.Process().children(recursive=True))
    add = made()
    [process] = set(psutil.Process().children(recursive=True)) - before
    for number in range(3):
        assert add(said(f"{number}+1"))[0]["content"] == str(number + 1)
    assert add.pid == process.pid
    add.close()
    assert not process.is_running()


LINE = next(i for i, line in enumerate(CODE.splitlines(), 1) if "no such tool" in line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hang", "wrong() of tools.py took longer than 0.5 s and was stopped"),
        ("sleep", "wrong() of tools.py took longer than 0.5 s and was stopped"),
        ("raise", f"wrong() of tools.py raised KeyError at tools.py:{LINE}: 'no such tool'"),
        ("exit", "wrong() of tools.py ended its process with exit code 3"),
        ("memory", "wrong() of tools.py needed more than 256 MB of memory"),
        ("set", "wrong() of tools.py returned set {1}, which is not JSON: Object of type set"),
        ("object", "wrong() of tools.py returned object <object object at"),
        ("mute", "wrong() of tools.py returned Mute (which cannot be shown), which is not JSON"),
        ("nan", "wrong() of tools.py returned list [nan], which is not JSON: Out of range float"),
        ("circle", "wrong() of tools.py returned list [[...]], which is not JSON: Circular reference"),
        ("long", f"wrong() of tools.py returned {2**20 + 2} bytes of JSON; the most is {MOST_BYTES}"),
        ("number", "the environment returned '4' at"),
        ("text", "the environment returned '4' at"),
        ("mapping", "the environment returned \"{'role': 'tool'"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_reply_is_right(made, text, message):
    environment = made("wrong", seconds=0.5, memory_mb=256)
    with pytest.raises(TrainError) as caught:
        Dialogue(Parrot(text), None, environment, 2, 100)([QUESTION], 1, seed=0)
    assert message in str(caught.value) and "rows.jsonl:3" in str(caught.value)
    if not message.startswith("the environment returned"):
        assert f"the environment failed at rows.jsonl:3 after '{text}': wrong()" in str(caught.value)
    assert environment(said("none")) is None


QUESTION = Question([1, 2], Prompt((Message("user", "?"),), {"a": 1}, Meta("rows.jsonl", 3)))


class Parrot:
    """A sampler that always says one thing."""

    def __init__(self, text):
        self.text = text

    def sample(self, prompts, group, seed):
        return [[Sampled([3], [-1.0], [1.0], True, self.text)] * group for _ in prompts]


def test_messages_that_are_no_json_are_a_data_error(made):
    with pytest.raises(DataError, match=r"cannot be sent to reply\(\) of tools.py as JSON"):
        made()([{"role": "user", "content": "?", "when": object()}])


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("def replies(messages): ...", "reply", "has no function 'reply'. Did you mean 'replies'?"),
        ("def reply(:", "reply", "SyntaxError"),
        ("import no_such_package", "reply", "ModuleNotFoundError at t.py:1"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, text, function, message):
    (tmp_path / "t.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_environment(EnvironmentOptions(file=str(tmp_path / "t.py"), function=function))
    assert str(caught.value).startswith(f"environment file {tmp_path / 't.py'}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"environment.file: there is no file .*/nowhere.py"):
        make_environment(EnvironmentOptions(file=str(tmp_path / "nowhere.py")))


def test_settings():
    assert GroupOptions().rollout.environment.file is None
    for options in (GroupOptions, PpoOptions):
        given = {"file": "tools.py", "max_turns": 3}
        rollout = options(rollout={"max_new_tokens": 10, "environment": given}).rollout
        assert rollout.environment.model_dump() == {
            **given,
            "function": "reply",
            "seconds": 5,
            "memory_mb": 512,
        }
        assert rollout.most_tokens == 30 and options().rollout.most_tokens == 256
    for wrong, message in (
        ({"max_turns": 3}, "max_turns would be ignored without a file"),
        ({"function": "f", "seconds": 1.0}, "function, seconds would be ignored"),
        ({"file": ""}, "at least 1 character"),
        ({"file": "t.py", "max_turns": 1}, "greater than or equal to 2"),
        ({"file": "t.py", "seconds": 0}, "greater than 0"),
        ({"file": "t.py", "memory_mb": 32}, "greater than or equal to 64"),
    ):
        with pytest.raises(ValueError, match=message):
            EnvironmentOptions(**wrong)


def test_rewards_see_all_that_stands_before_the_answer():
    turns = (Message("assistant", "2+2"), Message("tool", "4", extra={"name": "add"}))
    prompt, example = shown_to_rewards(QUESTION.prompt, turns)
    assert prompt == "?" and example == {
        "a": 1,
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "2+2"},
            {"role": "tool", "content": "4", "name": "add"},
        ],
    }
    assert shown_to_rewards(QUESTION.prompt)[1]["messages"] == example["messages"][:1]
