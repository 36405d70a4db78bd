"""LongLoRA: what trains, what is saved, and that the result is an ordinary model with a longer context."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.contract.small import chats, save_small_model, small_train, small_values, write_rows
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer
from tests.training import VOCAB, fit, rows, settings
from tests.unit.models.test_forward import documents
from tunewright.adapt.base import LORA_OVER_FULL, adapter_of, trainable
from tunewright.core import events
from tunewright.core.errors import ConfigError, ModelError
from tunewright.core.paths import write_json
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Job
from tunewright.models import attention, shifted
from tunewright.models.added import without_adapter
from tunewright.models.base_record import base_record, recorded_changes
from tunewright.models.changes import Changes
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load
from tunewright.models.quiet import quiet_peft
from tunewright.models.rope import stretched
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning
from tunewright.run.compose import context_of

IDS = documents(0, (90,))[0].ids


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def randomised(model, **options):
    """``model`` with an adapter whose every trained weight has moved."""
    adapter = adapter_of("longlora", **{"rank": 4, **options})
    wrapped = adapter.attach(model).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(wrapped).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapter, wrapped


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_identity_then_disable_round_trip_and_merge(family, tied, tmp_path):
    def make():
        return tiny_model(family, tie_word_embeddings=tied)

    base = logits(make())
    assert torch.equal(logits(adapter_of("longlora", rank=4, factor=1).attach(make()).eval()), base)
    adapter, model = randomised(make(), factor=1)
    changed = logits(model)
    assert (changed - base).abs().max() > 1e-2
    with adapter.disabled(model):
        assert torch.equal(logits(model), base)
    adapter.save(model, tmp_path)
    with quiet_peft():
        torch.testing.assert_close(logits(PeftModel.from_pretrained(make(), tmp_path).eval()), changed)
    merged = adapter.merged(model)
    torch.testing.assert_close(logits(merged), changed, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(plain), changed, rtol=1e-4, atol=1e-4)
    assert plain.config.tie_word_embeddings == tied


@pytest.mark.parametrize("options", [{"init": "pissa"}, {"new_tokens": ["<tool>"]}], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_goes_with_other_settings_of_lora(tied, options, tmp_path):
    base = save_small_model(tmp_path / "base", tie_word_embeddings=tied)
    adapter = adapter_of("longlora", rank=4, factor=1, **options)
    loaded = load(str(base), dtype="float32", device="cpu", changes=adapter.changes)
    model = adapter.fitted(lambda text: loaded.tokenizer.encode(text)).attach(loaded.model).eval()
    token = loaded.model.get_input_embeddings().num_embeddings - 1
    before = logits(model, [*IDS, token])
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(len(name))
            )
    changed = logits(model, [*IDS, token])
    assert (changed - before).abs().max() > 1e-2
    adapter.save(model, tmp_path / "adapter")
    write_json(tmp_path / "adapter" / "base.json", base_record(loaded, adapter.changes))
    again = load(str(tmp_path / "adapter"), dtype="float32", device="cpu").model
    torch.testing.assert_close(logits(again, [*IDS, token]), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_the_fast_head_and_generation_use_the_trained_copies(tied):
    adapter, model = randomised(tiny_model("llama", tie_word_embeddings=tied), factor=1)
    forward = ModelForward(model)
    assert not forward.plain
    batch = build_batch([Tokens(IDS, [1.0] * len(IDS))])
    place = torch.arange(len(IDS) - 1), torch.tensor(IDS[1:])
    base = logits(tiny_model("llama", tie_word_embeddings=tied))
    with torch.no_grad():
        expected = logits(model).log_softmax(-1)[place]
        torch.testing.assert_close(forward.logprobs(batch), expected, rtol=1e-4, atol=1e-4)
        with adapter.disabled(
            model.train()
        ):  # the reference has the base's own embedding and dense attention
            reference = forward.logprobs(batch)
        torch.testing.assert_close(reference, base.log_softmax(-1)[place], rtol=1e-4, atol=1e-4)
    written = generate(model, [IDS], Sampling(max_new_tokens=1))[0]
    assert written.ids == [int(logits(model.eval())[-1].argmax())]
    assert written.logprobs[0] == pytest.approx(float(logits(model)[-1].log_softmax(-1).max()), abs=1e-4)


@pytest.mark.parametrize("also", ["norms_and_embeddings", "nothing"])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_only_where_declared(also, tied):
    adapter = adapter_of("longlora", rank=2, factor=1, also_train=also)
    model = adapter.attach(tiny_model("llama", tie_word_embeddings=tied).to(torch.bfloat16)).train()
    forward = ModelForward(model, compute=torch.bfloat16)
    forward.logprobs(build_batch([Tokens(IDS, [1.0] * len(IDS))])).sum().backward()
    declared = trainable(model)
    found = {name for name, p in model.named_parameters() if p.grad is not None}
    assert found == set(declared) and all(p.dtype == torch.float32 for p in declared.values())
    copies = {
        n.split(".modules_to_save")[0].removeprefix("base_model.model.model.")
        for n in found
        if "lora_" not in n
    }
    norms = {f"layers.{i}.{name}_layernorm" for i in (0, 1) for name in ("input", "post_attention")} | {
        "norm"
    }
    assert copies == ({*norms, "embed_tokens"} if also != "nothing" else set())
    rates = {adapter.rate_of(name) for name in found if "lora_" not in name}
    assert rates <= {1 / LORA_OVER_FULL} and adapter.rate_of("x.lora_A.default.weight") == 1.0


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_is_read_back_to_the_bit(tied, tmp_path):
    """The copies train in float32; PEFT alone would round them to the base's format."""
    tiny_model("llama", tie_word_embeddings=tied).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    loaded = load(str(tmp_path / "base"), dtype="bfloat16", device="cpu")
    adapter, model = randomised(loaded.model, factor=1)
    adapter.save(model, tmp_path / "adapter")
    write_json(tmp_path / "adapter" / "base.json", base_record(loaded, adapter.changes))
    again = load(str(tmp_path / "adapter"), dtype="bfloat16", device="cpu").model
    batch = build_batch([Tokens(IDS, [1.0] * len(IDS))])
    with torch.no_grad():
        a, b = (ModelForward(m, compute=torch.bfloat16).hidden(batch) for m in (model, again))
    assert a.dtype == torch.bfloat16
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)  # the low-rank products of one are fused
    state = {n: p for n, p in again.named_parameters() if "modules_to_save" in n}
    assert state and all(torch.equal(p, model.get_parameter(n)) for n, p in state.items())
    generate(again, [IDS], Sampling(max_new_tokens=2))


