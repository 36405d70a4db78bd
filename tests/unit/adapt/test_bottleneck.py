"""Bottleneck adapters as a method: what trains, what it learns, how it resumes, what it refuses."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.tiny import FAMILIES, OTHERS, tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import adapter_of, trainable
from tunewright.core import events
from tunewright.core.errors import ConfigError
from tunewright.engine.loop import Job
from tunewright.models.attention import NAME
from tunewright.models.bottleneck import bottlenecks_of
from tunewright.models.bottleneck_files import read_bottlenecks
from tunewright.models.forward import ModelForward
from tunewright.models.fused_layers import fuse_layers
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

STYLES = ("houlsby", "pfeiffer", "parallel")
IDS = torch.tensor([[5, 9, 30, 7, 8, 20, 41]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_only_the_bottlenecks_train_and_they_are_few(family, style):
    model = adapter_of("bottleneck", style=style, size=8).attach(tiny_model(family))
    names = trainable(model)
    assert all(".bottleneck." in name and p.dtype == torch.float32 for name, p in names.items())
    # down (8, 64) and (8), up (64, 8) and (64), in two layers, houlsby twice in each
    assert sum(p.numel() for p in names.values()) == 2 * (2 if style == "houlsby" else 1) * (
        2 * 8 * 64 + 8 + 64
    )
    model(input_ids=IDS).logits.square().mean().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == names.keys()


@pytest.mark.parametrize("style", STYLES)
def test_it_learns_and_the_base_stays(style, tmp_path):
    """Each token is the one before plus 3; a model that knows nothing of it has a loss of log 60 = 4.09."""

    def base_model():  # weights of ordinary size: behind an MLP that gives next to nothing little can be said
        return tiny_model("llama", VOCAB, initializer_range=0.3)

    losses = []
    adapter = adapter_of("bottleneck", style=style, size=32)
    base, model = logits(base_model()), adapter.attach(base_model())
    objective = SupervisedFineTuning("sft", SftOptions())
    the_job = Job(model, ModelForward(model), objective, rows(60), adapter=adapter)
    fit(
        the_job,
        settings(epochs=8),
        tmp_path / "run",
        lambda e: losses.append(e.loss) if isinstance(e, events.StepEnd) else None,
    )
    assert losses[0] > 4.0 and sum(losses[-5:]) / 5 < 1.0
    with adapter.disabled(the_job.model):
        torch.testing.assert_close(logits(model), base, rtol=1e-4, atol=1e-4)  # another attention function
    adapter.save(model, tmp_path)
    fresh = base_model()
    fresh.set_attn_implementation(NAME)
    fuse_layers(fresh)
    with adapter.disabled(model):
        assert torch.equal(logits(model), logits(fresh))
    read_bottlenecks(fresh, tmp_path)
    assert torch.equal(logits(fresh), logits(model))


class Crash(Exception):
    pass


@pytest.mark.parametrize("style", STYLES)
def test_resume_is_bit_equal(style, tmp_path):
    train, validation = rows(24), rows(6, seed=9)
    chosen = settings(save_every=2, every=4)

    def new_job():
        return job(train, validation, adapter=adapter_of("bottleneck", style=style, size=8, dropout=0.3))

    result, expected = fit(new_job(), chosen, tmp_path / "whole")
    assert result.step >= 8
    for at in (1, 5, result.step):
        folder = tmp_path / f"crash-{at}"

        def crash(event, at=at):
            if isinstance(event, events.StepEnd) and event.step == at:
                raise Crash

        with pytest.raises(Crash):
            fit(new_job(), chosen, folder, crash)
        again, weights = fit(new_job(), chosen, folder)
        assert again.best == result.best
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
    folder = next((tmp_path / "whole").glob("step-*"))
    tensors = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    assert tensors < 4 * sum(v.numel() * 4 for v in expected.values())  # weights and two moments, no trunk


def test_scale_is_one_and_four_beside_the_mlp():
    for style, given, scale in (
        ("houlsby", {}, 1.0),
        ("pfeiffer", {}, 1.0),
        ("parallel", {}, 4.0),
        ("parallel", {"scale": 0.5}, 0.5),
    ):
        model = adapter_of("bottleneck", style=style, size=4, **given).attach(tiny_model())
        assert {found.form.scale for found in bottlenecks_of(model)} == {scale}


def test_what_it_says_of_itself():
    adapter = adapter_of("bottleneck", style="houlsby", size=4)
    assert adapter.label == "Houlsby adapters of size 4"
    assert (adapter.provides, adapter.whole, adapter.merges) == ({"reference"}, False, False)
    assert adapter.library == "tunewright"
    assert adapter_of("lora").library == "peft" and adapter_of("full").library == "transformers"


def test_bad_settings_name_the_remedy():
    with pytest.raises(ConfigError, match=r"adapt.size 65 is no bottleneck: .* 64 wide; use at most 64"):
        adapter_of("bottleneck", size=65).attach(tiny_model())
    with pytest.raises(ConfigError, match=r"cannot be merged.* use lora"):
        adapter_of("bottleneck").merged(tiny_model())
    with pytest.raises(ConfigError, match="style"):
        adapter_of("bottleneck", style="diagonal")
    config = CONFIG_MAPPING["bloom"](vocab_size=60, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(ConfigError, match="layers of a bloom model"):
        adapter_of("bottleneck", size=4).attach(AutoModelForCausalLM.from_config(config))
