"""Stretched positions: what the config says, equal frequencies packed or alone, and refusals."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from tests.tiny import FAMILIES, tiny_model
from tests.unit.models.test_forward import documents
from tunewright.core.errors import ModelError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling, generate
from tunewright.models.rope import as_before, context, remember, stretched

KINDS = ("linear", "dynamic", "yarn")


def stretched_model(family="llama", kind="linear", factor=4.0, **overrides):
    """The tiny model with the same weights, its positions stretched."""
    plain = tiny_model(family, **{"max_position_embeddings": 32, **overrides})
    config = stretched(plain.config, {"rope_type": kind, "factor": factor})
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(plain.state_dict())
    return model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def frequencies(model):
    """Of the layers that see the whole text."""
    rotary = model.model.rotary_emb
    return rotary.full_attention_inv_freq if hasattr(rotary, "full_attention_inv_freq") else rotary.inv_freq


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_divides_every_frequency(family):
    overrides = {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3" else {}
    before = frequencies(tiny_model(family, max_position_embeddings=32, **overrides))
    model = stretched_model(family, **overrides)
    torch.testing.assert_close(frequencies(model), before / 4)
    assert context(model.config) == model.config.max_position_embeddings == 128
    if family == "gemma3":  # a layer with a window sees no further than before
        local = model.model.rotary_emb.sliding_attention_inv_freq
        assert torch.equal(local, tiny_model(family, **overrides).model.rotary_emb.sliding_attention_inv_freq)


@pytest.mark.parametrize("family", FAMILIES)
def test_yarn_leaves_fast_frequencies_and_divides_slow_ones(family):
    overrides = {"layer_types": ["full_attention"] * 2} if family == "gemma3" else {}
    before = frequencies(tiny_model(family, **overrides))
    model = stretched_model(family, "yarn", max_position_embeddings=512, **overrides)
    ratio = before / frequencies(model)
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(4)
    rotary = model.model.rotary_emb
    scaling = getattr(rotary, "full_attention_attention_scaling", None) or rotary.attention_scaling
    assert scaling == pytest.approx(0.1 * math.log(4) + 1)
    assert model.config.max_position_embeddings == 2048


def test_dynamic_raises_the_base_with_the_length_of_the_text():
    ids = documents(0, (100,))[0].ids
    model = stretched_model("llama", "dynamic")
    assert (model.config.max_position_embeddings, context(model.config)) == (32, 128)
    assert torch.equal(
        logits(model, ids[:32]), logits(tiny_model("llama", max_position_embeddings=32), ids[:32])
    )
    base = 10000.0 * (4 * 100 / 32 - 3) ** (16 / 14)
    other = tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": base})
    torch.testing.assert_close(logits(model, ids), logits(other, ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", [*KINDS, "longrope"])
def test_packed_equals_alone_whatever_came_before(kind, family):
    """transformers takes the frequencies of the longest text in the batch, and of batches before it."""
    overrides = {"layer_types": ["full_attention"] * 2} if family == "gemma3" else {}

    def make():
        if kind != "longrope":
            return stretched_model(family, kind, **overrides)
        lengths = {"max_position_embeddings": 128, "original_max_position_embeddings": 32}
        rope = {
            "rope_type": kind,
            "rope_theta": 1e4,
            "factor": 4.0,
            "short_factor": [1.0] * 8,
            "long_factor": [3.0] * 8,
        }
        rope["original_max_position_embeddings"] = 32
        nested = {"full_attention": rope, "sliding_attention": {"rope_type": "default"}}
        return tiny_model(
            family, **lengths, rope_parameters=nested if family == "gemma3" else rope, **overrides
        )

    rows = [Tokens(t.ids, [1.0] * len(t.ids)) for t in documents(1, (20, 100, 32, 50))]
    expected = []
    for row in rows:
        found = logits(make(), row.ids).float().log_softmax(-1)
        expected.append(found[torch.arange(len(row.ids) - 1), torch.tensor(row.ids[1:])])
    forward = ModelForward(make())
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(
                forward.logprobs(build_batch(rows)), torch.cat(expected), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("kind", KINDS)
def test_writing_beyond_the_old_context(kind):
    model = stretched_model("llama", kind)
    prompt = documents(2, (60,))[0].ids
    if kind == "dynamic":
        with pytest.raises(ModelError, match=r"60 tokens, the model has 32 positions.*linear and yarn"):
            generate(model, [prompt], Sampling(max_new_tokens=5))
        assert len(generate(model, [prompt[:30]], Sampling(max_new_tokens=9))[0].ids) == 3
        return
    ids = list(prompt)
    for _ in range(5):
        ids.append(int(logits(model, ids)[-1].argmax()))
    assert generate(model, [prompt], Sampling(max_new_tokens=5))[0].ids == ids[60:]


@pytest.mark.parametrize("kind", KINDS)
def test_as_before_gives_the_untouched_positions(kind):
    plain = tiny_model("llama", max_position_embeddings=32)
    model, ids = stretched_model("llama", kind), documents(3, (60,))[0].ids
    changed = logits(model, ids)
    with as_before(model):
        assert torch.equal(logits(model, ids), changed)
    remember(model, plain.config)
    with as_before(model):
        assert torch.equal(logits(model, ids), logits(plain, ids))
    assert torch.equal(logits(model, ids), changed) and not torch.allclose(changed, logits(plain, ids))


def test_what_is_stretched_already():
    once = stretched_model("llama", "linear", 2.0).config
    assert stretched(once, {"rope_type": "linear", "factor": 3.0}).rope_parameters["factor"] == 6.0
    assert once.max_position_embeddings == 192
    with pytest.raises(
        ModelError, match=r"already \(rope_type 'linear'\) and cannot be stretched by 'yarn'.*rope none"
    ):
        stretched(once, {"rope_type": "yarn", "factor": 2.0})
    before = dict(once.rope_parameters)
    assert stretched(once, {"rope_type": "default", "factor": 2.0}).rope_parameters == before
    assert once.max_position_embeddings == 384


def test_a_model_without_rotary_positions():
    with pytest.raises(ModelError, match=r"gpt2 model has no rotary positions.*use adapt.method lora"):
        stretched(GPT2Config(), {"rope_type": "linear", "factor": 4.0})