def job(train, validation=(), **options):
    """A job on a tiny Llama with a context of 32, stretched four times."""
    torch.manual_seed(7)
    adapter = adapter_of("longlora", **{"rank": 4, **options})
    plain = tiny_model("llama", VOCAB, tie_word_embeddings=True, max_position_embeddings=32)
    model = plain
    if adapter.changes.rope:
        model = AutoModelForCausalLM.from_config(stretched(plain.config, adapter.changes.rope))
        model.load_state_dict(plain.state_dict())
    model = adapter.attach(model)
    objective = SupervisedFineTuning("sft", SftOptions())
    return Job(model, ModelForward(model), objective, train, validation, adapter=adapter)


@pytest.mark.parametrize("rope", ["linear", "dynamic", "yarn", "none"])
def test_learns_texts_beyond_the_old_context(rope, tmp_path, monkeypatch):
    monkeypatch.setattr(shifted, "SMALLEST_GROUP", 16)
    seen = []
    train, held_out = rows(40, low=60, high=120), rows(10, seed=9, low=60, high=120)
    chosen = settings(epochs=4, learning_rate=0.03, tokens_per_step=512, micro_tokens=512)
    fit(job(train, held_out, rope=rope), chosen, tmp_path, seen.append)
    losses = [e.metrics["validation_loss"] for e in seen if isinstance(e, events.EvalEnd)]
    assert losses[0] > 4.0 and losses[-1] < losses[0] - 1.2, losses


def test_attention_is_sparse_in_the_steps_and_dense_in_validation(tmp_path, monkeypatch):
    monkeypatch.setattr(shifted, "SMALLEST_GROUP", 16)
    asked = {"sparse": 0, "dense": 0}  # texts
    real, together = shifted.shifted_attention, attention.attend_texts

    def spy(q, k, v, group, attend):
        asked["sparse"] += group < k.shape[2]
        return real(q, k, v, group, attend)

    def dense(q, k, v, texts, *settings):
        asked["dense"] += len(texts)
        return together(q, k, v, texts, *settings)

    monkeypatch.setattr(attention, "shifted_attention", spy)
    monkeypatch.setattr(attention, "attend_texts", dense)
    train, held_out = rows(4, low=60, high=120), rows(3, seed=9, low=60, high=120)
    fit(job(train, held_out), settings(epochs=1, tokens_per_step=10**6), tmp_path)
    assert asked == {"sparse": 4 * 2, "dense": 2 * 3 * 2}  # times layers; validation before and after


@pytest.mark.parametrize("rope", ["dynamic", "yarn"])
def test_resume_is_bit_equal(rope, tmp_path, monkeypatch):
    monkeypatch.setattr(shifted, "SMALLEST_GROUP", 16)
    train, held_out = rows(12, low=20, high=120), rows(3, seed=9, low=20, high=120)
    chosen = settings(epochs=1, tokens_per_step=200, micro_tokens=200, every=3, save_every=1)
    _, expected = fit(job(train, held_out, rope=rope), chosen, tmp_path / "whole")

    class CrashError(Exception):
        pass

    for crash_at in (1, 3, 4):

        def crash(event, at=crash_at):
            if isinstance(event, events.StepEnd) and event.step == at:
                raise CrashError

        folder = tmp_path / str(crash_at)
        with pytest.raises(CrashError):
            fit(job(train, held_out, rope=rope), chosen, folder, crash)
        _, weights = fit(job(train, held_out, rope=rope), chosen, folder)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[n], expected[n]) for n in expected), f"crash at step {crash_at}"


