"""A run that is killed anywhere ends in the same bits, the same events and the same result."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.conftest import rows_of, settings
from tunewright.core import events
from tunewright.core.errors import RunError
from tunewright.core.hashing import file_digest
from tunewright.run.train import resume, train

WORDS = (
    "train.epochs=3",
    "objective.neftune=5",  # noise, so that the random state matters
    "evaluate.every=2",
    "output.save_every=3",
    "data.train_on=last",
)
CLOCK = {"time", "tokens_per_second", "seconds_left", "memory_mb", "path"}
TRAINING = {"StepEnd", "EvalEnd", "Saved", "Warned", "Ended"}


class Killed(Exception):
    """Stands for a crash."""


def killer(hit):
    """An observer that crashes the run at the first event for which ``hit`` is true."""

    def observe(event):
        if hit(event):
            raise Killed

    return observe


def logged(run):
    """The events of training without what depends on the clock."""
    rows = [e for e in rows_of(run / "events.jsonl") if e["event"] in TRAINING]
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def stable(result):
    """The result without what depends on the clock and on the name of the directory."""
    kept = {k: v for k, v in result.items() if k not in {"created", "cost", "name", "answers", "data"}}
    kept["warnings"] = [w.split(";")[0] for w in kept["warnings"]]
    return json.loads(json.dumps(kept))


def remembered(run):
    """What each checkpoint knows besides tensors: the losses so far, how long was waited …"""
    states = {p.parent.name: json.loads(p.read_text()) for p in run.glob("checkpoints/step-*/state.json")}
    return {name: {k: v for k, v in state.items() if k != "seconds"} for name, state in states.items()}


def same(run, expected):
    assert file_digest(run.path / "adapter" / "adapter_model.safetensors") == file_digest(
        expected.path / "adapter" / "adapter_model.safetensors"
    )
    assert logged(run.path) == logged(expected.path)
    assert remembered(run.path) == remembered(expected.path)
    assert stable(run.result) == stable(expected.result)
    assert run.result["cost"]["seconds"].keys() == expected.result["cost"]["seconds"].keys()
    lines = [(run.path / "recipe.yaml").read_text().splitlines() for run in (run, expected)]
    different = [(a, b) for a, b in zip(*lines, strict=True) if a != b]
    assert [a.split(":")[0].strip() for a, _ in different] == ["dir"]


@pytest.fixture(scope="module")
def whole(tiny, data, tmp_path_factory):
    """The run that nothing interrupted: six steps."""
    run = train(settings(tiny, data, tmp_path_factory.mktemp("whole") / "run", *WORDS))
    assert run.result["counts"]["steps"] == 6
    return run


MOMENTS = {
    "scoring the baseline": lambda e: isinstance(e, events.Progress),
    "the first step, before any checkpoint but step 0": lambda e: isinstance(e, events.StepEnd),
    "a step after a checkpoint": lambda e: isinstance(e, events.StepEnd) and e.step == 5,
    "an evaluation, before its checkpoint": lambda e: isinstance(e, events.EvalEnd) and e.step == 4,
    "the log of a checkpoint": lambda e: isinstance(e, events.Saved) and e.step == 4,
    "after training, before scoring": lambda e: isinstance(e, events.Stage) and e.name == "score tuned",
    "while scoring what was trained": lambda e: isinstance(e, events.Stage) and e.name == "save",
}


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_killed_at(tiny, data, tmp_path, whole, moment):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(settings(tiny, data, out, *WORDS), killer(MOMENTS[moment]))
    assert not (out / "result.json").exists()
    same(resume(out), whole)


def test_killed_twice_and_its_log_cut_off(tiny, data, tmp_path, whole):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(
            settings(tiny, data, out, *WORDS), killer(lambda e: isinstance(e, events.StepEnd) and e.step == 3)
        )
    with (out / "events.jsonl").open("ab") as f:
        f.write(b'{"event":"StepEnd","step":')
    with pytest.raises(Killed):
        resume(out, killer(lambda e: isinstance(e, events.StepEnd) and e.step == 5))
    same(resume(out), whole)


def test_a_lost_log_line_of_a_checkpoint_is_put_back(tiny, data, tmp_path, whole):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(
            settings(tiny, data, out, *WORDS), killer(lambda e: isinstance(e, events.Saved) and e.step == 2)
        )
    lines = (out / "events.jsonl").read_bytes().splitlines(keepends=True)
    assert b'"Saved"' in lines[-1]
    (out / "events.jsonl").write_bytes(b"".join(lines[:-1]))
    same(resume(out), whole)


def test_killed_by_the_system(tiny, data, tmp_path, whole):
    """A real SIGKILL in a process of its own, at a step after a checkpoint."""
    out = tmp_path / "run"
    program = f"""
import os, signal
from pathlib import Path
from tests.e2e.conftest import settings
from tests.e2e.test_resume import WORDS
from tunewright.core import events
from tunewright.run.train import train
def observe(event):
    if isinstance(event, events.StepEnd) and event.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
train(settings({str(tiny)!r}, {str(data)!r}, Path({str(out)!r}), *WORDS), observe)
"""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert sorted(p.name for p in (out / "checkpoints").glob("step-?"))[-1] == "step-3"
    same(resume(out), whole)


def test_ctrl_c_leaves_a_run_that_goes_on(tw, tiny, data, tmp_path, whole, monkeypatch):
    out = tmp_path / "run"
    real = events.StepEnd.__init__

    def interrupting(self, *args, **kwargs):
        real(self, *args, **kwargs)
        if self.step == 3:
            raise KeyboardInterrupt

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((whole.path / "recipe.yaml").read_text())
    with monkeypatch.context() as patched:
        patched.setattr(events.StepEnd, "__init__", interrupting)
        said = tw("train", recipe, "--out", out)
    assert said.status == 130
    assert f"go on with: tunewright resume {out}" in said.err
    runs = tw("runs", tmp_path, "--json").json
    assert [(r["run"], r["finished"], r["verdict"]) for r in runs] == [(str(out), False, None)]
    assert f"tunewright resume {out}" in tw("runs", tmp_path).out
    again = tw("resume", out, "--json")
    assert again.status == 0, again.err
    assert stable(again.json) == stable(whole.result)
    assert tw("runs", tmp_path, "--json").json[0]["finished"]


def test_what_cannot_go_on_says_why(tmp_path):
    with pytest.raises(RunError, match=r"has no recipe\.yaml"):
        resume(tmp_path)
    (tmp_path / "recipe.yaml").write_text("data: {train: x.jsonl}\n")
    with pytest.raises(RunError, match=r"no data/receipt\.json.*remove it and start again"):
        resume(tmp_path)
