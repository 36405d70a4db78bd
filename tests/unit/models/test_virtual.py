"""Virtual tokens in a packed batch: row by row what PEFT's own forward gives; nothing where switched off."""

import pytest
import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from tests.tiny import tiny_model
from tunewright.core.errors import ModelError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling, generate
from tunewright.models.quiet import quiet_peft
from tunewright.models.score import attach
from tunewright.objectives.base import HeadSpec

WINDOW = 12
FAMILIES = ("llama", "qwen2", "gemma2", "mistral", "phi3", "gpt2")
METHODS = {
    "prompt": (PromptTuningConfig, {}),
    "prefix": (PrefixTuningConfig, {}),
    "projected": (PrefixTuningConfig, {"prefix_projection": True, "encoder_hidden_size": 16}),
    "ptuning": (PromptEncoderConfig, {"encoder_hidden_size": 16}),
    "lstm": (PromptEncoderConfig, {"encoder_hidden_size": 16, "encoder_reparameterization_type": "LSTM"}),
}
EXACT = {"rtol": 1e-5, "atol": 1e-5}


def base_model(family, **overrides):
    """Weights large enough that what stands before a text matters; windows shorter than the texts."""
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=420, n_embd=64, n_layer=2, n_head=4, n_positions=512, initializer_range=0.1,
            bos_token_id=0, eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()
    windows = {"sliding_window": WINDOW} if family in ("gemma2", "mistral") else {}
    return tiny_model(family, **{"initializer_range": 0.1, **windows, **overrides})


def soft(method, family="llama", count=5, **overrides):
    """PEFT's model with ``count`` random virtual tokens."""
    kind, options = METHODS[method]
    torch.manual_seed(3)
    with quiet_peft():
        config = kind(task_type="CAUSAL_LM", num_virtual_tokens=count, **options)
        return get_peft_model(base_model(family, **overrides), config).eval()


def ids(seed, length):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 420, (length,), generator=generator).tolist()


ALONE, SHARED, LEFT, RIGHT = ids(1, 3), ids(2, 20), ids(3, 7), ids(4, 25)


def batch():
    """A row by itself, and a tree of two branches; every token but the first is a target."""
    ends = tuple(Tokens(end, [1.0] * len(end)) for end in (LEFT, RIGHT))
    alone = Tokens(ALONE, [1.0] * len(ALONE))
    return build_batch([alone, Tokens(SHARED, [1.0] * len(SHARED), branches=ends)])


def logits_of(forward):
    """(N, V): the logits of every target of ``batch``."""
    return forward.per_target(batch(), lambda logits, index: logits)


def peft_logits(model):
    """The same by PEFT's own forward, text by text, in the order of the batch's targets."""
    model.base_model.set_attn_implementation("eager")

    def of(text, start):
        return model(input_ids=torch.tensor([text])).logits[0, -len(text) :].float()[start - 1 : -1]

    whole = [(ALONE, 1), (SHARED, 1), (SHARED + LEFT, len(SHARED)), (SHARED + RIGHT, len(SHARED))]
    return torch.cat([of(text, start) for text, start in whole])


