"""Runs whose sizes were chosen: recorded, said once, kept by a resumed run whatever memory there is."""

import pytest
import torch

from tests.contract.small import chats, save_small_model, small_values, write_rows
from tests.e2e.conftest import rows_of
from tunewright.core import events
from tunewright.core.hashing import file_digest
from tunewright.core.paths import RunDir
from tunewright.engine.loop import Fit
from tunewright.run import sizing
from tunewright.run import train as running
from tunewright.run.resolve import read_recipe, resolve
from tunewright.run.sizing import LAYERS, MICRO

NO_JUDGING = {"data.split.test": 0.0, "data.split.validation": 0.0}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    model = save_small_model(folder / "model", hidden_size=128, intermediate_size=256)
    rows = write_rows(folder / "rows.jsonl", chats(90))
    more = {"train.tokens_per_step": 2048, "train.max_steps": 4, "output.save_every": 1}
    return small_values(model, rows, folder / "run") | NO_JUDGING | more | {"objective.neftune": 5.0}


def run(values, out, observe=events.silent, **more):
    return running.train(resolve(None, None, {**values, **more, "output.dir": str(out)}), observe)


def weights(path):
    return file_digest(path / "adapter" / "adapter_model.safetensors")


def losses(found):
    return [row["loss"] for row in rows_of(found.path / "events.jsonl") if row["event"] == "StepEnd"]


def with_room(monkeypatch, found):
    monkeypatch.setattr(sizing, "room_mb", lambda device: found)


def short(monkeypatch):
    """So little memory that the least is taken."""
    with_room(monkeypatch, 100.0)


def test_it_is_written_down_said_once_and_equal_to_the_same_number_given(values, tmp_path):
    seen = []
    chosen = run(values, tmp_path / "chosen", seen.append)
    given = run(values, tmp_path / "given", **{MICRO: 2048, LAYERS: 0})
    assert weights(chosen.path) == weights(given.path)
    recorded = read_recipe(RunDir(chosen.path))
    assert recorded.recipe.train.micro_tokens == 2048
    assert recorded.recipe.train.memory.checkpoint_layers == 0
    assert recorded.sources[MICRO] == "auto: the fastest on a CPU"
    lines = [e.detail for e in seen if isinstance(e, events.Stage) and e.detail.startswith(MICRO)]
    assert lines == ["train.micro_tokens: 2048 tokens at once, the fastest on a CPU"]


@pytest.mark.parametrize("first, then", [(100.0, None), (None, 100.0)], ids=["more room", "less room"])
def test_a_resumed_run_keeps_what_was_chosen(values, tmp_path, monkeypatch, first, then):
    """To the last bit, noise included, and without a forecast of its own."""

    def killer(event):
        if isinstance(event, events.Saved) and event.step == 2:
            raise Killed

    ample = sizing.room_mb
    with_room(monkeypatch, first) if first else None
    whole = run(values, tmp_path / "whole")
    with pytest.raises(Killed):
        run(values, tmp_path / "cut", killer)
    monkeypatch.setattr(sizing, "room_mb", (lambda device: then) if then else ample)
    seen = []
    ended = running.resume(tmp_path / "cut", seen.append)
    assert weights(ended.path) == weights(whole.path)
    both = [read_recipe(RunDir(path)).recipe.train for path in (ended.path, whole.path)]
    assert both[0] == both[1] and both[0].micro_tokens == (256 if first else 2048)
    assert not [e for e in seen if isinstance(e, events.Stage) and e.name == "forecast memory"]


def test_less_memory_changes_rounding_only(values, tmp_path, monkeypatch):
    plain = dict(values) | {"objective.neftune": 0.0}
    ample = run(plain, tmp_path / "ample")
    short(monkeypatch)
    tight = run(plain, tmp_path / "tight")
    recorded = read_recipe(RunDir(tight.path)).recipe.train
    assert (recorded.micro_tokens, recorded.memory.checkpoint_layers) == (256, 2)
    assert any("memory may run out" in text for text in tight.result["warnings"])
    assert weights(ample.path) != weights(tight.path)
    one, other = (losses(path) for path in (ample, tight))
    assert len(one) == 4 and one == pytest.approx(other, rel=1e-4)


def test_a_size_that_does_not_fit_after_all_is_halved_before_the_first_update(values, tmp_path, monkeypatch):
    """An artificial shortage: what a GPU would refuse. The run is that of the smaller number given."""
    refused = []

    def refuse(self, batch, *args, **kwargs):
        if torch.is_grad_enabled() and batch.size > 600:
            refused.append(batch.size)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch, *args, **kwargs)

    given = run(values, tmp_path / "given", **{MICRO: 512})
    forward = running.ModelForward.hidden
    monkeypatch.setattr(running.ModelForward, "hidden", refuse)
    monkeypatch.setattr(running, "_probed", lambda session, supply: True)
    seen = []
    found = run(values, tmp_path / "found", seen.append)
    assert weights(found.path) == weights(given.path)
    warned = [(e.step, e.message) for e in seen if isinstance(e, events.Warned) and "memory" in e.message]
    assert [step for step, _ in warned] == [0, 0] and "going on with 512" in warned[1][1]
    assert len(refused) == 2


@pytest.mark.parametrize("given, probed", [({}, True), ({MICRO: 64}, False)])
def test_only_a_chosen_size_is_tried_and_only_on_a_gpu(values, tmp_path, monkeypatch, given, probed):
    tried = []
    monkeypatch.setattr(Fit, "probe", lambda self: tried.append(self.job.probe))
    run(values, tmp_path / "cpu", **given)
    assert tried == []
    monkeypatch.setattr(running, "TRIED", "cpu")
    run(values, tmp_path / "gpu", **given)
    assert tried == ([True] if probed else [])
