"""Bottlenecks in every family: where they sit, what they compute, packed, generating, copied, on disk."""

import copy
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.contract.small import save_small_model
from tests.tiny import FAMILIES, OTHERS, tiny_model
from tunewright.core.errors import ModelError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.added import added_to, without_adapter
from tunewright.models.bottleneck import Form, attach, bottlenecks_of, switched_off
from tunewright.models.bottleneck_files import read_bottlenecks, write_bottlenecks
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load

STYLES = ("houlsby", "pfeiffer", "parallel")
IDS = torch.tensor([[5, 9, 30, 77, 8, 200, 41]])


def form(style="pfeiffer", **changes):
    return Form(**{"style": style, "size": 8, "activation": "relu", "scale": 1.5, **changes})


def adapted(family="llama", style="pfeiffer", *, dtype=torch.float32, **changes):
    """A frozen tiny model whose bottlenecks do something."""
    model = tiny_model(family).to(dtype).requires_grad_(False)
    torch.manual_seed(1)
    attach(model, form(style, **changes))
    for found in bottlenecks_of(model):
        for parameter in found.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def seen(model, **modules):
    """(input, output) of each module, called by name, in one pass through ``model``."""
    found = {}
    hooks = [
        module.register_forward_hook(
            lambda m, args, kwargs, out, name=name: found.update(
                {name: (args[0] if args else None, out[0] if isinstance(out, tuple) else out)}
            ),
            with_kwargs=True,
            prepend=True,
        )
        for name, module in modules.items()
    ]
    logits(model)
    for hook in hooks:
        hook.remove()
    return found


def by_hand(bottleneck, x, activation=F.relu):
    inner = activation(x @ bottleneck.down.weight.T + bottleneck.down.bias)
    return 1.5 * (inner @ bottleneck.up.weight.T + bottleneck.up.bias)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_identity_at_attach_and_the_base_when_off(family, style):
    base, model = logits(tiny_model(family)), tiny_model(family)
    attach(model, form(style))
    assert torch.equal(logits(model), base)
    model = adapted(family, style)
    changed = logits(model)
    assert (changed - base).abs().max() > 1e-2
    with switched_off(model):
        with without_adapter(model):
            assert torch.equal(logits(model), base)
        assert torch.equal(logits(model), base), "the inner context must not switch on what it found off"
    assert torch.equal(logits(model), changed)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_a_layer_by_the_formula(activation):
    """h + attn, then + mlp, with what each style adds to them, against the layer's own output."""
    f = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}[activation]
    for style in STYLES:
        model = adapted("llama", style, activation=activation)
        layer = model.model.layers[0]
        found = seen(model, layer=layer, attention=layer.self_attn, mlp=layer.mlp)
        x, attention = found["layer"][0], found["attention"][1]
        if style == "houlsby":
            attention = attention + by_hand(layer.bottleneck["attention"], attention, f)
        normed, mlp = found["mlp"]
        torch.testing.assert_close(normed, layer.post_attention_layernorm(x + attention))
        mlp = mlp + by_hand(layer.bottleneck["mlp"], normed if style == "parallel" else mlp, f)
        torch.testing.assert_close(found["layer"][1], x + attention + mlp)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_behind_a_sublayer_is_behind_its_last_norm(family):
    model = adapted(family, "houlsby")
    layer = model.model.layers[1]
    found = seen(
        model,
        layer=layer,
        attention=layer.post_attention_layernorm,
        mlp=layer.post_feedforward_layernorm,
    )
    attention, mlp = found["attention"][1], found["mlp"][1]
    attention = attention + by_hand(layer.bottleneck["attention"], attention)
    mlp = mlp + by_hand(layer.bottleneck["mlp"], mlp)
    torch.testing.assert_close(found["layer"][1], found["layer"][0] + attention + mlp)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "phi"])
