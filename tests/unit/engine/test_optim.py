"""Every optimizer goes on from a checkpoint to the same bits, and layers that sleep leave nothing behind."""

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import Adapter, adapter_of
from tunewright.adapt.depth import depth_of
from tunewright.core import events
from tunewright.engine.loop import Fit
from tunewright.engine.optim import OptimSettings
from tunewright.engine.projected import Projection

NAMES = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "galore", "apollo")
LAYERS = 4


def deep_job(adapter: Adapter | None = None, half: bool = False):
    """A job on a model of four layers, which a run may let sleep in part."""
    the_job = job(rows(24))
    adapter = adapter or adapter_of("full")
    model = tiny_model("llama", VOCAB, num_hidden_layers=LAYERS, tie_word_embeddings=True)
    model = adapter.attach(model.to(torch.bfloat16) if half else model)
    forward = type(the_job.forward)(model, compute=torch.bfloat16 if half else torch.float32)
    return type(the_job)(model, forward, the_job.objective, the_job.train, adapter=adapter)


def chosen(name, in_backward=False, steps=6):
    optim = OptimSettings(name, projection=Projection(8, 2), in_backward=in_backward)
    return settings(
        epochs=4, clip_norm=0.0 if in_backward else 1.0, max_steps=steps, save_every=1, keep=99, optim=optim
    )


class Crash(Exception):
    pass


def weights_after_a_crash(make, how, folder, at):
    """Train to the step ``at`` and no further, start anew, and go on to the end."""

    def crash(event):
        if isinstance(event, events.Saved) and event.step == at:
            raise Crash

    with pytest.raises(Crash):
        fit(make(), how, folder, crash)
    return fit(make(), how, folder)[1]


SLEEPERS = {
    "full": lambda: adapter_of("full", layer_decay=0.8),
    "LISA": lambda: adapter_of("full", sample_layers=2, sample_every=2),
    "thawing": lambda: adapter_of("freeze", layers=4, unfreeze=0.9),
}


@pytest.mark.parametrize("kind", SLEEPERS)
@pytest.mark.parametrize("in_backward", [False, True], ids=["after", "in_backward"])
@pytest.mark.parametrize("name", NAMES)
def test_three_steps_a_restart_and_three_more_are_six(tmp_path, name, in_backward, kind):
    """Layers change after the steps 2 and 4, so the restart is in the middle of a period."""
    make, how = lambda: deep_job(SLEEPERS[kind]()), chosen(name, in_backward)
    _, expected = fit(make(), how, tmp_path / "whole")
    weights = weights_after_a_crash(make, how, tmp_path / "broken", at=3)
    assert all(torch.equal(weights[n], expected[n]) for n in expected)
    whole, broken = (tmp_path / run / "step-6" / "optimizer.safetensors" for run in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


@pytest.mark.parametrize("name", ["adamw", "galore", "apollo"])
@pytest.mark.parametrize("in_backward", [False, True], ids=["after", "in_backward"])
def test_so_are_those_of_weights_in_bfloat16(tmp_path, name, in_backward):
    make, how = lambda: deep_job(half=True), chosen(name, in_backward)
    _, expected = fit(make(), how, tmp_path / "whole")
    weights = weights_after_a_crash(make, how, tmp_path / "broken", at=3)
    assert all(torch.equal(weights[n], expected[n]) for n in expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_restart_without_its_state_ends_elsewhere(tmp_path, monkeypatch, name):
    """Otherwise the tests above would prove nothing."""
    how = chosen(name)
    _, expected = fit(deep_job(), how, tmp_path / "whole")
    monkeypatch.setattr("tunewright.engine.updates.load_optimizer_state", lambda *args: None)
    weights = weights_after_a_crash(deep_job, how, tmp_path / "broken", at=3)
    assert not all(torch.equal(weights[n], expected[n]) for n in expected)


@pytest.mark.parametrize("in_backward", [False, True], ids=["after", "in_backward"])
@pytest.mark.parametrize("name", NAMES)
def test_sleeping_layers_stay_and_their_moments_are_gone(tmp_path, name, in_backward):
    """LISA draws other layers after every two steps; embeddings and the last norm always move."""
    adapter = adapter_of("full", sample_layers=1, sample_every=2)
    the_job = deep_job(adapter)
    Fit(the_job, chosen(name, in_backward), tmp_path, lambda event: None).run()
    turns, remembered = [], []
    for step in range(1, 7):
        awake = adapter.active(step, 6, 0)
        before = (
            load_file(tmp_path / f"step-{step - 1}" / "weights.safetensors")
            if step > 1
            else dict(deep_job(adapter).model.named_parameters())
        )
        after = load_file(tmp_path / f"step-{step}" / "weights.safetensors")
        state = load_file(tmp_path / f"step-{step}" / "optimizer.safetensors")
        moved = {n for n in after if not torch.equal(before[n], after[n])}
        assert moved == {n for n in after if awake(n)}
        assert {key.rpartition("/")[0] for key in state} == moved
        turns.append({depth_of(n, LAYERS) for n in moved})
        remembered.append(sum(t.nbytes for t in state.values()))
    assert all(len(turn) == 3 and {0, LAYERS + 1} < turn for turn in turns)
    assert turns[0] == turns[1] and turns[2] == turns[3] and len({frozenset(t) for t in turns}) > 1
    steps = [int(state_of(tmp_path, s)["model.norm.weight/step"]) for s in (1, 6)]
    assert steps == [1, 6]
    assert len(set(remembered)) == 1  # one layer's worth, whichever it is
    full = Fit(deep_job(), chosen(name, in_backward, steps=1), tmp_path / "full", lambda event: None)
    full.run()
    everything = sum(t.nbytes for t in state_of(tmp_path / "full", 1).values())
    assert remembered[0] < 0.45 * everything


def state_of(folder, step):
    return load_file(folder / f"step-{step}" / "optimizer.safetensors")


def test_layers_thaw_from_the_last_down_and_start_afresh(tmp_path):
    """Four layers over 0.6 of ten steps: the others begin after steps 1.5, 3 and 4.5."""
    adapter = adapter_of("freeze", layers=4, unfreeze=0.6)
    Fit(deep_job(adapter), chosen("adamw", steps=10), tmp_path, lambda event: None).run()
    begun = {}
    for step in range(1, 11):
        for key, value in state_of(tmp_path, step).items():
            if key.endswith("self_attn.q_proj.weight/step"):
                begun.setdefault(depth_of(key, LAYERS), step)
                assert int(value) == step - begun[depth_of(key, LAYERS)] + 1
    assert begun == {4: 1, 3: 3, 2: 4, 1: 6}


def test_after_the_run_everything_is_awake(tmp_path):
    the_job = deep_job(adapter_of("full", sample_layers=1))
    fit(the_job, chosen("adamw"), tmp_path)
    assert all(p.requires_grad and p.grad is None for p in the_job.model.parameters())
