"""Generation: equal to transformers row by row, whatever the batch; exact ends, text pieces and samples."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, GPT2Config, MambaConfig

from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer
from tunewright.core.errors import ConfigError, ModelError
from tunewright.models import attention, decoding
from tunewright.models import sampling as sampling_module
from tunewright.models.generate import Generated, generate, stream
from tunewright.models.runner import Runner
from tunewright.models.sampling import LARGEST_DRAW, Sampling, choose, draw, truncate
from tunewright.models.textstream import TextStream

VOCABULARY = 420
WINDOWED = ("mistral", "gemma2", "gemma3")


def sharp_model(family="llama", **overrides):
    """Weights so large that every token in reach changes the argmax; windows shorter than the prompts.

    With tied embeddings a random model repeats its last token, whatever stands before it.
    """
    if family in WINDOWED:
        overrides = {"sliding_window": 8, **overrides}
    if family == "gemma3":
        overrides = {"layer_types": ["sliding_attention", "full_attention"], **overrides}
    return tiny_model(
        family, VOCABULARY, **{"initializer_range": 0.25, "tie_word_embeddings": False, **overrides}
    )


def make_prompts(count=9, prefix=0, longest=30, seed=0):
    rng = random.Random(seed)

    def words(n):
        return [rng.randrange(5, VOCABULARY) for _ in range(n)]

    begin = words(prefix)
    return [begin + words(rng.randint(1, longest)) for _ in range(count)]


def plain_generate(model, prompt, new):
    """transformers' own greedy search on one prompt."""
    ids = torch.tensor([prompt])
    length = {"max_new_tokens": new, "eos_token_id": None, "pad_token_id": 0}
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **length)
    return output[0, len(prompt) :].tolist()