@pytest.mark.parametrize("count", [5, 30])
@pytest.mark.parametrize("method", ["prompt", "prefix", "ptuning"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_peft_row_by_row(family, method, count):
    """With 30 virtual tokens most of them lie outside the sliding windows, as in PEFT."""
    with torch.no_grad():
        expected = peft_logits(soft(method, family, count))
        got = logits_of(ModelForward(soft(method, family, count)))
        untouched = logits_of(ModelForward(base_model(family)))
    torch.testing.assert_close(got, expected, **EXACT)
    assert (got - untouched).abs().max() > 0.1, "the virtual tokens have no effect"


@pytest.mark.parametrize("method", METHODS)
def test_the_slow_head_is_the_same(method):
    forward, slow = ModelForward(soft(method)), ModelForward(soft(method))
    slow.plain = True
    with torch.no_grad():
        torch.testing.assert_close(slow.logprobs(batch()), forward.logprobs(batch()), **EXACT)


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_those_of_pefts_padded_forward(method, family):
    rows = [ids(5, 4), ids(6, 19), ids(7, 11)]
    model = soft(method, family)
    forward = ModelForward(model)
    (-forward.logprobs(build_batch([Tokens(r, [1.0] * len(r)) for r in rows]))).sum().backward()
    peft = soft(method, family)
    peft.base_model.set_attn_implementation("eager")
    padded = torch.tensor([r + [0] * (19 - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (19 - len(r)) for r in rows])
    out = peft(input_ids=padded, attention_mask=mask).logits[:, -19:-1].log_softmax(-1)
    chosen = out.gather(2, padded[:, 1:, None])[..., 0]
    (-(chosen * mask[:, 1:])).sum().backward()
    mine, theirs = gradients(model), gradients(peft)
    assert mine.keys() == theirs.keys() and all("prompt_encoder" in name for name in mine)
    for name, value in theirs.items():
        assert value.abs().max() > 1e-4
        assert (mine[name] - value).norm() <= 1e-5 * value.norm(), name


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", METHODS)
def test_switched_off_it_is_the_base_bit_for_bit(method):
    model = soft(method)
    forward, base = ModelForward(model), ModelForward(base_model("llama").requires_grad_(False))
    with torch.no_grad():
        before, untouched = logits_of(forward), logits_of(base)
        with model.disable_adapter():
            assert torch.equal(logits_of(forward), untouched)
            assert torch.equal(forward.hidden(batch()), base.hidden(batch()))
        assert torch.equal(logits_of(forward), before)
    sampling, prompts = Sampling(max_new_tokens=4), [ALONE, SHARED]
    with model.disable_adapter():
        assert generate(model, prompts, sampling) == generate(base.model, prompts, sampling)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_a_head_reads_the_text_alone(method, pooling):
    def scored(model):
        attach(model, {"score": HeadSpec(3, pooling)})
        torch.nn.init.normal_(model.get_base_model().score.weight, generator=torch.Generator().manual_seed(1))
        return model

    model, found = scored(soft(method)), []
    model.base_model.set_attn_implementation("eager")
    with torch.no_grad():
        for text in (ALONE, SHARED, SHARED + LEFT, SHARED + RIGHT):
            states = model(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states[-1][0]
            states = states[-len(text) :]
            found.append(states[-1] if pooling == "last" else states.mean(0))
        expected = model.get_base_model().score(torch.stack(found))
        got = ModelForward(scored(soft(method))).scores(batch())
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("count", [5, 30])
@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "gpt2"])
@pytest.mark.parametrize("method", ["prompt", "prefix", "lstm"])
def test_generation_gives_what_training_sees(method, family, count):
    """Log-probabilities of what is written, from the first token on; also past the windows."""
    model, prompts = soft(method, family, count), [ALONE, SHARED, SHARED + LEFT]
    written = generate(model, prompts, Sampling(max_new_tokens=6))
    whole = [
        Tokens(prompt + out.ids, [0.0] * len(prompt) + [1.0] * len(out.ids))
        for prompt, out in zip(prompts, written, strict=True)
    ]
    with torch.no_grad():
        seen = ModelForward(model).logprobs(build_batch(whole))
    torch.testing.assert_close(torch.tensor([p for out in written for p in out.logprobs]), seen, **EXACT)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_noise_leaves_virtual_tokens_alone(method):
    model = soft(method)
    forward, seen = ModelForward(model, neftune=5.0), []
    forward._decoder.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    model.train()
    noisy, words = forward.hidden(batch()), model.get_input_embeddings()(batch().ids)
    front, states = model.get_prompt(1), seen[0]
    if method == "prompt":
        assert torch.equal(states[:5], front[0])
    assert noisy.shape[0] == batch().size == len(words)
    assert (states[-len(words) :] - words).abs().min() > 0


@pytest.mark.parametrize("method", ["prompt", "prefix", "projected"])
def test_activation_checkpointing_changes_no_gradient(method):
    found, calls = [], [0, 0]
    for checkpointed in (False, True):
        model = soft(method)
        if checkpointed:
            model.get_base_model().activation_checkpointing_enable()
        forward = ModelForward(model.train())
        forward._decoder.layers[0].self_attn.register_forward_hook(
            lambda *_, which=int(checkpointed): calls.__setitem__(which, calls[which] + 1)
        )
        forward.logprobs(batch()).sum().backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys() and found[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert calls == [1, 2], "the second time each layer runs twice"


@pytest.mark.parametrize("method", METHODS)
def test_virtual_tokens_stay_in_float32_over_a_trunk_in_bfloat16(method):
    exact, model = soft(method), soft(method)
    model.get_base_model().to(torch.bfloat16)
    trained = [p for p in model.parameters() if p.requires_grad]
    forward = ModelForward(model, compute=torch.bfloat16)
    assert forward.hidden(batch()).dtype == torch.bfloat16
    forward.logprobs(batch()).sum().backward()
    assert {p.dtype for p in trained} == {p.grad.dtype for p in trained} == {torch.float32}
    ModelForward(exact).logprobs(batch()).sum().backward()
    for name, value in gradients(exact).items():
        assert (gradients(model)[name] - value).norm() < 0.15 * value.norm(), name


def test_two_losses_on_one_batch_add_up():
    once, twice = soft("ptuning"), soft("ptuning")
    (2 * ModelForward(once).logprobs(batch()).sum()).backward()
    forward = ModelForward(twice)
    for _ in range(2):
        forward.logprobs(batch()).sum().backward()
    for name, value in gradients(once).items():
        torch.testing.assert_close(gradients(twice)[name], value, rtol=1e-5, atol=1e-6)


def test_texts_past_the_switch_of_longrope_are_refused():
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 40, "rope_theta": 1e4}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    model = soft("prompt", "phi3", rope_parameters=rope, original_max_position_embeddings=40)
    with pytest.raises(ModelError, match=r"past position 40, where the longrope .* data.max_length=35"):
        ModelForward(model).hidden(batch())
    text = Tokens(SHARED, [1.0] * 20)
    with torch.no_grad():
        assert ModelForward(model).hidden(build_batch([text])).shape[0] == 20


def test_methods_whose_tokens_differ_from_text_to_text_are_refused():
    from peft import MultitaskPromptTuningConfig

    config = MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, num_tasks=2, prompt_tuning_init="RANDOM"
    )
    with quiet_peft():
        model = get_peft_model(base_model("llama"), config)
    with pytest.raises(ModelError, match=r"MULTITASK_PROMPT_TUNING .* use prompt, prefix or ptuning"):
        ModelForward(model).hidden(batch())
