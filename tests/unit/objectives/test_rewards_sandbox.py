"""User code in the sandbox: its scores, its limits, and what is left of it afterwards."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tunewright.core.errors import ConfigError, DataError
from tunewright.objectives.rewards import RewardError, Row, make_rewards
from tunewright.objectives.rewards.sandbox import Limits, Sandbox

CODE = '''
import math, os, signal, subprocess, sys, time
import helper

calls = 0

def even(prompt, answer, example):
    return helper.score(int(answer) % 2 == 0)

def count(prompt, answer, example):
    global calls
    calls += 1
    return calls

def gives(prompt, answer, example):
    return {"nan": math.nan, "inf": -math.inf, "none": None, "bool": True, "str": "1", "one": 1,
            "huge": 10**400, "list": [1.0]}[answer]

def noisy(prompt, answer, example):
    print("{\\"id\\": 1, \\"score\\": 99.0}" * 1000)
    print("noise", file=sys.stderr)
    os.write(1, b"raw noise\\n")
    subprocess.run(["echo", "noise"], check=True)
    sys.stdin.read()
    return 0.5

def fields(prompt, answer, example):
    return len(prompt) + 10 * len(answer) + 100 * example["a"]["b"][1]

def environment(prompt, answer, example):
    return float(any(word in name for name in os.environ for word in ("TOKEN", "SECRET", "KEY")))

def runs_away(prompt, answer, example):
    if answer == "sleep":
        time.sleep(60)
    while answer == "spin":
        pass
    if answer == "memory":
        return len("x" * 10**11)
    if answer == "grow":
        rows = []
        while True:
            rows.append(bytearray(1 << 20))
    if answer == "recursion":
        return runs_away(prompt, answer, example)
    if answer == "raise":
        raise KeyError("no such thing")
    if answer == "exit":
        sys.exit(3)
    if answer == "hard exit":
        os._exit(7)
    if answer == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if answer == "SIGXCPU":
        os.kill(os.getpid(), signal.SIGXCPU)
    return 1.0

def forks(prompt, answer, example):
    if answer == "comes back":
        return float(os.fork() > 0)
    if answer == "raises":
        if os.fork() == 0:
            raise ValueError("in the child")
    return 2.0

def daemon(prompt, answer, example):
    """A sleeper that left the group and lost its parent, and one that stayed; then a hang."""
    note = example["note"]
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(note + ".1", "w").write(str(os.getpid()))
            time.sleep(60)
        os._exit(0)
    child = subprocess.Popen(["sleep", "60"])
    open(note + ".2", "w").write(str(child.pid))
    if answer == "hang":
        time.sleep(60)
    if answer == "die":
        os._exit(1)
    return 1.0

def scribbles(prompt, answer, example):
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, answer.encode() + b"\\n")
        except OSError:
            pass
    time.sleep(0.2)
    return 1.0

def works(prompt, answer, example):
    until = time.process_time() + float(answer)
    while time.process_time() < until:
        pass
    return limit(prompt, "RLIMIT_CPU", example)

def limit(prompt, answer, example):
    import resource
    return resource.getrlimit(getattr(resource, answer))[0]
'''


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "helper.py").write_text("def score(right):\n    return 1.0 if right else 0.0\n")
    path = tmp_path / "my_rewards.py"
    path.write_text(CODE)
    return path


def call(file, function, answer, limits=None, example=None):
    with Sandbox(file, function, limits or Limits()) as sandbox:
        return sandbox.call(Row("p", answer, example or {}))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds=3.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


# --- what it does


def test_user_code_scores_answers_in_one_process(file):
    entries = [
        {"file": "my_rewards.py", "function": "even", "weight": 2.0},
        {"file": file.name, "function": "count"},
    ]
    with make_rewards(entries, base_dir=file.parent) as rewards:
        first = rewards.score(["?"] * 3, ["2", "3", "4"], [{}] * 3)
        second = rewards.score(["?"], ["5"], [{}])
    assert first.parts == {"even": [1.0, 0.0, 1.0], "count": [1.0, 2.0, 3.0]}
    assert first.total == [3.0, 2.0, 5.0]
    assert second.parts == {"even": [0.0], "count": [4.0]}  # the process and its variables were still there


def test_the_row_crosses_unchanged(file):
    row = {"a": {"b": [0, 7]}, "text": "é\ud800\x00\n", "nan": float("nan"), "big": "x" * 3_000_000}
    assert call(file, "fields", "\n\u2028é\ud800", example=row) == 1 + 40 + 700


def test_a_row_that_is_no_json_is_a_data_error(file):
    entry = {"file": str(file), "function": "count", "on_error": "zero"}
    with make_rewards([entry]) as rewards:
        with pytest.raises(
            DataError, match=r"answer 2 of 2 .*cannot be sent to count\(\) of my_rewards.py as JSON"
        ):
            rewards.score(["", ""], ["", ""], [{}, {"a": object()}])
        assert rewards.score([""], [""], [{}]).total == [2.0]


def test_what_it_prints_disturbs_nothing(file, capfd):
    with Sandbox(file, "noisy") as sandbox:
        assert [sandbox.call(Row("", "", {})) for _ in range(3)] == [0.5] * 3
    assert capfd.readouterr() == ("", "")


def test_it_sees_no_secrets(file, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert call(file, "environment", "") == 0.0


def test_nothing_is_left_beside_the_file(file):
    before = sorted(file.parent.iterdir())
    call(file, "even", "2")
    assert sorted(file.parent.iterdir()) == before


# --- what can go wrong with an answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("nan", "returned nan; a reward is a finite number"),
        ("inf", "returned -inf"),
        ("none", "returned NoneType 'None'"),
        ("bool", "returned bool 'True'"),
        ("str", "returned str '1'"),
        ("list", "returned list '[1.0]'"),
        ("huge", "raised OverflowError"),
        ("other", "raised KeyError at my_rewards.py:"),
    ],
)
def test_values_that_are_no_reward(file, answer, message):
    with Sandbox(file, "gives") as sandbox:
        with pytest.raises(RewardError) as caught:
            sandbox.call(Row("", answer, {}))
        assert str(caught.value).startswith("gives() of my_rewards.py " + message)
        assert sandbox.call(Row("", "one", {})) == 1.0


LINE = next(i for i, line in enumerate(CODE.splitlines(), 1) if "no such thing" in line)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("sleep", "took longer than 0.5 s and was stopped"),
        ("spin", "took longer than 0.5 s and was stopped"),
        ("memory", "needed more than 256 MB of memory"),
        ("grow", "needed more than 256 MB of memory"),
        ("recursion", "raised RecursionError at my_rewards.py:"),
        ("raise", f"raised KeyError at my_rewards.py:{LINE}: 'no such thing'"),
        ("exit", "raised SystemExit at my_rewards.py:"),
        ("hard exit", "ended its process with exit code 7"),
        ("segfault", "ended its process by signal SIGSEGV"),
    ],
)
def test_an_answer_that_runs_away(file, answer, message):
    seconds = 0.5 if "0.5 s" in message else 10.0  # a busy machine takes a while to fill memory
    with Sandbox(file, "runs_away", Limits(seconds, 256)) as sandbox:
        sandbox.start()
        start = time.monotonic()
        with pytest.raises(RewardError) as caught:
            sandbox.call(Row("", answer, {}))
        assert time.monotonic() - start < seconds + 1
        assert str(caught.value).startswith("runs_away() of my_rewards.py " + message)
        assert sandbox.call(Row("", "fine", {})) == 1.0  # and it goes on, in a new process if need be


def test_the_processor_time_is_limited_for_each_answer_anew(file):
    """Many quick answers may together use more time than one may."""
    with Sandbox(file, "works", Limits(6.0)) as sandbox:
        sandbox.call(Row("", "1.2", {}))
        assert sandbox.call(Row("", "0", {})) == 9  # 6 s and the 1.2 s that were used, rounded up, plus 1


@pytest.mark.parametrize(
    ("name", "value"), [("RLIMIT_AS", 300 * 2**20), ("RLIMIT_CPU", 3), ("RLIMIT_CORE", 0)]
)
def test_the_limits_of_the_system_are_set(file, name, value):
    assert call(file, "limit", name, Limits(1.2, 300)) == value  # 1.2 s and what was used, rounded up, plus 1


def test_running_out_of_processor_time_is_named(file):
    with pytest.raises(RewardError, match=r"used more than 5 s of processor time"):
        call(file, "runs_away", "SIGXCPU")


def test_failures_stop_or_count_as_0(file):
    entry = {"file": str(file), "function": "runs_away", "seconds": 0.5}
    with make_rewards([entry]) as rewards, pytest.raises(RewardError) as caught:
        rewards.score(["Why?", "Who?"], ["fine", "raise"], [{}, {}])
    assert "reward 'runs_away', answer 2 of 2 (prompt 'Who?'): runs_away() of my_rew" in str(caught.value)
    with make_rewards([{**entry, "on_error": "zero", "weight": 3}]) as rewards:
        scored = rewards.score([""] * 4, ["raise", "fine", "hard exit", "sleep"], [{}] * 4)
    assert scored.total == [0.0, 3.0, 0.0, 0.0] and scored.failed == 3
    for error, part in zip(scored.errors, ["KeyError", "exit code 7", "longer than 0.5 s"], strict=True):
        assert part in error


@pytest.mark.parametrize("answer", ["comes back", "raises"])
def test_a_forked_child_answers_nothing(file, answer):
    with Sandbox(file, "forks") as sandbox:
        wanted = 1.0 if answer == "comes back" else 2.0
        assert [sandbox.call(Row("", answer, {})) for _ in range(4)] == [wanted] * 4


@pytest.mark.parametrize("text", ["junk", '{"id": 99, "score": 9.0}', '{"id": 1, "score": null}', "[]", "{}"])
def test_scribbling_over_the_pipe_is_noticed(file, text):
    with pytest.raises(RewardError, match=r"scribbles\(\) of my_rewards.py disturbed the pipe"):
        call(file, "scribbles", text)


# --- what is left


def test_a_time_out_kills_children_that_left_the_group_too(file, tmp_path):
    note = str(tmp_path / "pid")
    with pytest.raises(RewardError, match="took longer"):
        call(file, "daemon", "hang", Limits(1.0), {"note": note})
    pids = [int(Path(note + end).read_text()) for end in (".1", ".2")]
    assert wait_for(lambda: not any(map(is_alive, pids)))


def test_closing_kills_children_too(file, tmp_path):
    note = str(tmp_path / "pid")
    with Sandbox(file, "daemon") as sandbox:
        assert sandbox.call(Row("", "", {"note": note})) == 1.0
        assert wait_for(lambda: Path(note + ".1").exists() and Path(note + ".1").read_text() != "")
        pids = [int(Path(note + end).read_text()) for end in (".1", ".2")]
        assert all(map(is_alive, pids))
    assert wait_for(lambda: not any(map(is_alive, pids)))


def test_a_process_that_ended_is_noticed_while_its_child_holds_the_pipe(file, tmp_path):
    start = time.monotonic()
    note = str(tmp_path / "pid")
    with pytest.raises(RewardError, match="exit code 1"):
        call(file, "daemon", "die", Limits(20.0), {"note": note})
    assert time.monotonic() - start < 5
    assert wait_for(lambda: not is_alive(int(Path(note + ".2").read_text())))
    assert wait_for(lambda: Path(note + ".1").exists() and Path(note + ".1").read_text() != "")
    os.kill(int(Path(note + ".1").read_text()), 9)  # it left the group of a process that ended by itself


def test_no_process_and_no_zombie_is_left(file):
    def children():
        return {p.pid for p in psutil.Process().children(recursive=True)}

    before = children()
    sandbox = Sandbox(file, "runs_away", Limits(0.3))
    sandbox.start()
    assert children() - before == {sandbox.pid}
    for answer in ("sleep", "hard exit", "fine"):
        for _ in sandbox.many([Row("", answer, {})]):
            pass
    assert len(children() - before) == 1
    sandbox.close()
    sandbox.close()
    assert children() == before and sandbox.pid is None


def test_a_sandbox_that_is_forgotten_is_killed(file):
    sandbox = Sandbox(file, "even")
    sandbox.start()
    pid = sandbox.pid
    assert psutil.pid_exists(pid)
    del sandbox
    gc.collect()
    assert not psutil.pid_exists(pid)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 on, if there are threads
def test_a_forked_copy_of_the_trainer_kills_nothing(file):
    with Sandbox(file, "count") as sandbox:
        assert sandbox.call(Row("", "", {})) == 1.0
        child = os.fork()
        if child == 0:
            sandbox.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert sandbox.call(Row("", "", {})) == 2.0


@pytest.mark.parametrize("answer", ["fine", "sleep"])
def test_it_ends_when_the_trainer_is_killed(file, answer):
    """At once if it waits for work; by its own alarm if it hangs."""
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from tunewright.objectives.rewards import Row\n"
        "from tunewright.objectives.rewards.sandbox import Limits, Sandbox\n"
        "sandbox = Sandbox(Path(sys.argv[1]), 'runs_away', Limits(1.0))\n"
        "sandbox.start()\n"
        "print(sandbox.pid, flush=True)\n"
        "sandbox.call(Row('', sys.argv[2], {}))\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(file), answer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        pid = int(trainer.stdout.readline())
        time.sleep(0.5)
        assert is_alive(pid)
        trainer.kill()
    assert wait_for(lambda: not is_alive(pid), 1.0 if answer == "fine" else 4.0)


def test_a_failure_to_make_one_reward_closes_the_others(file, monkeypatch):
    closed, close = [], Sandbox.close
    monkeypatch.setattr(Sandbox, "close", lambda self: (closed.append(self), close(self)))
    before = {p.pid for p in psutil.Process().children()}
    with pytest.raises(ConfigError, match="has no function 'odd'"):
        make_rewards([{"file": str(file), "function": "even"}, {"file": str(file), "function": "odd"}])
    assert {p.pid for p in psutil.Process().children()} == before
    assert len(set(closed)) == 2


# --- files that cannot be used


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        (
            "def is_even(p, a, e):\n    return 1",
            "is_evn",
            "has no function 'is_evn'. Did you mean 'is_even'?",
        ),
        ("x = 1", "x", "has no function 'x'. Mend the file."),
        ("def f(:\n", "f", "SyntaxError: "),
        ("import no_such_package", "f", "ModuleNotFoundError at r.py:1: No module named 'no_such_package'"),
        ("x = 1\n\nraise RuntimeError('not today')", "f", "RuntimeError at r.py:3: not today"),
        ("import os\nos._exit(4)", "f", "ended its process with exit code 4"),
        ("x = 'x' * 10**11", "f", "MemoryError at r.py:1"),
    ],
)
def test_a_file_that_cannot_be_used_is_known_before_training(tmp_path, text, function, message):
    (tmp_path / "r.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_rewards([{"file": "r.py", "function": function}], base_dir=tmp_path)
    assert str(tmp_path / "r.py") in str(caught.value) and message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        make_rewards([{"file": "r.py", "function": "f"}], base_dir=tmp_path)


def test_an_error_of_several_lines_is_told_in_one(tmp_path):
    file = tmp_path / "lines.py"
    file.write_text("def f(prompt, answer, example):\n    raise ValueError('one\\n\\n two')\n")
    with Sandbox(file, "f", Limits(5.0)) as sandbox, pytest.raises(RewardError, match=r": one two$"):
        sandbox.call(Row("?", "a", {}))
