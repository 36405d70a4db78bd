"""Lower layers that never train run once per text, and where that would be wrong they are known."""

import re

import pytest
import torch
from torch import nn

from tests.tiny import FAMILIES, OTHERS, tiny_model
from tests.training import VOCAB, fit, rows, settings
from tunewright.adapt.base import adapter_of
from tunewright.core import events
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Job
from tunewright.models.causal import decoder_layers
from tunewright.models.forward import ModelForward
from tunewright.models.layer_cache import LayerCache, lower_digest, lower_layers
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

STILL = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
TOP = [f"layers.{i}.{part}" for i in (2, 3) for part in ("self_attn.q_proj", "mlp.down_proj")]


def adapted(family="llama", adapter=None, dtype=torch.float32, seed=0, **overrides):
    """Four layers, the last two of which train."""
    torch.manual_seed(7)
    changes = {"num_hidden_layers": 4, **STILL.get(family, {}), **overrides}
    model = tiny_model(family, VOCAB, seed=seed, **changes).to(dtype)
    return (adapter or adapter_of("freeze", layers=2)).attach(model)


def cached(model, folder, dtype=torch.float32):
    forward = ModelForward(model, compute=dtype)
    cache = LayerCache.begun(forward, lower_layers(model).number, folder)
    assert isinstance(cache, LayerCache), cache
    forward.below = cache
    return forward, cache


def pair(prompt, *answers):
    branches = tuple(Tokens(list(ids), [1.0] * len(ids)) for ids in answers)
    return Tokens(list(prompt), [0.0] * len(prompt), branches=branches)


def calls(layers):
    """How often each layer computed, as a list that goes on growing."""
    counts = [0] * len(layers)
    for i, layer in enumerate(layers):
        inner = next(m for n, m in layer.named_modules() if n.endswith(("mlp", "self_attn", "attn")))

        def count(module, args, i=i):
            counts[i] += 1

        inner.register_forward_pre_hook(count)
    return counts