def test_packed_equals_alone(family, style):
    rows = [Tokens(list(range(7, 7 + n)), [0.0] + [1.0] * (n - 1)) for n in (5, 60, 13)]
    forward = ModelForward(adapted(family, style))
    with torch.no_grad():
        got = forward.logprobs(build_batch(rows))
    model = adapted(family, style)
    alone = [logits(model, torch.tensor([t.ids]))[0, :-1].log_softmax(-1) for t in rows]
    expected = [p.gather(1, torch.tensor(t.ids[1:])[:, None])[:, 0] for p, t in zip(alone, rows, strict=True)]
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_generation_with_a_cache_equals_reading_everything_anew(family, style):
    model = adapted(family, style)
    prompts = [[5, 9, 30, 77], [5, 9, 30, 12, 80, 33], [200, 41]]
    outputs = generate(model, prompts, Sampling(max_new_tokens=6), batch_size=3)
    for prompt, output in zip(prompts, outputs, strict=True):
        ids = list(prompt)
        for _ in output.ids:
            ids.append(int(logits(model, torch.tensor([ids]))[0, -1].argmax()))
        assert output.ids == ids[len(prompt) :]


@pytest.mark.parametrize("style", STYLES)
def test_checkpointed_activations_give_the_same_gradients(style):
    grads = []
    for checkpointing in (False, True):
        model = adapted("llama", style, dropout=0.3).train()
        for found in bottlenecks_of(model):
            found.requires_grad_(True)
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(3)
        model(input_ids=IDS, use_cache=False).logits.square().mean().backward()
        grads.append([p.grad for found in bottlenecks_of(model) for p in found.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert all(g.abs().max() > 0 for g in grads[0])


def test_dropout_acts_in_training_only():
    model = adapted(dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_a_bfloat16_trunk_computes_in_bfloat16_and_trains_in_float32():
    model = adapted(dtype=torch.bfloat16)
    for found in bottlenecks_of(model):
        found.requires_grad_(True)
    forward = ModelForward(model, compute=torch.bfloat16)
    assert not forward._mixed  # nothing in the trunk needs to be cast
    batch = build_batch([Tokens(IDS[0].tolist(), [0.0] + [1.0] * 6)])
    assert forward.hidden(batch).dtype == torch.bfloat16
    (-forward.logprobs(batch).sum()).backward()
    grads = [p.grad for found in bottlenecks_of(model) for p in found.parameters()]
    assert all(g.dtype == torch.float32 and g.abs().max() > 0 for g in grads)
    exact = logits(adapted())
    with switched_off(model):
        off = logits(model)
    assert (logits(model).float() - exact).abs().max() < 0.1 * (off.float() - exact).abs().max()


def test_a_copy_stands_on_its_own():
    model = adapted("llama", "houlsby")
    before, twin = logits(model), copy.deepcopy(model)
    assert torch.equal(logits(twin), before)
    for found in bottlenecks_of(model):
        torch.nn.init.zeros_(found.up.weight)
    assert torch.equal(logits(twin), before) and not torch.equal(logits(model), before)
    with switched_off(twin):
        assert torch.equal(logits(twin), logits(tiny_model("llama")))


def test_the_models_own_names_stay_as_they_were():
    own, model = dict(tiny_model().named_parameters()), adapted("llama", "houlsby")
    names = {n for n, _ in model.named_parameters()}
    assert own.keys() <= names and all(".bottleneck." in n for n in names - own.keys())
    assert added_to(model) == {p for n, p in model.named_parameters() if n not in own}


# --- other forms of layers


def test_layers_of_an_unknown_form_are_refused_by_name():
    size = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    opt = {"ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 16}
    for kind, more, why in (
        ("opt", opt, "layer 0 has no module mlp or feed_forward or ffn"),
        ("bloom", {}, "layer 0 adds the residual inside its mlp"),
    ):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**size, **more))
        with pytest.raises(ModelError, match=f"do not know the layers of a {kind} model .*{why}.*use lora"):
            attach(model, form())


def test_experts_and_tuples():
    """A mixture of experts, an MLP that returns more than the states, and one that returns them flat."""
    size = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16, "num_local_experts": 4}
    size |= {"pad_token_id": 0, "intermediate_size_mlp": 16}
    for kind in ("mixtral", "gpt_oss", "llama4_text"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**size)).eval()
        ids = torch.tensor([[5, 9, 30], [7, 8, 1]])
        base = logits(model, ids)
        attach(model, form("parallel"))
        assert torch.equal(logits(model, ids), base)
        for found in bottlenecks_of(model):
            torch.nn.init.normal_(found.up.weight, std=0.3)
        both = logits(model, ids)
        assert (both - base).abs().max() > 1e-3
        torch.testing.assert_close(both[1:], logits(model, ids[1:]), rtol=1e-4, atol=1e-5)


