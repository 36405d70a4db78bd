"""AdaLoRA: ranks fall to the budget on schedule, the penalty, resume to the same bits, what is saved."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.tiny import tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import adapter_of, trainable
from tunewright.core.errors import ConfigError
from tunewright.models.fused_layers import fuse_layers
from tunewright.models.quiet import quiet_peft

IDS = torch.tensor([[5, 9, 30, 57, 8, 20, 41]])
LAYERS = 14  # seven linear layers in two blocks
STEPS = 10


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def base():
    return tiny_model("llama", VOCAB, tie_word_embeddings=True)


def make(**options):
    values = {"rank": 3, "start_rank": 6, "warm": 0.2, "settle": 0.3, **options}
    return job(rows(60), adapter=adapter_of("adalora", **values))


def ranks(model):
    """Rank of each layer: how many values of its diagonal are not zero."""
    return [int((p != 0).sum()) for n, p in model.named_parameters() if ".lora_E." in n]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Ten steps: two before ranks fall, five in which they do, three after. The mean rank after each."""
    the_job, seen = make(), []

    def observe(event):
        if type(event).__name__ == "StepEnd":
            seen.append(sum(ranks(the_job.model)) / LAYERS)

    _, weights = fit(
        the_job, settings(max_steps=STEPS, learning_rate=3e-2), tmp_path_factory.mktemp("run"), observe
    )
    return the_job, seen, weights


def test_ranks_fall_to_the_budget_by_the_cubic_schedule(run):
    _, seen, _ = run

    def budget(step):
        """Equation 12 of the paper: 84 values at first, 42 in the end, between steps 2 and 7."""
        if step <= 2:
            return 84
        left = 1 - (step - 2) / (7 - 2)
        return int(42 * max(left, 0) ** 3 + 42)

    assert [round(mean * LAYERS) for mean in seen] == [budget(step) for step in range(1, STEPS + 1)]
    assert seen[-1] == 3.0


def test_ranks_go_where_they_matter(run):
    the_job, _, _ = run
    found = ranks(the_job.model)
    assert sum(found) == 3 * LAYERS and len(set(found)) > 1 and max(found) <= 6


def test_penalty_is_the_distance_from_orthogonality():
    the_job = make(orthogonality=2.0)
    adapter = the_job.adapter
    norms = []
    for name, parameter in the_job.model.named_parameters():
        p = parameter.detach()
        if ".lora_A." in name:
            norms.append((p @ p.T - torch.eye(6)).square().sum().sqrt())
        elif ".lora_B." in name:
            norms.append((p.T @ p - torch.eye(6)).square().sum().sqrt())
    assert len(norms) == 2 * LAYERS
    assert float(adapter.penalty(the_job.model).detach()) == pytest.approx(
        2 * float(sum(norms)) / len(norms), rel=1e-5
    )
    with torch.no_grad():
        for name, p in the_job.model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                torch.nn.init.orthogonal_(p)
    assert float(adapter.penalty(the_job.model).detach()) < 1e-4
    assert make(orthogonality=0.0).adapter.penalty(the_job.model) is None


def test_the_penalty_moves_the_factors_towards_orthogonality(tmp_path):
    """At the start the gradient of the loss is zero in both factors, so only the penalty moves them."""

    def distance(orthogonality):
        the_job = make(orthogonality=orthogonality)
        fit(the_job, settings(max_steps=2, learning_rate=1e-2), tmp_path / str(orthogonality))
        return float(adapter_of("adalora", orthogonality=1.0).penalty(the_job.model).detach())

    assert distance(1.0) < 0.99 * distance(0.0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("cut", [2, 4, 8], ids=["before", "while ranks fall", "after"])
def test_resume_comes_to_the_same_bits(run, cut, tmp_path):
    _, _, expected = run

    def observe(event):
        if type(event).__name__ == "Saved" and event.step == cut:
            raise Killed

    how = settings(max_steps=STEPS, learning_rate=3e-2, save_every=2, keep=1)
    with pytest.raises(Killed):
        fit(make(), how, tmp_path, observe)
    _, found = fit(make(), how, tmp_path)
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)