@pytest.fixture(autouse=True)
def _one_thread():
    """Two-layer models are faster on one thread, above all where others use the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PROBE = [(1, 7), (1, 4), (1, 3)]  # whether rows may share a beginning without a copy of it


@pytest.fixture
def fed(monkeypatch):
    """The (rows, columns) of every pass through the model."""
    shapes = []
    plain = decoding.Runner.logits

    def recorded(self, ids, *rest):
        shapes.append(tuple(ids.shape))
        return plain(self, ids, *rest)

    monkeypatch.setattr(decoding.Runner, "logits", recorded)
    return shapes


@torch.no_grad()
def plain_logprobs(model, prompt, ids):
    """log p of ``ids`` after ``prompt`` from one forward without cache or padding."""
    logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, -len(ids) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()


@torch.no_grad()
def plain_greedy(model, prompt, new):
    """Greedy search by a whole forward per token: no cache at all."""
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def ids_of(outputs):
    return [output.ids for output in outputs]


@pytest.mark.parametrize("prefix", [0, 40], ids=["apart", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers_on_each_prompt_alone(family, prefix):
    model = sharp_model(family)
    prompts = make_prompts(prefix=prefix)
    expected = [plain_generate(model, prompt, 12) for prompt in prompts]
    assert len({tuple(ids) for ids in expected}) == len(prompts)
    for batch_size in (1, 3, 32):
        outputs = generate(model, prompts, Sampling(max_new_tokens=12), batch_size=batch_size)
        assert ids_of(outputs) == expected
        for prompt, output in zip(prompts, outputs, strict=True):
            assert output.logprobs == pytest.approx(plain_logprobs(model, prompt, output.ids), abs=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_implementation(attention):
    model = sharp_model("llama")
    model.set_attn_implementation(attention)
    prompts = make_prompts(prefix=20)
    expected = [plain_generate(model, prompt, 8) for prompt in prompts]
    assert ids_of(generate(model, prompts, Sampling(max_new_tokens=8), batch_size=4)) == expected


def test_learned_positions_stop_at_the_last_one():
    torch.manual_seed(0)
    size = {"n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=VOCABULARY, initializer_range=0.3, **size)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [*make_prompts(count=3, longest=20), make_prompts(count=1)[0][:1] * 45]
    outputs = generate(model, prompts, Sampling(max_new_tokens=20), batch_size=2)
    assert [len(output.ids) for output in outputs] == [20, 20, 20, 4]  # 45 + 4 tokens, the last one never fed
    assert not outputs[3].finished
    assert ids_of(outputs)[:3] == [plain_greedy(model, prompt, 20) for prompt in prompts[:3]]


def test_a_prompt_that_begins_all_others():
    (base,) = make_prompts(count=1, prefix=25)
    prompts = [base[:20], base[:24], base[:20], [*base[:20], 9]]
    model = sharp_model()
    expected = [plain_greedy(model, prompt, 5) for prompt in prompts]
    for batch_size in (1, 2, 32):
        assert ids_of(generate(model, prompts, Sampling(max_new_tokens=5), batch_size=batch_size)) == expected


def test_shared_prefix_runs_once(fed):
    model = sharp_model()
    prompts = [p[:40] + p[-5:] for p in make_prompts(prefix=40)]
    generate(model, prompts, Sampling(max_new_tokens=1))
    assert fed == [(1, 40), *PROBE, (9, 5)]
    fed.clear()
    generate(model, prompts[:1], Sampling(max_new_tokens=1))
    assert fed == [(1, 45)]  # one prompt shares with nobody
    fed.clear()
    generate(model, [p[35:] for p in prompts], Sampling(max_new_tokens=1))
    assert fed == [(9, 10)]  # five common tokens do not pay


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_a_shared_beginning_is_copied_for_no_row(family, monkeypatch):
    """Rows of several lengths, which leave and join, over one copy of what they have in common."""
    model = sharp_model(family)
    assert Runner(model).shares_ahead()
    prompts = [p[: 40 + i % 7] for i, p in enumerate(make_prompts(prefix=30))]
    monkeypatch.setattr(decoding, "branched", None)
    found = ids_of(generate(model, prompts, Sampling(max_new_tokens=8), batch_size=3))
    assert found == [plain_greedy(model, prompt, 8) for prompt in prompts]


def test_windows_and_other_ways_of_attention_keep_a_copy_for_each_row():
    """A window is measured in columns, and an attention of another kind does not look ahead of the keys."""
    assert not Runner(tiny_model("gemma3").eval()).shares_ahead()
    model = sharp_model()
    model.set_attn_implementation("eager")
    assert not Runner(model).shares_ahead()
    prompts = [p[:40] + p[-5:] for p in make_prompts(prefix=40)]
    expected = [plain_greedy(model, prompt, 5) for prompt in prompts]
    assert ids_of(generate(model, prompts, Sampling(max_new_tokens=5))) == expected


def test_scores_over_a_common_beginning_are_held_in_pieces(monkeypatch):
    model, prompts = sharp_model(), [p[:40] + p[-5:] for p in make_prompts(prefix=40)]
    whole = ids_of(generate(model, prompts, Sampling(max_new_tokens=5)))
    monkeypatch.setattr(attention, "SCORES", 1)
    assert ids_of(generate(model, prompts, Sampling(max_new_tokens=5))) == whole


def test_equal_prompts_run_once_and_sample_apart(fed):
    a, b = make_prompts(count=2)
    model = sharp_model()
    outputs = generate(model, [a, b, a, a], Sampling(max_new_tokens=6, temperature=1.0))
    assert fed[0] == (2, max(len(a), len(b)))
    assert len({tuple(ids) for ids in ids_of(outputs)}) == 4
    for prompt, output in zip([a, b, a, a], outputs, strict=True):
        assert output.logprobs == pytest.approx(plain_logprobs(model, prompt, output.ids), abs=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("shift", [0, 25])
def test_lora_and_soft_prompts(family, shift):
    prompts = make_prompts(count=5, prefix=shift)
    for config in (
        LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, target_modules=["q_proj", "down_proj"]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    ):
        torch.manual_seed(1)
        model = get_peft_model(sharp_model(family), config).eval()
        unadapted = [plain_greedy(model.get_base_model(), prompt, 6) for prompt in prompts]
        expected = [soft_greedy(model, prompt, 6) for prompt in prompts]
        assert expected != unadapted or isinstance(config, LoraConfig)  # which holds its LoRA layers
        assert ids_of(generate(model, prompts, Sampling(max_new_tokens=6), batch_size=3)) == expected


@torch.no_grad()
def soft_greedy(model, prompt, new):
    """Greedy search through PEFT's own forward, whole each time."""
    ids = list(prompt)
    for _ in range(new):
        tensor = torch.tensor([ids])
        logits = model(input_ids=tensor, attention_mask=torch.ones_like(tensor)).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_rows_that_end_leave_and_others_join(fed):
    model = sharp_model()
    prompts = make_prompts(count=23, prefix=3)
    free = generate(model, prompts, Sampling(max_new_tokens=24))
    counts = Counter(token for output in free for token in set(output.ids))
    stops = frozenset(token for token, _ in counts.most_common(3))
    expected = []
    for output in free:
        end = next((i for i, token in enumerate(output.ids) if token in stops), None)
        expected.append((output.ids[:end], end is not None))
    assert len({len(ids) for ids, _ in expected}) > 8  # rows end at many different steps
    assert {finished for _, finished in expected} == {True, False}
    for batch_size in (1, 4, 7, 32):
        fed.clear()
        heard: dict[int, list[int]] = {i: [] for i in range(23)}
        progress = []
        outputs = generate(
            model,
            prompts,
            Sampling(max_new_tokens=24, stop_ids=stops),
            batch_size=batch_size,
            on_token=lambda row, token, heard=heard: heard[row].append(token),
            on_progress=lambda done, total, progress=progress: progress.append((done, total)),
        )
        assert [(o.ids, o.finished) for o in outputs] == expected
        assert list(heard.values()) == ids_of(outputs)
        assert progress == [(i, 23) for i in range(1, 24)]
        last_start = max(i for i, (_, columns) in enumerate(fed) if columns > 1)
        assert all(rows > batch_size * 0.7 for rows, columns in fed[:last_start] if columns == 1)
        assert max(rows for rows, columns in fed if columns == 1) <= batch_size
        needed = sum(len(ids) + finished - 1 for ids, finished in expected)  # the first comes with the prompt
        assert needed <= sum(rows for rows, columns in fed if columns == 1) <= needed * 4 / 3
        for prompt, output in zip(prompts, outputs, strict=True):
            assert len(output.logprobs) == len(output.ids)
            if output.finished:
                token, logprob = output.stop
                assert token in stops
                expected_logprob = plain_logprobs(model, prompt, [*output.ids, token])[-1]
                assert logprob == pytest.approx(expected_logprob, abs=1e-4)
            else:
                assert output.stop is None and len(output.ids) == 24


