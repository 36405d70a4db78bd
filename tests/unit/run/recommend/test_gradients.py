"""One backward pass over packed rows gives what one pass for each row gives."""

import pytest
import torch

from tests.tiny import tiny_model
from tests.training import rows
from tunewright.adapt.base import adapter_of, trainable
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning
from tunewright.run.recommend.gradients import Reader, per_row, unit
from tunewright.run.recommend.projection import Projection

OBJECTIVE = SupervisedFineTuning("sft", SftOptions())


def adapted(family="llama", init="orthogonal", layers=(0, 1)):
    torch.manual_seed(3)
    model = tiny_model(family, 60)
    wrapped = adapter_of("lora", rank=4, init=init, layers_to_transform=list(layers)).attach(model)
    wrapped.eval()
    return wrapped, ModelForward(wrapped)


def one_by_one(model, forward, sequences):
    """Name of a factor -> gradients (sequences, numbers), by autograd."""
    found = {name: [] for name in trainable(model)}
    for tokens in sequences:
        loss = OBJECTIVE.loss(forward, build_batch([tokens])).total
        grads = torch.autograd.grad(loss, list(trainable(model).values()))
        for name, grad in zip(found, grads, strict=True):
            found[name].append(grad.flatten())
    return {name: torch.stack(grads) for name, grads in found.items()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_gradients_of_packed_rows_are_those_of_each_row_alone(family):
    model, forward = adapted(family)
    sequences = rows(5, seed=2)
    heard = {}
    per_row(model, forward, OBJECTIVE, build_batch(sequences), heard.__setitem__)
    wanted = one_by_one(model, forward, sequences)
    named = {f"{n.rpartition('.lora_')[0]}.{n.rpartition('.lora_')[2][0]}": g for n, g in wanted.items()}
    assert heard.keys() == named.keys()
    for name, gradient in named.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(heard[name], gradient, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_the_start_leaves_the_model_as_it_is_and_both_factors_have_a_gradient():
    sequences = rows(3)
    batch = build_batch(sequences)
    with torch.no_grad():
        base = ModelForward(tiny_model("llama", 60)).logprobs(batch)
    sizes = {}
    for init in ("orthogonal", "default"):
        model, forward = adapted(init=init)
        with torch.no_grad():
            torch.testing.assert_close(forward.logprobs(batch), base, rtol=1e-4, atol=1e-5)
        norms = {"A": 0.0, "B": 0.0}

        def add(name, block, norms=norms):
            norms[name[-1]] += float(block.square().sum())

        per_row(model, forward, OBJECTIVE, batch, add)
        sizes[init] = norms["A"] / norms["B"]
    assert sizes["default"] == 0  # B = 0: nothing reaches A
    assert 0.05 < sizes["orthogonal"] < 20


def test_a_reader_gives_unit_vectors_that_do_not_depend_on_the_packing():
    model, forward = adapted(layers=(1,))
    sequences = [[tokens] for tokens in rows(6)]
    found = [
        Reader(model, forward, OBJECTIVE, Projection(0, 512), micro).read(sequences) for micro in (32, 4096)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert found[0].norm(dim=1).tolist() == pytest.approx([1.0] * 6)


def test_cosines_of_projected_gradients_are_those_of_whole_ones():
    model, forward = adapted()
    sequences = rows(8, low=8)
    whole = unit(torch.cat(list(one_by_one(model, forward, sequences).values()), dim=1))
    found = Reader(model, forward, OBJECTIVE, Projection(0)).read([[tokens] for tokens in sequences])
    assert (found @ found.T - whole @ whole.T).abs().max() < 5 / 4096**0.5


def test_a_row_of_several_sequences_is_their_sum():
    model, forward = adapted()
    first, second = rows(2)
    read = Reader(model, forward, OBJECTIVE, Projection(0, 512), 64).read
    apart = one_by_one(model, forward, [first, second])
    lengths = torch.stack([sum(g[i].square().sum() for g in apart.values()).sqrt() for i in (0, 1)])
    together, alone = read([[first, second]]), read([[first], [second]])
    torch.testing.assert_close(together, unit((lengths[:, None] * alone).sum(0)[None]), rtol=0.1, atol=0.05)


def test_branches_are_refused():
    model, forward = adapted()
    tokens = Tokens([1, 2], [0.0, 0.0], branches=(Tokens([3], [1.0]), Tokens([4], [1.0])))
    with pytest.raises(AssertionError, match="several rows"):
        per_row(model, forward, OBJECTIVE, build_batch([tokens]), lambda name, block: None)