MIXED = [*rows(5), pair(range(6, 11), [7, 8], [9, 4, 5, 6]), *rows(2, seed=3, low=90, high=100)]


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_states_and_gradients_are_those_of_the_whole_model(tmp_path, family):
    model = adapted(family)
    assert lower_layers(model) == (2, None)
    plain, (forward, cache) = ModelForward(model), cached(model, tmp_path)
    counts, batch = calls(decoder_layers(model)), build_batch(MIXED)

    def loss_and_gradients(by, of):
        model.train()
        model.zero_grad()
        loss = by.logprobs(of).mean()
        loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return loss.detach(), grads

    expected, right = loss_and_gradients(plain, batch)
    assert counts == [1, 1, 1, 1] and right
    for run in (1, 2, 3):
        loss, grads = loss_and_gradients(forward, batch)
        assert counts == [2, 2, 1 + run, 1 + run] and cache.runs == 1
        assert torch.equal(loss, expected) and grads.keys() == right.keys()
        assert all(torch.equal(grads[n], right[n]) for n in right)
    for part in (MIXED[::-1], MIXED[3:6]):  # in other company
        with torch.no_grad():
            ours, theirs = (f.logprobs(build_batch(part)) for f in (forward, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert cache.runs == 1
    forward.logprobs(build_batch([*MIXED[:2], *rows(1, seed=99)]))  # one that is not known
    assert cache.runs == 2


def test_a_new_process_finds_them_and_another_model_does_not(tmp_path):
    forward, cache = cached(adapted(), tmp_path)
    batch = build_batch(MIXED)
    first = forward.hidden(batch)
    again, found = cached(adapted(), tmp_path)
    assert torch.equal(again.hidden(batch), first) and found.runs == 0
    for other in (adapted(seed=1), adapted(adapter=adapter_of("freeze", layers=1))):
        forward, cache = cached(other, tmp_path)
        forward.hidden(batch)
        assert cache.runs == 1
    low = lower_digest(ModelForward(adapted(), compute=torch.bfloat16), 2)
    same = [lower_digest(ModelForward(adapted(seed=s)), 2) for s in (0, 0, 1)]
    assert len({*same, low}) == 3
    moved = adapted()
    with torch.no_grad():
        decoder_layers(moved)[3].mlp.down_proj.weight += 1  # what trains is no part of it
    assert lower_digest(ModelForward(moved), 2) == same[0]


@pytest.mark.parametrize("targets", [{"targets": TOP}, {"layers_to_transform": [2, 3]}])
def test_lora_on_upper_layers_in_bfloat16(tmp_path, targets):
    """States are bfloat16 on their way between layers, so what is kept is what was computed."""
    model = adapted(adapter=adapter_of("lora", rank=2, dropout=0.5, **targets), dtype=torch.bfloat16)
    assert lower_layers(model) == (2, None)
    plain = ModelForward(model, compute=torch.bfloat16)
    forward, cache = cached(model, tmp_path, torch.bfloat16)
    model.eval()
    batch = build_batch(MIXED)
    for _ in range(2):
        assert torch.equal(forward.hidden(batch), plain.hidden(batch))
    assert cache.runs == 1 and cache.dtype == cache.live == torch.bfloat16
    tokens, texts = sum(row.size for row in MIXED), len(MIXED) + 2
    [file] = tmp_path.iterdir()
    assert file.stat().st_size == 40 + texts * 24 + tokens * 64 * 2


def test_float32_states_are_kept_in_the_format_of_the_computation(tmp_path):
    """Weights that train in float32 keep states in float32 while products are bfloat16."""
    model = adapted()
    forward, cache = cached(model, tmp_path, torch.bfloat16)
    assert (cache.dtype, cache.live) == (torch.bfloat16, torch.float32)
    batch = build_batch(MIXED)
    exact, kept = ModelForward(model, compute=torch.bfloat16).hidden(batch), forward.hidden(batch)
    assert kept.dtype == exact.dtype and torch.equal(forward.hidden(batch), kept)
    assert 0 < (kept - exact).abs().max() <= 0.02 * exact.abs().max()


def test_the_adapter_switched_off_reads_the_same_states(tmp_path):
    adapter = adapter_of("lora", rank=2, targets=TOP)
    model = adapted(adapter=adapter)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    forward, cache = cached(model.eval(), tmp_path)
    batch = build_batch(MIXED)
    on = forward.hidden(batch)
    with adapter.disabled(model):
        off, untouched = forward.hidden(batch), ModelForward(model).hidden(batch)
    assert torch.equal(off, untouched) and not torch.allclose(on, off) and cache.runs == 1


def test_a_model_with_its_own_output_layer_is_served_too(tmp_path):
    model = adapted()
    forward, cache = cached(model, tmp_path)
    forward.plain = True
    batch, plain = build_batch(MIXED), ModelForward(model)
    for _ in range(2):
        torch.testing.assert_close(forward.logprobs(batch), plain.logprobs(batch), rtol=1e-5, atol=1e-5)
    assert cache.runs == 1


@pytest.mark.parametrize("adapter", [adapter_of("freeze", layers=2), adapter_of("lora", rank=2, targets=TOP)])
@pytest.mark.parametrize("caching", [False, True])
def test_no_gradient_is_computed_below_the_first_trained_layer(tmp_path, adapter, caching):
    model = adapted(adapter=adapter)
    forward = cached(model, tmp_path)[0] if caching else ModelForward(model)
    wanted, backward = {}, []

    def watch(i, out):
        wanted[i] = out.requires_grad
        if out.requires_grad:
            out.register_hook(lambda gradient: backward.append(i))

    for i, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(lambda m, args, out, i=i: watch(i, out))
    for _ in range(2):
        model.train()
        forward.logprobs(build_batch(MIXED)).mean().backward()
        assert wanted == {0: False, 1: False, 2: True, 3: True}
    assert sorted(backward) == [2, 2, 3, 3]
    assert all((p.grad is None) == (not p.requires_grad) for p in model.parameters())


# --- where it may not be used

FAULTS = {
    "full": ("full", {}, {}, 0, "embeddings train"),
    "tied head": (
        "freeze",
        {"train": "modules", "modules": ["lm_head"]},
        {"tie_word_embeddings": True},
        0,
        "emb",
    ),
    "new tokens": ("lora", {"rank": 2, "targets": TOP, "trainable_token_indices": [5]}, {}, 0, "embeddings"),
    "lora": ("lora", {"rank": 2}, {}, 0, "the first layer trains"),
    "norms": ("freeze", {"train": "norms"}, {}, 0, "the first layer trains"),
    "prompt": ("prompt", {"tokens": 3}, {}, 0, "virtual tokens"),
    "prefix": ("prefix", {"tokens": 3}, {}, 0, "virtual tokens"),
    "ptuning": ("ptuning", {"tokens": 3, "width": 8}, {}, 0, "virtual tokens"),
    "attention dropout": ("freeze", {}, {"attention_dropout": 0.1}, 2, "drops states at random"),
    "shifted": (
        "longlora",
        {"rank": 2, "targets": TOP, "factor": 1.0, "rope": "none", "also_train": "nothing"},
        {},
        2,
        "sparse while training",
    ),
    "shared keys": ("freeze", {}, {"num_kv_shared_layers": 1}, 2, "keys and values of lower ones"),
    "inputs by layer": ("freeze", {}, {"hidden_size_per_layer_input": 8}, 2, "embedding of its own"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_hinders_is_told_from_the_model(name):
    method, options, overrides, number, because = FAULTS[name]
    found = lower_layers(adapted(adapter=adapter_of(method, **options), **overrides))
    assert found.number == number and because in found.fault


def test_dropout_counts_in_what_does_not_train_only():
    assert lower_layers(adapted("gpt2", resid_pdrop=0.1)).fault is not None
    assert lower_layers(adapted("gpt2", embd_pdrop=0.1)).fault is not None
    assert lower_layers(adapted(adapter=adapter_of("lora", rank=2, targets=TOP, dropout=0.3))) == (2, None)
    assert lower_layers(adapted(adapter=adapter_of("longlora", rank=2, targets=TOP, group=0.0))).number == 0


def test_what_thaws_later_counts_as_trained():
    adapter = adapter_of("freeze", layers=3, unfreeze=0.5)
    model = adapted(adapter=adapter)
    names = adapter.active(1, 100, 0)
    thawed = [i for i in range(4) if names(f"model.layers.{i}.mlp.down_proj.weight")]
    assert thawed == [3] and lower_layers(model) == (1, None)


def test_a_layer_of_the_whole_trunk_may_be_the_last(tmp_path):
    model = adapted(adapter=adapter_of("freeze", train="modules", modules=["lm_head", "model.norm"]))
    assert lower_layers(model) == (4, None)
    forward, cache = cached(model, tmp_path)
    batch = build_batch(MIXED)
    right = ModelForward(model).hidden(batch)
    assert torch.equal(forward.hidden(batch), right) and torch.equal(forward.hidden(batch), right)
    assert cache.runs == 1


class Odd(nn.Module):
    """A layer around ``inner`` with a habit that only running it shows."""

    def __init__(self, inner, habit):
        super().__init__()
        self.inner, self.habit, self.layer_type = inner, habit, getattr(inner, "layer_type", None)

    def forward(self, states, *args, **kwargs):
        return self.habit(self, self.inner(states, *args, **kwargs))


def noisy(layer, out):
    return out + 0.01 * torch.rand_like(out) if layer.training else out


def remembering(layer, out):
    layer.seen.append(out)
    return out


def recalling(layer, out):
    return out + layer.seen.pop()


def looking_back(layer, out):
    return out + layer.seen[-1]


def scaled(layer, out):
    return out * layer.scale


@pytest.mark.parametrize(
    ("habits", "because"),
    [
        ({1: noisy}, "other states while training"),
        ({0: remembering, 3: recalling}, r"cannot begin at layer 2 \(IndexError"),
        ({0: remembering, 3: looking_back}, "layers above layer 2 read more than its states"),
        ({0: scaled}, "something trains below layer 2"),
    ],
)
def test_other_hindrances_show_when_it_is_tried(tmp_path, habits, because):
    model = adapted()
    seen = []
    for place, habit in habits.items():
        odd = Odd(model.model.layers[place], habit)
        odd.__dict__["seen"], odd.__dict__["scale"] = seen, nn.Parameter(torch.ones(()))
        model.model.layers[place] = odd
    model.eval()
    found = LayerCache.begun(ModelForward(model), 2, tmp_path)
    assert isinstance(found, str)
    assert re.search(because, found)
    assert not model.training and not list(tmp_path.iterdir())
    assert all("forward" not in layer.__dict__ for layer in model.model.layers)


# --- in the loop


def job(folder, train, validation=(), adapter=None):
    """A training job, with the cache where a folder for it is given."""
    adapter = adapter or adapter_of("freeze", layers=2)
    model = adapted(adapter=adapter)
    forward = cached(model, folder)[0] if folder else ModelForward(model)
    return Job(model, forward, SupervisedFineTuning("sft", SftOptions()), train, validation, adapter=adapter)


ADAPTERS = {
    "freeze": adapter_of("freeze", layers=2),
    "thawing": adapter_of("freeze", layers=2, unfreeze=0.6),
    "lora": adapter_of("lora", rank=2, targets=TOP, dropout=0.3),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_training_runs_them_once_per_text_and_comes_to_the_same_weights(tmp_path, name):
    train, validation, how = rows(24), rows(6, seed=1), settings(epochs=3, every=3)
    _, expected = fit(job(None, train, validation, ADAPTERS[name]), how, tmp_path / "plain")
    the_job = job(tmp_path / "cache", train, validation, ADAPTERS[name])
    counts = calls(decoder_layers(the_job.model))
    at = {}
    _, weights = fit(
        the_job,
        how,
        tmp_path / "kept",
        lambda e: at.update({e.epoch: list(counts)}) if isinstance(e, events.StepEnd) else None,
    )
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    assert at[1.0][:2] == at[3.0][:2] and at[3.0][2] > 2.5 * at[1.0][0]


@pytest.mark.parametrize("name", ADAPTERS)
def test_resume_is_bit_equal_at_every_step(tmp_path, name):
    class Crash(Exception):
        pass

    train, validation, how = rows(20), rows(5, seed=9), settings(epochs=2, every=4, save_every=3)
    steps = []
    _, expected = fit(
        job(tmp_path / "cache", train, validation, ADAPTERS[name]),
        how,
        tmp_path / "whole",
        lambda e: steps.append(e.step) if isinstance(e, events.StepEnd) else None,
    )
    assert len(steps) >= 6
    for crash_at in steps:
        folder, cache = tmp_path / f"crash-{crash_at}", tmp_path / f"cache-{crash_at}"

        def crash(event, at=crash_at):
            if isinstance(event, events.StepEnd) and event.step == at:
                raise Crash

        with pytest.raises(Crash):
            fit(job(cache, train, validation, ADAPTERS[name]), how, folder, crash)
        with next(cache.iterdir()).open("ab") as f:
            f.write(b"cut off here")
        _, weights = fit(job(cache, train, validation, ADAPTERS[name]), how, folder)
        assert all(torch.equal(weights[n], expected[n]) for n in expected), f"crash at step {crash_at}"