def test_no_unwritten_memory_is_read():
    """In deterministic mode torch fills new memory with NaN, which one stray column would spread."""
    model = sharp_model()
    prompts = make_prompts(count=8, prefix=20)
    free = generate(model, prompts, Sampling(max_new_tokens=80))
    stops = frozenset(output.ids[7] for output in free[::2])
    plain = generate(model, prompts, Sampling(max_new_tokens=80, stop_ids=stops), batch_size=3)
    torch.use_deterministic_algorithms(True)
    try:
        filled = generate(model, prompts, Sampling(max_new_tokens=80, stop_ids=stops), batch_size=3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert ids_of(filled) == ids_of(plain)
    assert len({len(ids) for ids in ids_of(plain)}) > 3


def test_samples_do_not_depend_on_the_batch():
    model = sharp_model()
    prompts = make_prompts(count=12, prefix=18)
    settings = {"max_new_tokens": 10, "temperature": 0.9, "top_k": 50, "top_p": 0.95}
    sampling = Sampling(seed=3, **settings)
    outputs = generate(model, prompts, sampling, batch_size=32)
    for batch_size in (1, 3):
        assert ids_of(generate(model, prompts, sampling, batch_size=batch_size)) == ids_of(outputs)
    other = generate(model, prompts, Sampling(seed=4, **settings))
    assert ids_of(other) != ids_of(outputs)
    greedy = generate(model, prompts, Sampling(max_new_tokens=10))
    cold = generate(model, prompts, Sampling(max_new_tokens=10, temperature=1e-6, seed=5))
    assert ids_of(cold) == ids_of(greedy)
    for prompt, output in zip(prompts, outputs, strict=True):  # untempered, uncut
        assert output.logprobs == pytest.approx(plain_logprobs(model, prompt, output.ids), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "keep"),
    [
        ({}, 16),
        ({"temperature": 0.5}, 16),
        ({"top_k": 5}, 5),
        ({"top_p": 0.7}, None),
        ({"top_k": 8, "top_p": 0.6}, None),
    ],
)
def test_samples_follow_the_distribution(settings, keep):
    model = tiny_model("llama", 16, initializer_range=0.2)
    sampling = Sampling(**{"max_new_tokens": 1, "temperature": 1.0, "seed": 7, **settings})
    draws = 6000
    outputs = generate(model, [[3, 4]] * draws, sampling, batch_size=draws)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[3, 4]])).logits[0, -1]
        probs = (logits / sampling.temperature).softmax(-1).double()
    order = probs.argsort(descending=True)
    kept = order[: sampling.top_k or 16]
    share = probs[kept] / probs[kept].sum()
    kept = kept[share.cumsum(0) - share < sampling.top_p]
    assert keep is None or len(kept) == keep
    assert len(kept) > 1
    counts = torch.zeros(16, dtype=torch.float64)
    for output in outputs:
        counts[output.ids[0]] += 1
    expected = probs[kept] / probs[kept].sum() * draws
    assert counts[kept].sum() == draws  # nothing outside the cut is ever drawn
    assert chisquare(counts[kept].numpy(), expected.numpy()).pvalue > 0.001


