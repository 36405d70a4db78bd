"""Adapters made from adapters or from two models, checked against dense weights and by plain PEFT."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftModel

from tests.tiny import tiny_model
from tunewright.adapt.base import adapter_of
from tunewright.adapt.combine import MERGES, combine, extract
from tunewright.adapt.lowrank import LowRank, factored, read_lora, stacked
from tunewright.core.errors import ConfigError, ModelError
from tunewright.models.quiet import quiet_peft

IDS = torch.tensor([[3, 40, 50, 60, 7, 9]])


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def saved(folder, seed, method="lora", family="llama", **options):
    """An adapter directory whose B is not zero."""
    adapter = adapter_of(method, rank=4, **options)
    torch.manual_seed(seed)
    model = adapter.attach(tiny_model(family))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapter.save(model, folder)
    return folder


def opened(folder, family="llama"):
    with quiet_peft():
        return PeftModel.from_pretrained(tiny_model(family), str(folder))


def dense(folder):
    """Layer -> difference, as plain PEFT computes it."""
    model = opened(folder)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_what_is_read_is_the_difference_that_peft_applies(tmp_path, method):
    one = read_lora(saved(tmp_path / "a", 1, method))
    for name, difference in dense(tmp_path / "a").items():
        torch.testing.assert_close(one.layers[name].dense(), difference, rtol=1e-5, atol=1e-6)


def test_a_linear_combination_is_exact_and_its_ranks_add_up(tmp_path):
    a, b = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2, "rslora", targets=["q_proj", "down_proj"])
    made = combine([a, b], [0.7, -0.3], tmp_path / "out")
    assert (made.layers, made.rank, made.kept) == (14, 8, 1.0)
    first, second, both = dense(a), dense(b), dense(tmp_path / "out")
    assert both.keys() == first.keys() and len(second) == 4
    for name, difference in both.items():
        expected = 0.7 * first[name] - 0.3 * second.get(name, 0.0)
        torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-6)


def test_a_lower_rank_keeps_the_share_that_it_says(tmp_path):
    a, b = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    made = combine([a, b], [1.0, 1.0], tmp_path / "out", rank=3)
    assert made.rank == 3 and 0.4 < made.kept < 0.9
    exact = {name: dense(a)[name] + difference for name, difference in dense(b).items()}
    shares = [
        1 - float((exact[n] - d).square().sum() / exact[n].square().sum())
        for n, d in dense(tmp_path / "out").items()
    ]
    assert min(shares) == pytest.approx(made.kept, abs=1e-4)


def test_ties_by_hand():
    """Trim to the larger half, elect the sign of the sum, mean of those that agree (arXiv 2306.01708)."""
    one, two = torch.tensor([[4.0, -1.0, 3.0, 0.5]]), torch.tensor([[2.0, 5.0, -1.0, -6.0]])
    # kept: [4, 0, 3, 0] and [0, 5, 0, -6]; signs of the sums: + + + -
    merged = MERGES["ties"]([one, two], torch.tensor([1.0, 1.0]), 0.5)
    assert merged.tolist() == [[4.0, 5.0, 3.0, -6.0]]
    # Nothing trimmed: signs + + + -; agreeing: (4, 2), (5), (3), (-6)
    whole = MERGES["ties"]([one, two], torch.tensor([1.0, 1.0]), 0.9999)
    assert whole.tolist() == [[3.0, 5.0, 3.0, -6.0]]


def test_dare_keeps_the_mean_and_is_seeded(tmp_path):
    """A share of the entries is kept and scaled up, so the expected difference stays (arXiv 2311.03099)."""
    torch.manual_seed(0)
    merged = MERGES["dare"]([torch.ones(400, 500)], torch.tensor([1.0]), 0.25)
    assert set(merged.unique().tolist()) == {0.0, 4.0} and float(merged.mean()) == pytest.approx(
        1.0, abs=0.02
    )
    a, b = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    state = torch.random.get_rng_state()
    for out, seed in (("x", 0), ("y", 0), ("z", 1)):
        combine([a, b], [1.0, 1.0], tmp_path / out, how="dare_ties", seed=seed, rank=40)
    assert torch.equal(state, torch.random.get_rng_state())
    x, y, z = (dense(tmp_path / out) for out in "xyz")
    assert all(torch.equal(x[n], y[n]) for n in x) and any(not torch.equal(x[n], z[n]) for n in x)


@pytest.mark.parametrize("how", ["ties", "dare", "dare_ties"])
def test_of_full_density_and_rank_the_others_are_the_dense_merge(tmp_path, how):
    a, b = saved(tmp_path / "a", 1, targets=["q_proj"]), saved(tmp_path / "b", 2, targets=["q_proj"])
    combine([a, b], [1.0, 0.5], tmp_path / "out", how=how, density=1.0, rank=64)
    first, second = dense(a), dense(b)
    for name, difference in dense(tmp_path / "out").items():
        expected = first[name] + 0.5 * second[name]
        if how != "dare":
            agree = (
                (first[name].sign() == (first[name] + second[name]).sign()).float(),
                (second[name].sign() == (first[name] + second[name]).sign()).float(),
            )
            expected = (agree[0] * first[name] + 0.5 * agree[1] * second[name]) / (agree[0] + agree[1])
        torch.testing.assert_close(difference, expected, rtol=1e-3, atol=1e-5)


def test_factoring_is_the_best_of_its_rank():
    torch.manual_seed(0)
    matrix = torch.randn(20, 3) @ torch.randn(3, 12)
    exact, kept = factored(matrix, 8)
    assert exact.rank == 3 and kept == pytest.approx(1.0)
    torch.testing.assert_close(exact.dense(), matrix, rtol=1e-4, atol=1e-5)
    two = stacked([LowRank(exact.a, exact.b, 2.0), LowRank(exact.a, exact.b, 3.0)], [1.0, -1.0])
    torch.testing.assert_close(two.dense(), -matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_the_difference_of_two_models_becomes_an_adapter(tmp_path, family):
    base = tiny_model(family)
    tuned = copy.deepcopy(base)
    torch.manual_seed(3)
    for name, parameter in tuned.named_parameters():
        if "down_proj" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape[0], 2) @ torch.randn(2, parameter.shape[1])
    made = extract(tuned, base, tmp_path / "out", rank=5, names=("tuned", "base"))
    assert (made.layers, made.rank) == (2, 2) and made.kept == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(logits(opened(tmp_path / "out", family)), logits(tuned), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_what_no_low_rank_update_holds_is_refused_kept_or_dropped(tmp_path, tied):
    base = tiny_model("llama", tie_word_embeddings=tied)
    tuned = copy.deepcopy(base)
    torch.manual_seed(4)
    for parameter in tuned.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    with pytest.raises(ModelError, match=r"differs from base in .*rest=keep"):
        extract(tuned, base, tmp_path / "no", rank=64, names=("tuned", "base"))
    assert not (tmp_path / "no").exists()
    for rest in ("keep", "drop"):
        extract(tuned, base, tmp_path / rest, rank=64, names=("tuned", "base"), rest=rest)
    with quiet_peft():
        kept, dropped = (
            PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / rest)) for rest in ("keep", "drop")
        )
    torch.testing.assert_close(logits(kept), logits(tuned), rtol=1e-3, atol=1e-3)
    assert float((logits(dropped) - logits(tuned)).abs().max()) > 0.01


def test_bad_input(tmp_path):
    a, b = saved(tmp_path / "a", 1), saved(tmp_path / "b", 2)
    dora = saved(tmp_path / "dora", 1, "dora")
    for bad, words in (
        (lambda: combine([a], [1.0], tmp_path / "o"), "1 adapters and 1 weights"),
        (lambda: combine([a, b], [1.0], tmp_path / "o"), "2 adapters and 1 weights"),
        (lambda: combine([a, b], [1.0, 1.0], a), "exists; choose another"),
        (lambda: combine([a, b], [1.0, 1.0], tmp_path / "o", how="slerp"), "not one of linear, ties"),
        (lambda: combine([a, b], [1.0, 1.0], tmp_path / "o", how="ties", density=0.0), "density 0.0"),
        (lambda: combine([a, tmp_path], [1.0, 1.0], tmp_path / "o"), "holds no adapter"),
        (lambda: combine([a, dora], [1.0, 1.0], tmp_path / "o"), "use_dora=True"),
    ):
        with pytest.raises((ConfigError, ModelError), match=words):
            bad()
    (b / "base.json").write_text(json.dumps({"name": "other", "shape": {}}))
    with pytest.raises(ModelError, match="trained on different bases"):
        combine([a, b], [1.0, 1.0], tmp_path / "o")
    with pytest.raises(ModelError, match="not of one form"):
        extract(tiny_model(hidden_size=32), tiny_model(), tmp_path / "o", rank=2, names=("x", "y"))
    with pytest.raises(ModelError, match="no difference to extract"):
        extract(tiny_model(), tiny_model(), tmp_path / "o", rank=2, names=("x", "y"))
    assert not (tmp_path / "o").exists()
