"""Training the model's own weights: which parts, at what rates, and when."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.tiny import tiny_model
from tests.training import fit, job, rows, settings
from tunewright.adapt.base import adapter_of, trainable
from tunewright.adapt.depth import depth_of
from tunewright.core.errors import ConfigError
from tunewright.engine import checkpoint


def trains(family="llama", **options):
    model = adapter_of("freeze", **options).attach(tiny_model(family, num_hidden_layers=4))
    return set(trainable(model)), model


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("model.embed_tokens.weight", 0),
        ("transformer.wte.weight", 0),
        ("model.layers.0.mlp.up_proj.weight", 1),
        ("base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight", 4),
        ("transformer.h.2.attn.c_attn.weight", 3),
        ("model.norm.weight", 5),
        ("lm_head.weight", 5),
    ],
)
def test_depth_is_read_from_the_name(name, depth):
    assert depth_of(name, 4) == depth


def test_the_last_layers_and_the_last_norm():
    names, model = trains(layers=2)
    assert {depth_of(n, 4) for n in names} == {3, 4, 5} and "model.norm.weight" in names
    assert "lm_head.weight" not in names and len(names) == 2 * 9 + 1
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "phi"])
def test_norms_alone(family):
    names, model = trains(family, train="norms")
    assert names and all("norm" in n.lower() or ".ln_" in n for n in names)
    share = sum(p.numel() for p in trainable(model).values()) / sum(p.numel() for p in model.parameters())
    assert share < 0.02


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "phi"])
def test_biases_alone(family):
    names, model = trains(family, train="biases")
    assert names and all(n.endswith(".bias") for n in names)
    assert names == {n for n, _ in model.named_parameters() if n.endswith(".bias")}


def test_embeddings_and_modules_by_name():
    assert trains(train="embeddings")[0] == {"model.embed_tokens.weight"}
    names, _ = trains(train="modules", modules=["down_proj", "layers.0.self_attn"])
    assert len([n for n in names if "down_proj" in n]) == 4
    assert {n for n in names if "self_attn" in n} == {
        f"model.layers.0.self_attn.{p}_proj.weight" for p in "qkvo"
    }


def test_a_frozen_model_has_one_format_so_it_can_write_answers():
    adapter = adapter_of("freeze", layers=1)
    model = adapter.attach(tiny_model().to(torch.bfloat16))
    assert {p.dtype for p in model.parameters()} == {adapter.weights} == {adapter.reloads} == {torch.float32}
    assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.dtype == torch.float32


def test_bad_parts():
    for options, words in (
        ({"layers": 9}, r"adapt.layers 9: this model has 4"),
        ({"train": "biases"}, "'biases': this model has none"),
        ({"train": "modules", "modules": ["down_poj"]}, "no module 'down_poj'. Did you mean 'down_proj'"),
    ):
        with pytest.raises(ConfigError, match=words):
            trains(**options)
    for options, words in (
        ({"train": "modules"}, "needs modules"),
        ({"train": "norms", "layers": 1}, "layers is read with train 'layers' only"),
        ({"train": "norms", "unfreeze": 0.5}, "unfreeze is read with train 'layers' only"),
    ):
        with pytest.raises(ConfigError, match=words):
            adapter_of("freeze", **options)
    with pytest.raises(ConfigError, match="sample_every has no effect"):
        adapter_of("full", sample_every=3)
    with pytest.raises(ConfigError, match=r"adapt.sample_layers 3: this model has 2 layers"):
        adapter_of("full", sample_layers=3).attach(tiny_model())


def test_lower_layers_learn_slower():
    for method in ("full", "freeze"):
        adapter = adapter_of(method, layer_decay=0.5)
        adapter.attach(tiny_model(num_hidden_layers=4))
        rates = {n: adapter.rate_of(f"model.{n}.weight") for n in ("norm", "layers.3.x", "layers.0.x")}
        assert rates == {"norm": 1.0, "layers.3.x": 0.5, "layers.0.x": 0.5**4}
        assert adapter.rate_of("model.embed_tokens.weight") == 0.5**5


def test_the_rate_of_a_layer_is_what_it_learns_at(tmp_path):
    """With Adam the first step moves every weight by its rate."""
    start = dict(tiny_model("llama", 60, tie_word_embeddings=True).named_parameters())
    adapter = adapter_of("full", layer_decay=0.5)
    how = settings(max_steps=1, warmup=0.0, clip_norm=0.0, learning_rate=1e-3)
    _, after = fit(job(rows(24), adapter=adapter), how, tmp_path)
    for name in (
        "model.norm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
    ):
        moved = float((after[name] - start[name].detach()).abs().median())
        assert moved == pytest.approx(1e-3 * adapter.rate_of(name), rel=0.05)


def test_layers_thaw_from_the_last_down():
    adapter = adapter_of("freeze", layers=4, unfreeze=0.5)
    adapter.attach(tiny_model(num_hidden_layers=4))

    def awake(step):
        names = adapter.active(step, 80, 0)
        return [layer for layer in range(4) if names(f"model.layers.{layer}.x.weight")]

    assert [awake(step) for step in (1, 10, 11, 21, 31, 40, 80)] == [
        [3], [3], [2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3],
    ]  # fmt: skip
    assert adapter.active(1, 80, 0)("model.norm.weight")


def test_sampled_layers_change_and_all_get_their_turn():
    adapter = adapter_of("full", sample_layers=1, sample_every=5)
    adapter.attach(tiny_model(num_hidden_layers=4))

    def awake(step):
        names = adapter.active(step, 1000, 0)
        assert names("model.embed_tokens.weight") and names("model.norm.weight")
        return tuple(layer for layer in range(4) if names(f"model.layers.{layer}.x.weight"))

    turns = [awake(step) for step in range(1, 201)]
    assert all(len(turn) == 1 for turn in turns)
    assert all(turns[i] == turns[i - i % 5] for i in range(200))
    counts = {turn: turns.count(turn) for turn in set(turns)}
    assert len(counts) == 4 and min(counts.values()) >= 20
    others = [adapter.active(step, 1000, 1) for step in range(1, 201)]
    layers = [next(i for i in range(4) if names(f"model.layers.{i}.x.weight")) for names in others]
    assert [(layer,) for layer in layers] != turns  # another seed, another order


@pytest.mark.parametrize(
    "options",
    [
        {"method": "freeze", "layers": 2, "unfreeze": 0.8},
        {"method": "full", "sample_layers": 1, "sample_every": 2},
    ],
    ids=["thawing", "sampled"],
)
def test_what_sleeps_does_not_move_and_keeps_no_moments(options, tmp_path):
    """And a run cut anywhere comes to the same bits."""
    data, how = rows(40), settings(save_every=1, keep=100, max_steps=6)
    moved = []
    _, weights = fit(job(data, adapter=adapter_of(**options)), how, tmp_path / "whole")
    steps = {s: checkpoint.load(p) for s, p in checkpoint.steps(tmp_path / "whole").items()}
    adapter = adapter_of(**options)
    adapter.attach(tiny_model("llama", 60, tie_word_embeddings=True))
    for step in range(2, 7):
        active = adapter.active(step, 6, 0)
        for name, weight in steps[step].weights.items():
            same = torch.equal(weight, steps[step - 1].weights[name])
            assert same != active(name), f"{name} at step {step}"
            assert any(key.startswith(name + "/") for key in steps[step].optimizer) == active(name)
        moved.append(sum(map(active, steps[step].weights)))
    assert min(moved) < len(weights)
    for cut in (1, 3, 4):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        for step in range(1, cut + 1):
            shutil.copytree(tmp_path / "whole" / f"step-{step}", folder / f"step-{step}")
        _, again = fit(job(data, adapter=adapter_of(**options)), how, folder)
        assert all(torch.equal(again[n], w) for n, w in weights.items())
