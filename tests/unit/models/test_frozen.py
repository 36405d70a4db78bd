"""States of a frozen trunk: computed once, kept to the last bit, not trusted where a file was cut off."""

import pytest
import torch
from torch import nn

from tests.tiny import tiny_model
from tunewright.adapt.base import adapter_of
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.models.forward import ModelForward
from tunewright.models.frozen import FrozenForward, trunk_digest, trunk_is_fixed
from tunewright.models.score import attach
from tunewright.models.states import segment_keys
from tunewright.objectives.base import HeadSpec, make_objective
from tunewright.objectives.options.table import options_of

VOCAB = 60


def rows(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        n = int(torch.randint(3, 15, (1,), generator=generator))
        ids = [*torch.randint(6, VOCAB, (n - 1,), generator=generator).tolist(), 3 + i % 3]
        found.append(Tokens(ids, [0.0] * n, extras={"label": float(i % 3)}))
    return found


def model_with_head(pooling="last", seed=0, dtype=torch.float32):
    model = adapter_of("head").attach(tiny_model("llama", VOCAB, seed=seed).to(dtype))
    attach(model, {"score": HeadSpec(3, pooling)})
    return model


def batches(sequences, size=4):
    return [build_batch(sequences[i : i + size]) for i in range(0, len(sequences), size)]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_is_what_was_computed(tmp_path, pooling, dtype):
    model = model_with_head(pooling, dtype=dtype)
    plain, frozen = ModelForward(model, compute=dtype), FrozenForward(model, tmp_path, compute=dtype)
    found = [frozen.pooled(b, pooling) for b in batches(rows())]
    with torch.no_grad():
        expected = [plain.pooled(b, pooling) for b in batches(rows())]
    again = [frozen.pooled(b, pooling) for b in batches(rows())]
    assert frozen.trunk_runs == 3
    for first, second, third in zip(found, expected, again, strict=True):
        assert first.dtype == second.dtype == (torch.float32 if pooling == "mean" else dtype)
        assert torch.equal(first, second) and torch.equal(first, third)
    assert not found[0].requires_grad


def test_a_new_process_finds_them_and_another_model_does_not(tmp_path):
    first = FrozenForward(model_with_head(), tmp_path)
    states = [first.pooled(b, "last") for b in batches(rows())]
    again = FrozenForward(model_with_head(), tmp_path)
    mixed = batches(rows()[::-1], 6)  # in other company
    found = torch.cat([again.pooled(b, "last") for b in mixed])
    assert again.trunk_runs == 0 and torch.equal(found.flip(0), torch.cat(states))
    other = FrozenForward(model_with_head(seed=1), tmp_path)
    assert not torch.equal(other.pooled(batches(rows())[0], "last"), states[0]) and other.trunk_runs == 1
    by_mean = FrozenForward(model_with_head("mean"), tmp_path)
    by_mean.pooled(batches(rows())[0], "mean")
    assert by_mean.trunk_runs == 1
    low = trunk_digest(model_with_head(), torch.bfloat16)
    assert len({trunk_digest(model_with_head(seed=s), torch.float32) for s in (0, 0, 1)} | {low}) == 3


def test_a_state_depends_on_the_prefix_too(tmp_path):
    def pair(prompt):
        branches = tuple(Tokens(ids, [1.0] * len(ids)) for ids in ([7, 8], [9, 4, 5]))
        return build_batch([Tokens(prompt, [0.0] * len(prompt), branches=branches)])

    one, two = pair([3, 4, 5]), pair([5, 4, 3])
    keys = segment_keys(one) + segment_keys(two)
    assert len(set(keys)) == 6 and segment_keys(pair([3, 4, 5])) == segment_keys(one)
    # a boundary elsewhere is another text
    assert segment_keys(pair([3, 4]))[1] != segment_keys(one)[1]
    frozen = FrozenForward(model_with_head(), tmp_path)
    first, second = frozen.pooled(one, "last"), frozen.pooled(two, "last")
    assert frozen.trunk_runs == 2 and not torch.allclose(first[1], second[1])
    assert torch.equal(frozen.pooled(one, "last"), first) and frozen.trunk_runs == 2


def test_a_batch_with_an_unknown_text_runs_whole_and_overwrites_nothing(tmp_path):
    frozen, sequences = FrozenForward(model_with_head(), tmp_path), rows(4)
    first = frozen.pooled(build_batch(sequences[:2]), "last")
    both = frozen.pooled(build_batch(sequences), "last")
    assert frozen.trunk_runs == 2 and torch.equal(both[:2], first)
    [file] = tmp_path.iterdir()
    size = file.stat().st_size
    frozen.pooled(build_batch(sequences[1:3]), "last")
    assert frozen.trunk_runs == 2 and file.stat().st_size == size


def test_given_hidden_states_are_used(tmp_path):
    frozen, batch = FrozenForward(model_with_head(), tmp_path), batches(rows())[0]
    with torch.no_grad():
        hidden = frozen.hidden(batch)
    ends = [s.start + s.length - 1 for s in batch.segments]
    assert torch.equal(frozen.pooled(batch, "last", hidden), hidden[ends])
    assert frozen.trunk_runs == 0 and not list(tmp_path.iterdir())


def test_when_a_trunk_is_fixed():
    assert trunk_is_fixed(model_with_head())
    assert not trunk_is_fixed(adapter_of("lora", rank=2).attach(tiny_model("llama", VOCAB)))
    model = model_with_head()
    model.model.norm.weight.requires_grad_(True)
    assert not trunk_is_fixed(model)
    assert not trunk_is_fixed(adapter_of("head").attach(tiny_model("llama", VOCAB, attention_dropout=0.1)))
    with_dropout = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).requires_grad_(False)
    assert not trunk_is_fixed(with_dropout)
    with_dropout[1].p = 0.0
    assert trunk_is_fixed(with_dropout)


def trained(forward_of, folder, monkeypatch, epochs=3):
    """The head after ``epochs`` through the loop, and the trunk's runs in each epoch."""
    model = model_with_head()
    forward = forward_of(model)
    what = make_objective("classify", options_of("classify", {"labels": ["a", "b", "c"]}))
    what.weights = (1.0, 1.0, 1.0)
    runs = []
    original = type(model.model).forward

    def counted(*args, **kwargs):
        runs.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", counted)
    train, validation = rows(24), rows(6, seed=1)
    how = FitSettings(epochs=epochs, learning_rate=0.02, tokens_per_step=60, micro_tokens=40, every=2)
    seen = []
    Fit(Job(model, forward, what, train, validation), how, folder, lambda e: seen.append(len(runs))).run()
    return model.score.weight.detach().clone(), len(runs)


def test_training_runs_the_trunk_once_per_text_and_comes_to_the_same_weights(tmp_path, monkeypatch):
    plain, many = trained(ModelForward, tmp_path / "plain", monkeypatch)
    monkeypatch.undo()
    kept, few = trained(lambda m: FrozenForward(m, tmp_path / "cache"), tmp_path / "kept", monkeypatch)
    assert plain.abs().max() > 0.05
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-5)  # states of other micro-batches, rounded
    one_epoch, validation = sum(t.size for t in rows(24)) / 40, 2
    assert few <= 1.6 * one_epoch + validation < many / 2
    monkeypatch.undo()
    again, none = trained(lambda m: FrozenForward(m, tmp_path / "cache"), tmp_path / "again", monkeypatch)
    assert none == 0 and torch.equal(again, kept)
