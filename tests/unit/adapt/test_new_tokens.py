"""New tokens: only their rows train, in the embedding and in the output layer, tied or not."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.contract.small import save_small_model, small_train, small_values, write_rows
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training import fit, settings
from tunewright.adapt.base import adapter_of, trainable
from tunewright.core.errors import ConfigError, ModelError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Job
from tunewright.models.changes import Changes
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load
from tunewright.models.prepare import grow_vocabulary
from tunewright.models.quiet import quiet_peft
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

TOKENS = ["<refund>", "<later>"]
KINDS = [("llama", True), ("llama", False), ("gemma2", True), ("gpt2", True), ("qwen2", False)]


def grown(family="llama", tied=True, dtype=torch.float32):
    """A model and a tokenizer with two tokens more, and their ids."""
    model, tokenizer = tiny_model(family, tie_word_embeddings=tied).to(dtype), tiny_tokenizer()
    grow_vocabulary(model, tokenizer, Changes(new_tokens=tuple(TOKENS)))
    return model, tokenizer, tokenizer.convert_tokens_to_ids(TOKENS)


def attached(family="llama", tied=True, dtype=torch.float32, **options):
    """LoRA with the new tokens on such a model: adapter, model, ids."""
    model, tokenizer, ids = grown(family, tied, dtype)
    adapter = adapter_of("lora", **{"rank": 2, "new_tokens": TOKENS, **options})
    adapter = adapter.fitted(lambda text: [tokenizer.convert_tokens_to_ids(text)])
    torch.manual_seed(1)
    return adapter, adapter.attach(model).eval(), ids


def rows_in(model):
    return {n: p for n, p in trainable(model).items() if "trainable_tokens" in n}


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def moved(model, by=0.3):
    """The model with every trained weight moved a little."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(torch.randn_like(p) * by)
    return model


@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_new_rows_are_the_mean_of_the_others_and_the_others_stay(family, tied):
    before = tiny_model(family, tie_word_embeddings=tied)
    model, tokenizer, ids = grown(family, tied)
    assert ids == [420, 421] and model.config.vocab_size == 422 == len(tokenizer)
    for layer, old in (
        (model.get_input_embeddings(), before.get_input_embeddings()),
        (model.get_output_embeddings(), before.get_output_embeddings()),
    ):
        assert torch.equal(layer.weight[:420], old.weight)
        torch.testing.assert_close(layer.weight[420:], old.weight.mean(0).expand(2, -1))
    assert torch.equal(logits(model, [5, 9, 30])[:, :420], logits(before, [5, 9, 30]))


def test_spare_rows_are_used_before_the_matrix_grows():
    model, tokenizer = tiny_model("llama", 500), tiny_tokenizer()
    grow_vocabulary(model, tokenizer, Changes(new_tokens=tuple(TOKENS)))
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == 500
    torch.testing.assert_close(weight[421], weight[:420].mean(0))


@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_only_their_rows_train(family, tied):
    _, model, _ = attached(family, tied)
    rows = rows_in(model)
    assert [tuple(p.shape) for p in rows.values()] == [(2, 64)] * (1 if tied else 2)
    assert all("lora_" in n for n in trainable(model).keys() - rows.keys())


@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_the_rows_count_in_input_loss_and_generation(family, tied):
    """Against a plain model with the same rows written into its matrices."""
    _, model, ids = attached(family, tied, targets="attention")
    before = logits(model, [5, ids[0], 30, ids[1]])
    with torch.no_grad():
        for p in rows_in(model).values():
            p.add_(torch.randn_like(p) * 0.3)
    plain, _, _ = grown(family, tied)
    parts = list(rows_in(model).values())
    with torch.no_grad():
        plain.get_input_embeddings().weight[ids] = parts[0]
        plain.get_output_embeddings().weight[ids] = parts[-1]
    text = [5, ids[0], 30, ids[1], 7, 9]
    found, expected = logits(model, text), logits(plain, text)
    assert (found[:4] - before).abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    batch = build_batch([Tokens(text, [0.0] + [1.0] * 5)])
    ours, theirs = ModelForward(model), ModelForward(plain)
    assert not ours.plain  # the fast head knows them
    torch.testing.assert_close(ours.logprobs(batch), theirs.logprobs(batch), rtol=1e-4, atol=1e-5)
    pick = ours.per_target(batch, lambda logits, index: logits[:, ids[0]])
    torch.testing.assert_close(pick, theirs.per_target(batch, lambda logits, index: logits[:, ids[0]]))
    sampling = Sampling(max_new_tokens=4)
    assert generate(model, [text], sampling)[0].ids == generate(plain, [text], sampling)[0].ids