def test_every_step_draws_anew():
    model = tiny_model("llama", 16, tie_word_embeddings=False)
    torch.nn.init.zeros_(model.lm_head.weight)  # all tokens alike, whatever came before
    (output,) = generate(model, [[3]], Sampling(max_new_tokens=400, temperature=1.0))
    counts = [output.ids.count(token) for token in range(16)]
    assert chisquare(counts).pvalue > 0.001
    pairs = Counter(zip(output.ids, output.ids[1:], strict=False))
    assert len(pairs) > 150  # of 256; a repeated draw would give 16


def test_truncate_worked_values():
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert truncate(probs, 0, 1.0).tolist() == probs.tolist()
    assert truncate(probs, 2, 1.0)[0].tolist() == pytest.approx([0, 0.4, 0, 0.3])
    assert truncate(probs, 0, 0.6)[0].tolist() == pytest.approx([0, 0.4, 0, 0.3])  # 0.4 < 0.6 <= 0.7
    assert truncate(probs, 0, 0.71)[0].tolist() == pytest.approx([0, 0.4, 0.2, 0.3])
    assert truncate(probs, 3, 0.4)[0].tolist() == pytest.approx([0, 0.4, 0, 0])  # 0.4 / 0.9 >= 0.4
    wide = torch.ones(1, 5000) / 5000  # the first 1024 hold too little, the first 4096 do
    assert int((truncate(wide, 0, 0.5) > 0).sum()) == pytest.approx(2500, abs=2)


def test_draws_are_those_of_the_plain_running_sum(monkeypatch):
    """Whole stretches without mass, a last one that is not full, several pieces of rows."""
    monkeypatch.setattr(sampling_module, "AT_ONCE", 4 * 4 * 1000)
    torch.manual_seed(0)
    logits = torch.randn(40, 1000)
    logits[:, 256:512] = -1e4
    logits[20:, -232:] = -1e4
    draws = [0.0, LARGEST_DRAW, *torch.rand(38).tolist()]
    tokens, logprobs = choose(logits, draws, Sampling(temperature=1.0))
    running = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    target = torch.tensor(draws, dtype=torch.float64)[:, None] * running[:, -1:]
    assert tokens.tolist() == torch.searchsorted(running, target, right=True)[:, 0].tolist()
    expected = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    assert logprobs.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert all(logits[row, token] > -1e4 for row, token in enumerate(tokens))


