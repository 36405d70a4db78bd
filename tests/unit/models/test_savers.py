"""Activations computed again or kept elsewhere: the same gradients to the last bit, fewer bytes kept."""

from itertools import pairwise

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from tests.tiny import FAMILIES, tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import adapter_of
from tunewright.core.errors import ConfigError
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.savers import OnCpu, check_layers, keeps_nothing, layers_of, saving

LAYERS = 4
METHODS = {
    "full": {},
    "lora": {"rank": 4, "dropout": 0.3},
    "prompt": {"tokens": 5},
    "prefix": {"tokens": 5},
    "bottleneck": {"size": 8, "dropout": 0.2},
    "longlora": {"rank": 4, "group": 0.5},
}


def deep(family="llama", method="full", **options):
    """A model of four layers with dropout on attention, ready to train."""
    model = tiny_model(family, VOCAB, num_hidden_layers=LAYERS)
    adapter = adapter_of(method, **{**METHODS.get(method, {}), **options})
    torch.manual_seed(3)
    model = adapter.attach(model)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2
    return model.train()


def gradients(model, recomputed, offload=False):
    """The gradient of a packed batch with branches, the loss, and the bytes that autograd kept."""
    forward = ModelForward(model)
    batch = build_batch([*rows(3), *rows(2, seed=4)])
    kept: dict[tuple, int] = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr(), tensor.shape] = tensor.nbytes
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    torch.manual_seed(11)
    with saving(model, recomputed, offload), saved_tensors_hooks(note, lambda tensor: tensor):
        loss = -forward.logprobs(batch).sum()
        loss.backward()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    size = sum(nbytes for (place, _), nbytes in kept.items() if place not in own)
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found, float(loss.detach()), size


def same(a, b):
    return a.keys() == b.keys() and len(a) > 0 and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_bits_in_every_family(family, method):
    model = deep(family, method)
    expected, loss, _ = gradients(model, 0)
    for recomputed in (2, LAYERS):
        again, same_loss, _ = gradients(model, recomputed)
        assert same(again, expected) and same_loss == loss


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_the_same_bits_with_every_method(method):
    model = deep("llama", method)
    expected, loss, everything = gradients(model, 0)
    again, same_loss, kept = gradients(model, LAYERS)
    assert same(again, expected) and same_loss == loss
    assert kept < 0.7 * everything


def test_noise_is_drawn_again_as_it_was():
    """With other noise in the second pass the gradient would not belong to the loss."""
    model = deep("llama", "lora", dropout=0.5)
    expected, _, _ = gradients(model, 0)
    torch.manual_seed(11)
    with saving(model, LAYERS):
        loss = -ModelForward(model).logprobs(build_batch([*rows(3), *rows(2, seed=4)])).sum()
        torch.manual_seed(99)
        loss.backward()
    assert same({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, expected)


def test_every_layer_more_keeps_less():
    model = deep("llama", "full")
    sizes = [gradients(model, count)[2] for count in range(LAYERS + 1)]
    falls = [a - b for a, b in pairwise(sizes)]
    assert all(fall > 0.15 * sizes[0] for fall in falls)
    assert sizes[-1] < 0.3 * sizes[0]


def test_outside_and_without_training_nothing_changes():
    model = deep("llama", "lora")
    calls = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda *args: calls.append(1))
    before = [layer.forward for layer in layers_of(model)]
    with saving(model, LAYERS):
        assert all(layer.forward != f for layer, f in zip(layers_of(model), before, strict=True))
        batch = build_batch(rows(2))
        model.eval()
        with torch.no_grad():
            quiet = ModelForward(model).logprobs(batch)
    assert [layer.forward for layer in layers_of(model)] == before
    assert not any("forward" in layer.__dict__ for layer in layers_of(model))
    assert torch.equal(ModelForward(model).logprobs(batch).detach(), quiet)


def test_a_run_ends_with_the_same_weights(tmp_path):
    ends = []
    for recomputed in (0, 2):
        the_job = job(rows(24), adapter=adapter_of("lora", rank=4, dropout=0.2), neftune=3.0)
        with saving(the_job.model, recomputed):
            ends.append(fit(the_job, settings(max_steps=5), tmp_path / str(recomputed))[1])
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_more_layers_than_there_are_is_refused():
    model = tiny_model("llama", VOCAB)
    check_layers(model, 2)
    with pytest.raises(ConfigError, match=r"checkpoint_layers 3: this model has 2 layers"):
        check_layers(model, 3)


def test_it_knows_where_nothing_is_kept_anyway():
    assert keeps_nothing(deep("llama", "freeze", layers=2), 2)
    assert not keeps_nothing(deep("llama", "freeze", layers=2), 3)
    assert not any(keeps_nothing(deep("llama", method), 1) for method in METHODS)
    model = deep("llama", "freeze", layers=2)
    assert gradients(model, 2)[2] == gradients(model, 0)[2] > gradients(model, 3)[2]


def test_kept_tensors_come_back_as_they_were_and_weights_stay():
    weight = torch.nn.Parameter(torch.randn(80, 80))
    x = torch.randn(64, 80, requires_grad=True)
    away = OnCpu({weight.untyped_storage().data_ptr()})
    with away:
        y = torch.tanh(x @ weight.T).square().sum()
    assert away.moved == 3 * 64 * 80 * 4  # x for the weight, and twice what tanh gave
    y.backward()
    ours = weight.grad.clone(), x.grad.clone()
    weight.grad = x.grad = None
    torch.tanh(x @ weight.T).square().sum().backward()
    assert torch.equal(ours[0], weight.grad) and torch.equal(ours[1], x.grad)


@pytest.mark.parametrize("method", METHODS)
def test_offloading_changes_no_gradient(method, monkeypatch):
    model = deep("llama", method)
    expected, _, _ = gradients(model, 0)
    moved = []
    pack = OnCpu._pack

    def counting(self, tensor):
        before = self.moved
        packed = pack(self, tensor)
        moved.append(self.moved - before)
        return packed

    monkeypatch.setattr(OnCpu, "_pack", counting)
    all_away, _, _ = gradients(model, 0, offload=True)
    everything = sum(moved)
    moved.clear()
    inputs, _, _ = gradients(model, LAYERS, offload=True)
    assert same(all_away, expected) and same(inputs, expected)
    tokens = sum(len(t.ids) for t in [*rows(3), *rows(2, seed=4)]) + (5 if method == "prompt" else 0)
    assert sum(moved) == LAYERS * tokens * 64 * 4  # the inputs of the layers are all that is kept
    assert everything > 5 * sum(moved)