@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_the_fast_head_has_the_gradients_of_pefts_own_forward(family, tied):
    _, model, ids = attached(family, tied, targets="attention")
    moved(model)
    text = [5, ids[0], 30, ids[1], 7, ids[0]]
    batch = build_batch([Tokens(text, [0.0] + [1.0] * 5)])
    ModelForward(model).logprobs(batch).sum().backward()
    ours = {n: p.grad.clone() for n, p in trainable(model).items()}
    model.zero_grad()
    for layer in model.modules():
        layer.__dict__.pop("forward", None)  # PEFT's own, which copies the whole matrix
    own = model(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
    own[range(5), text[1:]].sum().backward()
    for name, p in trainable(model).items():
        rounding = 2e-5 * p.grad.abs().max().item()  # gradients of up to 34 that add up from larger ones
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=rounding)
    assert all(g.abs().min(dim=1).values.max() > 0 for n, g in ours.items() if "trainable_tokens" in n)


@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_off_merged_saved_and_in_plain_peft(family, tied, tmp_path):
    adapter, model, ids = attached(family, tied)
    text = [5, ids[0], 30, ids[1]]
    base = logits(grown(family, tied)[0], text)
    torch.testing.assert_close(logits(model, text), base, rtol=1e-5, atol=1e-5)
    changed = logits(moved(model), text)
    with adapter.disabled(model):
        assert torch.equal(logits(model, text), base)
    assert torch.equal(logits(model, text), changed)
    adapter.save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert max(t.numel() for t in tensors.values()) < 1000  # an embedding has 27,008
    with quiet_peft():
        again = PeftModel.from_pretrained(grown(family, tied)[0], tmp_path).eval()
    torch.testing.assert_close(logits(again, text), changed, rtol=1e-4, atol=1e-5)
    merged = adapter.merged(model)
    assert merged.get_input_embeddings().weight.shape == (422, 64)
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == tied
    torch.testing.assert_close(logits(merged, text), changed, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_off_the_packed_path_is_that_of_the_base(tied):
    adapter, model, ids = attached(tied=tied)
    batch = build_batch([Tokens([5, ids[0], 30, ids[1]], [0.0, 1.0, 1.0, 1.0])])
    forward = ModelForward(moved(model))
    with adapter.disabled(model):
        off = forward.logprobs(batch)
    assert torch.equal(off, ModelForward(grown(tied=tied)[0]).logprobs(batch))
    assert (forward.logprobs(batch) - off).abs().max() > 0.1


def test_in_bfloat16_the_rows_train_in_float32():
    _, model, ids = attached(dtype=torch.bfloat16)
    assert {p.dtype for p in rows_in(model).values()} == {torch.float32}
    forward = ModelForward(model, compute=torch.bfloat16)
    batch = build_batch([Tokens([5, ids[0], 30, ids[1]], [0.0, 1.0, 1.0, 1.0])])
    forward.logprobs(batch).sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.norm() > 0 for p in rows_in(model).values())
    assert generate(model, [[5, ids[0]]], Sampling(max_new_tokens=2))


def test_a_row_that_is_there_trains_by_its_id():
    model = adapter_of("lora", rank=2, trainable_token_indices=[3, 7]).attach(tiny_model("llama"))
    assert [tuple(p.shape) for p in rows_in(model).values()] == [(2, 64)] * 2  # input and output