def test_choose_reports_the_untempered_logprob():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    token, logprob = choose(logits, None, Sampling())
    assert token.tolist() == [1]
    assert logprob.item() == pytest.approx(-0.40760596)  # -log(1 + e^-1 + e^-2)
    cold = Sampling(temperature=0.5, top_k=2)
    assert choose(logits, [0.0], cold)[0].tolist() == [1]
    token, logprob = choose(logits, [0.9], cold)  # e^6 / (e^6 + e^4) = 0.8808 < 0.9
    assert token.tolist() == [2]
    assert logprob.item() == pytest.approx(-1.40760596)
    assert draw(1, 2, 3) == draw(1, 2, 3) != draw(1, 3, 2)
    assert all(0 <= draw(0, 0, step) < 1 for step in range(100))


WORDS = {0: "one", 1: " two", 2: "\n", 3: "END", 4: "E", 5: "ND", 6: " three", 7: "", 8: "EN"}


def spell(ids):
    return "".join(WORDS[i] for i in ids)


@pytest.mark.parametrize(
    ("ids", "stops", "text"),
    [
        ([0, 1, 6], ("END",), "one two three"),
        ([0, 3, 1], ("END",), "one"),
        ([0, 4, 5, 1], ("END",), "one"),  # spans two tokens
        ([0, 4, 4, 5], ("END",), "oneE"),
        ([0, 4, 7, 5], ("END",), "one"),  # a token without text in between
        ([0, 1, 2, 2, 6], ("\n\n", "END"), "one two"),
        ([0, 2, 1], ("\n\n",), "one\n two"),  # looked like a stop string, was none
        ([0, 8], ("END",), "oneEN"),
        ([3], ("ND", "EN"), ""),
    ],
)
def test_stop_strings_in_the_text(ids, stops, text):
    whole = TextStream(spell, stops)
    pieces = []
    for i, token in enumerate(ids):
        whole.push(token)
        if whole.stopped or i == len(ids) - 1:
            whole.flush()
        pieces.append(whole.ready(final=i == len(ids) - 1))
        assert text.startswith("".join(pieces))  # never a part that must be taken back
        if whole.stopped:
            break
    assert whole.text == text == "".join(pieces)
    assert whole.stopped == any(stop in spell(ids) for stop in stops)


@pytest.mark.parametrize("kind", ["bytelevel", "metaspace"])
def test_text_pieces_are_whole_characters(kind):
    tokenizer = tiny_tokenizer(kind)
    said = " naïve 日本語 🦊🦊 é — done"
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(said) / 2
    text = TextStream(tokenizer.decode)
    pieces = []
    for token in ids:
        text.push(token)
        pieces.append(text.ready())
    assert "".join(pieces) == tokenizer.decode(ids)
    assert "\ufffd" not in "".join(pieces)
    assert sum(bool(piece) for piece in pieces) < len(ids)  # parts of 🦊 were held back
    cut = TextStream(tokenizer.decode)
    for token in tokenizer("🦊", add_special_tokens=False)["input_ids"][:-1]:
        cut.push(token)
    assert "\ufffd" not in cut.text
    cut.flush()
    assert cut.text.endswith("\ufffd")  # at the end nothing is swallowed


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_stream_equals_generate(temperature):
    model, tokenizer = sharp_model(), tiny_tokenizer()
    for prompt in make_prompts(count=4):
        sampling = Sampling(max_new_tokens=30, temperature=temperature)
        (plain,) = generate(model, [prompt], sampling, decode=tokenizer.decode)
        pieces = list(stream(model, prompt, sampling, tokenizer.decode))
        assert len(pieces) > 5 and "" not in pieces
        assert "".join(pieces) == plain.text == tokenizer.decode(plain.ids)
        stop = plain.text[9:14]
        stopping = Sampling(max_new_tokens=30, temperature=temperature, stop_strings=(stop,))
        (output,) = generate(model, [prompt], stopping, decode=tokenizer.decode)
        assert output.finished and output.text == plain.text[: plain.text.index(stop)]
        assert output.ids == plain.ids[: len(output.ids)] and stop in tokenizer.decode(output.ids)
        assert "".join(stream(model, prompt, stopping, tokenizer.decode)) == output.text