# --- files


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def saved(tiny, tmp_path):
    """A directory with the bottlenecks of ``adapted("llama", "houlsby")``."""
    model = adapted("llama", "houlsby")
    model.config.name_or_path = str(tiny)
    write_bottlenecks(model, tmp_path)
    return tmp_path


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_round_trip_gives_equal_logits(family, style, tmp_path):
    model = adapted(family, style, activation="silu", dropout=0.1)
    write_bottlenecks(model, tmp_path)
    fresh = tiny_model(family)
    read_bottlenecks(fresh, tmp_path)
    assert torch.equal(logits(fresh), logits(model))
    assert [b.form for b in bottlenecks_of(fresh)] == [b.form for b in bottlenecks_of(model)]
    assert not any(p.requires_grad for b in bottlenecks_of(fresh) for p in b.parameters())
    shapes = {
        name: tuple(value.shape) for name, value in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    places = ("attention", "mlp") if style == "houlsby" else ("mlp",)
    expected = {"down.weight": (8, 64), "down.bias": (8,), "up.weight": (64, 8), "up.bias": (64,)}
    assert shapes == {f"layers.{i}.{p}.{k}": s for i in (0, 1) for p in places for k, s in expected.items()}


def test_a_directory_loads_like_any_adapter(saved):
    loaded = load(str(saved), dtype="float32", device="cpu")
    assert loaded.ref.source == "adapter"
    assert torch.equal(logits(loaded.model), logits(adapted("llama", "houlsby")))
    assert loaded.parameters == sum(p.numel() for p in tiny_model().parameters())
    with without_adapter(loaded.model):
        assert torch.equal(logits(loaded.model), logits(tiny_model()))
    halved = load(str(saved), dtype="bfloat16", device="cpu").model
    assert {p.dtype for b in bottlenecks_of(halved) for p in b.parameters()} == {torch.float32}


def test_the_config_says_what_it_is_and_peft_refuses_it(saved, tiny):
    assert json.loads((saved / "adapter_config.json").read_text()) == {
        "peft_type": "TUNEWRIGHT_BOTTLENECK",
        "version": 1,
        "base_model_name_or_path": str(tiny),
        "style": "houlsby",
        "size": 8,
        "activation": "relu",
        "scale": 1.5,
        "dropout": 0.0,
    }
    with pytest.raises(KeyError, match="TUNEWRIGHT_BOTTLENECK"):
        PeftModel.from_pretrained(tiny_model(), str(saved))


def damaged(folder, how):
    """Change the files in ``folder`` in the way called ``how``."""
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    facts, tensors = json.loads(config.read_text()), load_file(weights)
    changes = {
        "later": lambda: facts.update(version=2),
        "style": lambda: facts.update(style="diagonal"),
        "silent": lambda: facts.pop("scale"),
        "narrower": lambda: facts.update(size=4),
        "less": lambda: tensors.pop("layers.1.mlp.up.bias"),
        "more": lambda: tensors.update({"layers.2.mlp.up.bias": torch.zeros(64)}),
    }
    if how in changes:
        changes[how]()
    config.write_text(json.dumps(facts))
    save_file(tensors, weights)
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    if how == "pickle":
        weights.rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("later", "version 2, and version 1 is read here; update tunewright"),
        ("style", "style 'diagonal', known: houlsby, pfeiffer, parallel"),
        ("silent", "does not say scale; save the adapter again"),
        ("narrower", r"layers.0.attention.down.bias should have the shape \(4,\), found \(8,\)"),
        ("less", r"layers.1.mlp.up.bias should have the shape \(64,\), found None"),
        ("more", r"layers.2.mlp.up.bias should have the shape None, found \(64,\)"),
        ("cut", "cannot be read"),
        ("pickle", "only as a pickle"),
    ],
)
def test_damaged_files_are_refused(saved, how, message):
    damaged(saved, how)
    with pytest.raises(ModelError, match=message):
        load(str(saved), dtype="float32", device="cpu")


def test_another_base_is_refused(saved, tmp_path):
    other = tmp_path / "other"
    save_small_model(other, hidden_size=32)
    folder = shutil.copytree(saved, tmp_path / "moved", ignore=shutil.ignore_patterns("other", "moved"))
    facts = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**facts, "base_model_name_or_path": str(other)}))
    with pytest.raises(ModelError, match=r"layers.0.attention.down.weight .* \(8, 32\), found \(8, 64\)"):
        load(str(folder), dtype="float32", device="cpu")