def test_without_its_state_a_resumed_run_would_differ(run, tmp_path, monkeypatch):
    """So the state is read, and the test above can fail."""
    the_job, _, expected = run
    monkeypatch.setattr(type(the_job.adapter), "restore", lambda self, model, state: None)

    def observe(event):
        if type(event).__name__ == "Saved" and event.step == 4:
            raise Killed

    how = settings(max_steps=STEPS, learning_rate=3e-2, save_every=2, keep=1)
    with pytest.raises(Killed):
        fit(make(), how, tmp_path, observe)
    _, found = fit(make(), how, tmp_path)
    assert any(not torch.equal(found[n], expected[n]) for n in expected)


def test_saved_it_has_the_ranks_that_are_left_and_plain_peft_reads_it(run, tmp_path):
    the_job, _, _ = run
    after = logits(the_job.model)
    the_job.adapter.save(the_job.model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    kept = [t.shape[0] for n, t in tensors.items() if ".lora_A" in n]
    assert sorted(kept) == sorted(max(rank, 1) for rank in ranks(the_job.model))
    with quiet_peft():
        plain = PeftModel.from_pretrained(base(), tmp_path).eval()
    torch.testing.assert_close(logits(plain), after, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ADALORA"


def test_the_weights_of_an_earlier_step_are_saved_with_their_own_ranks(run, tmp_path):
    """The best step may be one before the last; PEFT's record of ranks is that of the last."""
    the_job, _, weights = run
    model, adapter = the_job.model, the_job.adapter
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(0.1)  # now no value is zero
    changed = logits(model)
    adapter.save(model, tmp_path)
    with quiet_peft():
        plain = PeftModel.from_pretrained(base(), tmp_path).eval()
    torch.testing.assert_close(logits(plain), changed, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for n, p in trainable(model).items():
            p.copy_(weights[n])


def test_identity_off_and_merged(run):
    the_job, _, _ = run
    fresh = adapter_of("adalora", rank=2, start_rank=4).attach(base())
    assert torch.equal(logits(fresh), logits(base()))
    plain = base()
    fuse_layers(plain)  # as in training
    untouched = logits(plain)
    after = logits(the_job.model)
    with the_job.adapter.disabled(the_job.model):
        assert torch.equal(logits(the_job.model), untouched)
    assert (after - untouched).abs().max() > 1e-2
    the_copy = adapter_of("adalora", rank=3, start_rank=6)
    model = the_copy.attach(base())
    model.load_state_dict(the_job.model.state_dict())
    torch.testing.assert_close(logits(the_copy.merged(model)), after, rtol=1e-4, atol=1e-4)


def test_the_update_is_scaled_by_alpha_over_the_first_rank():
    for alpha, expected in ((None, 2.0), (3.0, 0.5)):
        model = adapter_of("adalora", rank=2, start_rank=6, alpha=alpha).attach(base())
        layer = next(m for m in model.modules() if hasattr(m, "lora_E"))
        assert layer.scaling["default"] / 6 == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 12}, r"start_rank 12 must be above rank 12"),
        ({"warm": 0.6, "settle": 0.5}, r"leave no steps in which ranks could fall"),
        ({"start_rank": 40}, r"adapt.start_rank 40 exceeds layer .* use at most 32"),
        ({"target_r": 4}, r"adapt.target_r is set by adapt.rank"),
        ({"total_step": 100}, r"adapt.total_step is set by the length of the run"),
        ({"tinit": 3}, r"adapt.tinit is set by adapt.warm"),
        ({"beta3": 0.5}, r"unknown setting 'adapt.beta3' of adalora. Did you mean 'beta2' or 'beta1'"),
        ({"targets": ["q_prj"]}, r"no linear layer 'q_prj'"),
    ],
)
def test_what_does_not_fit_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        adapter_of("adalora", **options).attach(base())