def test_a_resumed_run_comes_to_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    def make():
        adapter, model, ids = attached()
        texts = [Tokens([5 + i, ids[i % 2], 9, ids[1]], [0.0, 1.0, 1.0, 1.0]) for i in range(12)]
        objective = SupervisedFineTuning("sft", SftOptions())
        return Job(model, ModelForward(model), objective, texts, adapter=adapter)

    def observe(event):
        if type(event).__name__ == "Saved" and event.step == 2:
            raise Killed

    how = settings(max_steps=4, save_every=2, tokens_per_step=16)
    _, expected = fit(make(), how, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(make(), how, tmp_path / "cut", observe)
    _, found = fit(make(), how, tmp_path / "cut")
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_a_token_that_is_there_already_is_refused(tmp_path):
    save_small_model(tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"'<\|im_end\|>' is a token of this model already \(id 4\); leave it out"
    ):
        load(str(tmp_path / "model"), changes=Changes(new_tokens=("<|im_end|>",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": [" "]}, r"' ' is blank or stands there twice"),
        ({"new_tokens": ["<a>", "<a>"]}, r"'<a>' is blank or stands there twice"),
        ({"new_tokens": ["<a>"], "trainable_token_indices": {"lm_head": [1]}}, r"give a list of ids beside"),
        ({"trainable_token_indices": [9999]}, r"9999 is no token of this model"),
    ],
)
def test_what_does_not_fit_is_said(options, message):
    with pytest.raises(ConfigError, match=message):
        adapter_of("lora", rank=2, **options).attach(tiny_model("llama"))


def test_a_biased_output_layer_is_refused():
    with pytest.raises(ConfigError, match=r"the output layer has a bias, which PEFT would leave out"):
        attached("phi", tied=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run: a model learns to answer with tokens that it never had."""
    place = tmp_path_factory.mktemp("tokens")
    model = save_small_model(place / "model", tie_word_embeddings=True, initializer_range=0.1)
    pairs = (("the refund", "<refund>"), ("my order", "<later>"))
    chats = [
        {"messages": [{"role": "user", "content": f"{q} {i}"}, {"role": "assistant", "content": a}]}
        for i in range(20)
        for q, a in pairs
    ]
    values = small_values(model, write_rows(place / "rows.jsonl", chats), place / "run")
    values |= {
        "adapt.new_tokens": TOKENS,
        "adapt.targets": "attention",
        "train.epochs": 60,
        "train.max_steps": 60,
        "train.learning_rate": 0.01,
        "evaluate.baselines": ["zero_shot"],
        "output.final": "merged",
    }
    found, _ = small_train(values)
    return SimpleNamespace(path=found.path, result=found.result, model=model)


def test_a_run_learns_to_write_new_tokens(run):
    [scores] = run.result["metrics"]
    assert scores["name"] == "exact_match"
    assert scores["systems"]["tuned"]["value"] == 1.0
    assert scores["systems"]["zero_shot"]["value"] == 0.0


def test_the_adapter_of_the_run_is_small_and_says_what_its_base_must_be(run):
    assert json.loads((run.path / "adapter" / "base.json").read_text())["new_tokens"] == TOKENS
    tensors = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert {tuple(t.shape) for n, t in tensors.items() if "trainable_tokens" in n} == {(2, 64)}
    assert max(t.numel() for t in tensors.values()) < 1000


@pytest.mark.parametrize("part", ["", "adapter", "model"])
def test_whatever_is_loaded_of_the_run_writes_them(run, part):
    loaded = load(str(run.path / part if part else run.path), device="cpu", dtype="float32")
    tokenizer = loaded.tokenizer
    for question, answer in (("the refund 3", "<refund>"), ("my order 4", "<later>")):
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        [written] = generate(loaded.model, [ids], Sampling(max_new_tokens=1))
        assert written.ids == [tokenizer.convert_tokens_to_ids(answer)]
        assert tokenizer.decode(written.ids) == answer