@pytest.mark.parametrize("rope", ["linear", "dynamic", "yarn"])
def test_a_whole_run_is_found_again_everywhere(rope, tmp_path):
    base = save_small_model(
        tmp_path / "base", max_position_embeddings=128, tie_word_embeddings=rope == "yarn"
    )
    data = write_rows(tmp_path / "rows.jsonl", chats(40))
    values = {
        **small_values(base, data, tmp_path / "run"),
        "adapt.method": "longlora",
        "adapt.rope": rope,
        "output.final": "merged",
        "evaluate.metrics": ["perplexity"],
    }
    run, _ = small_train(values)
    adapter = run.path / "adapter"
    changes = recorded_changes(adapter)
    assert changes == Changes(rope={"rope_type": rope, "factor": 4.0})

    ids = documents(3, (300,))[0].ids
    untouched = AutoModelForCausalLM.from_pretrained(base).eval()
    loaded = load(str(adapter), dtype="float32", device="cpu")
    expected = logits(loaded.model, ids)
    assert context_of(loaded) == 512
    with without_adapter(loaded.model):
        assert torch.equal(logits(loaded.model, ids), logits(untouched, ids))
    assert loaded.model.config.max_position_embeddings == (128 if rope == "dynamic" else 512)

    merged = AutoModelForCausalLM.from_pretrained(run.path / "model").eval()
    assert merged.config.rope_parameters["rope_type"] == rope
    torch.testing.assert_close(logits(merged, ids), expected, rtol=1e-4, atol=1e-4)

    config = stretched(AutoConfig.from_pretrained(base), changes.rope)  # as docs/adapters.md says
    with quiet_peft():
        plain = AutoModelForCausalLM.from_pretrained(base, config=config)
        plain = PeftModel.from_pretrained(plain, adapter).eval()
    torch.testing.assert_close(logits(plain, ids), expected, rtol=1e-4, atol=1e-4)
    unstretched = AutoModelForCausalLM.from_pretrained(base)
    with quiet_peft():
        wrong = PeftModel.from_pretrained(unstretched, adapter).eval()
    assert (logits(wrong, ids) - expected).abs().max() > 1e-3


def test_the_baseline_is_the_untouched_model(tmp_path):
    """Its positions are not those the adapter wants, which would make it worse than it is."""
    base = save_small_model(tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", chats(40))

    def before(method, **more):
        values = small_values(base, data, tmp_path / method) | {"train.max_steps": 1, **more}
        run, _ = small_train(values | {"adapt.method": method, "evaluate.metrics": ["perplexity"]})
        return run.result["metrics"][0]["systems"]["zero_shot"]["value"]

    assert before("longlora") == before("lora")


def test_what_does_not_fit_says_so_before_any_work(tmp_path):
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=420, n_positions=64, n_embd=32, n_layer=2, n_head=2))
    with pytest.raises(ConfigError, match=r"longlora.*gpt2 model has no rotary positions"):
        adapter_of("longlora", factor=1).attach(gpt)
    gpt.save_pretrained(tmp_path / "gpt")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt")
    data = write_rows(tmp_path / "rows.jsonl", chats(20))
    values = small_values(tmp_path / "gpt", data, tmp_path / "run") | {"adapt.method": "longlora"}
    with pytest.raises(ModelError, match="no rotary positions"):
        small_train(values)
    with pytest.raises(ConfigError, match="the whole embedding trains"):
        adapter_of("longlora", rank=2, trainable_token_indices=[3]).attach(tiny_model("llama"))
    one_head = tiny_model("llama", num_attention_heads=1, num_key_value_heads=1)
    with pytest.raises(ConfigError, match=r"one attention head.*set it to 0"):
        adapter_of("longlora", rank=2).attach(one_head)
    base = save_small_model(tmp_path / "base")
    values = small_values(base, data, tmp_path / "run") | {"adapt.method": "longlora", "data.max_length": 512}
    with pytest.raises(
        ConfigError, match=r"from 512 to 2048 tokens, but data.max_length 512.*data.max_length=2048"
    ):
        small_train(values)
    for objective, what in (("dpo", "reference"), ("grpo", "rollouts")):
        values |= {"objective.name": objective, "adapt.group": 0.25}
        with pytest.raises(ConfigError, match=rf"{objective}.*\({what}\) of dense attention.*adapt.group=0"):
            small_train(values | ({"objective.rewards": ["exact_match"]} if objective == "grpo" else {}))
    assert not (tmp_path / "run").exists()