def test_modes_come_back():
    model = sharp_model().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    generate(model, make_prompts(count=2), Sampling(max_new_tokens=2))
    assert [module.training for module in model.modules()] == modes
    pieces = stream(model, [7, 8], Sampling(max_new_tokens=50), tiny_tokenizer().decode)
    next(pieces)
    assert not model.training and not torch.is_inference_mode_enabled()
    pieces.close()
    assert [module.training for module in model.modules()] == modes


def test_nothing_to_do():
    assert generate(sharp_model(), [], Sampling()) == []
    (output,) = generate(sharp_model(), [[5]], Sampling(max_new_tokens=1))
    assert isinstance(output, Generated) and len(output.ids) == 1
    assert not output.finished and output.text is None


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_refusals():
    model = sharp_model()
    with pytest.raises(ModelError, match="prompt 1 has no tokens"):
        generate(model, [[5], []], Sampling())
    with pytest.raises(ModelError, match="prompt 1 takes 513 tokens, the model has 512 positions"):
        generate(model, [[5], [5] * 513], Sampling())
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    with pytest.raises(ModelError, match="prompt 0 takes 513 tokens"):
        generate(get_peft_model(sharp_model(), config), [[5] * 508], Sampling())
    with pytest.raises(ModelError, match="prompt 0 holds ids outside 0…419"):
        generate(model, [[420]], Sampling())
    with pytest.raises(ConfigError, match="pass decode"):
        generate(model, [[5]], Sampling(stop_strings=("x",)))
    with pytest.raises(ConfigError, match="batch_size is 0"):
        generate(model, [[5]], Sampling(), batch_size=0)
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ModelError, match="MambaForCausalLM"):
        generate(mamba, [[5]], Sampling())


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"stop_strings": ("",)},
        {"stop_strings": "abc"},
    ],
)
def test_sampling_refuses(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Sampling(**settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_name_the_row(temperature):
    model = sharp_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[400] = float("nan")
    prompts = [[5, 6, 7], [5, 400, 7], [8, 9]]
    sampling = Sampling(temperature=temperature, max_new_tokens=1)
    for batch_size in (1, 3):
        with pytest.raises(ModelError, match="prompt 1 and 0 new tokens are not finite"):
            generate(model, prompts, sampling, batch_size=batch_size)


def longrope_model():
    factors = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0}
    factors |= {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}
    lengths = {"max_position_embeddings": 160, "original_max_position_embeddings": 40}
    return sharp_model("phi3", rope_parameters=factors, **lengths)


def test_longrope_rows_do_not_cross_its_switch():
    model = longrope_model()
    short = make_prompts(count=4, longest=20)
    long = [prompt + [9] * 60 for prompt in make_prompts(count=4, prefix=20)]
    for prompts in (short, long):
        expected = [plain_greedy(model, prompt, 8) for prompt in prompts]
        assert ids_of(generate(model, prompts, Sampling(max_new_tokens=8))) == expected
    with pytest.raises(ModelError, match="LongRoPE"):
        generate(model, short + long, Sampling(max_new_tokens=8))


def test_finished_rows_do_not_drag_others_over_the_switch():
    """Ten rows end early and ten join, while two old rows go on, end, and stay in the batch for one step."""
    model = longrope_model()
    (base,) = make_prompts(count=1, prefix=33)
    old, ending = [base[:33], [7, *base[:31]]], [8, *base[:30]]
    prompts = [*old, *[ending] * 10, *[[n, *base[:29]] for n in range(10, 20)]]
    stop = plain_greedy(model, ending, 2)[1]
    plain = [plain_greedy(model, prompt, 8) for prompt in prompts]
    expected = [ids[: ids.index(stop)] if stop in ids else ids for ids in plain]
    assert [len(ids) for ids in expected] == [8] * 2 + [1] * 10 + [8] * 10
    sampling = Sampling(max_new_tokens=8, stop_ids=frozenset({stop}))
    assert ids_of(generate(model, prompts, sampling, batch_size=12)) == expected
