"""Prompt, prefix and P-tuning as adapters: their start, what trains, learning, resuming, files, refusals."""

import copy
import dataclasses

import pytest
import torch
from peft import PeftModel

from tests.heads import labelled as named
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training import fit, settings
from tunewright.adapt.base import adapter_of, trainable, trained_state
from tunewright.core.errors import ConfigError
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Job
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.quiet import quiet_peft
from tunewright.models.score import attach
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of
from tunewright.run.reference import before_training, with_reference

VOCAB = 30
WAYS = {
    "prompt": ("prompt", {}),
    "prefix": ("prefix", {}),
    "projected": ("prefix", {"width": 32}),
    "mlp": ("ptuning", {"width": 32}),
    "lstm": ("ptuning", {"width": 32, "encoder": "lstm"}),
}
TEXT = [7, 8, 9]


def made(way, tokens=4, **more):
    method, options = WAYS[way]
    return adapter_of(method, tokens=tokens, **options, **more)


def attached(adapter, model=None):
    torch.manual_seed(1)
    return adapter.attach(tiny_model() if model is None else model).eval()


def logits(model, ids):
    """(T, V) of the text alone."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]


def rows(count, steps, seed):
    """Six numbers with a constant step, which is known only from the second one on."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        start, which = torch.randint(0, VOCAB, (2,), generator=generator).tolist()
        step = steps[which % len(steps)]
        found.append(Tokens([(start + step * i) % VOCAB for i in range(6)], [0.0] + [1.0] * 5))
    return found


def job(model, adapter, train, validation, objective=None):
    torch.manual_seed(7)
    objective = objective or make_objective("sft", options_of("sft", {}))
    model = adapter.attach(model)
    attach(model, objective.heads)
    return Job(model, ModelForward(model), objective, train, validation, adapter=adapter)


@pytest.fixture(scope="module")
def skilled(tmp_path_factory):
    """A tiny model that goes on by 3 or by 7, whichever a text began with."""
    adapter = adapter_of("full")
    model = tiny_model("llama", VOCAB, tie_word_embeddings=True)
    the_job = job(model, adapter, rows(300, (3, 7), 0), rows(60, (3, 7), 1))
    plan = settings(epochs=6, tokens_per_step=120, micro_tokens=400, learning_rate=5e-3)
    result, _ = fit(the_job, plan, tmp_path_factory.mktemp("skilled"))
    # of the five numbers one cannot be known: log(2) / 5 = 0.139
    assert result.best < 0.3
    return model.requires_grad_(False)


def plan(way, **changes):
    rate = 4e-4 * made(way).rate  # the prior at this width
    values = {"epochs": 4, "tokens_per_step": 60, "micro_tokens": 400, "every": 16, "learning_rate": rate}
    return settings(**{**values, **changes})


@pytest.mark.parametrize("way", WAYS)
def test_learns_by_its_own_prior_and_nothing_else_moves(way, skilled, tmp_path):
    """With the step always 3 the second number can be known, which only the virtual tokens can say."""
    model = copy.deepcopy(skilled)
    the_job = job(model, made(way), rows(80, (3,), 2), rows(20, (3,), 3))
    with torch.no_grad():
        bare = before_training(the_job.adapter, the_job.model, the_job.forward)
        batch = build_batch(rows(20, (3,), 3))
        before = float(-bare(batch).mean())
    result, weights = fit(the_job, plan(way), tmp_path)
    assert before > 0.2 and result.best < 0.95 * before
    assert all(name.startswith("prompt_encoder.") for name in weights)
    for name, parameter in skilled.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))
    torch.testing.assert_close(float(-bare(batch).mean()), before, rtol=0, atol=0)


@pytest.mark.parametrize("way", ["prompt", "prefix", "mlp"])
def test_a_killed_run_comes_to_the_same_bits(way, skilled, tmp_path):
    class Killed(Exception):
        pass

    def kill(event):
        if getattr(event, "step", 0) == 4:
            raise Killed

    def fresh():
        return job(copy.deepcopy(skilled), made(way), rows(30, (3,), 2), rows(5, (3,), 3))

    short = plan(way, epochs=2, every=3)
    whole, expected = fit(fresh(), short, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(fresh(), short, tmp_path / "killed", kill)
    again = fresh()
    with torch.no_grad():
        for parameter in trainable(again.model).values():
            parameter.normal_()  # what was drawn at the start must not matter
    result, weights = fit(again, short, tmp_path / "killed")
    assert result.best == whole.best
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.parametrize("way", ["prompt", "prefix"])
def test_pairs_are_learnt_against_the_model_without_virtual_tokens(way, skilled, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    pairs = [
        Tokens(
            [n],
            [0.0],
            branches=tuple(Tokens([(n + s) % VOCAB], [1.0], extras={"chosen": w}) for s, w in ends),
        )
        for n in range(VOCAB)
        for ends in [((3, 1.0), (7, 0.0))]
    ]
    dpo = make_objective("dpo", options_of("dpo", {}))
    the_job = job(copy.deepcopy(skilled), made(way), pairs, pairs, dpo)
    reference = before_training(the_job.adapter, the_job.model, the_job.forward)
    held = with_reference(pairs, reference, 400, "test", lambda event: None)
    base = ModelForward(copy.deepcopy(skilled)).logprobs(build_batch(pairs)).detach()
    sums = torch.tensor([b.extras["reference"] for t in held for b in t.branches])
    torch.testing.assert_close(sums, base, rtol=0, atol=0)
    seen = []
    the_job = dataclasses.replace(the_job, train=held, validation=held)
    fit(the_job, plan(way, tokens_per_step=30, epochs=12), tmp_path / "run", seen.append)
    losses = [e.metrics["validation_loss"] for e in seen if "validation_loss" in getattr(e, "metrics", {})]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("way", "pooling"), [("prompt", "last"), ("prompt", "mean"), ("prefix", "mean")])
def test_a_head_is_trained_along(way, pooling, skilled, tmp_path):
    def sequences(seed):
        """Is the number that is repeated a high one?"""
        return [
            Tokens(t.ids, [0.0] * 6, extras={"label": float(t.ids[0] >= VOCAB // 2)})
            for t in rows(60, (0,), seed)
        ]

    objective = make_objective("classify", options_of("classify", {"pooling": pooling}))
    objective = objective.fitted([named("3", "low"), named("20", "high")])
    the_job = job(copy.deepcopy(skilled), made(way), sequences(5), sequences(6), objective)
    start = trained_state(the_job.model)["prompt_encoder.default.embedding.weight"]
    result, weights = fit(the_job, plan(way), tmp_path)
    parts = {name.rpartition(".")[0] for name in weights}
    assert parts == {"base_model.score", "prompt_encoder.default.embedding"}
    assert (weights["prompt_encoder.default.embedding.weight"] - start).abs().max() > 1e-2
    assert result.best < 0.5 * 0.6931  # log(2): nothing known


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("way", ["prompt", "prefix"])
def test_starting_from_a_text_is_as_if_it_stood_there(way, family):
    """Untrained virtual tokens say what their words would say, also where they repeat."""
    adapter = made(way, 8, text="any").fitted(lambda text: TEXT)
    model = attached(adapter, tiny_model(family, initializer_range=0.1))
    words, text = [*TEXT, *TEXT, *TEXT[:2]], [20, 21, 22, 23]
    expected = logits(tiny_model(family, initializer_range=0.1), words + text)[-4:]
    torch.testing.assert_close(logits(model, text), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["prompt", "prefix"])
def test_a_random_start_is_words_and_the_same_for_the_same_seed(way):
    def start(seed):
        torch.manual_seed(seed)
        [parameter] = trainable(made(way).attach(tiny_model())).values()
        return parameter.detach()

    assert torch.equal(start(5), start(5)) and not torch.equal(start(5), start(6))
    if way == "prompt":
        table = tiny_model().get_input_embeddings().weight
        assert all((row == table).all(1).any() for row in start(5))


SIZES = {
    "prompt": 4 * 64,
    "prefix": 4 * 2 * 2 * 32,  # layers, key and value, 2 heads of 16
    "projected": 4 * 32 + (32 * 32 + 32) + (32 * 128 + 128),
    "mlp": 4 * 64 + (64 * 32 + 32) + (32 * 32 + 32) + (32 * 64 + 64),
}


@pytest.mark.parametrize("way", SIZES)
def test_only_the_virtual_part_trains_in_float32(way):
    model = attached(made(way), tiny_model().to(torch.bfloat16))
    names = trainable(model)
    assert all(name.startswith("prompt_encoder.") for name in names)
    assert sum(p.numel() for p in names.values()) == SIZES[way]
    assert {p.dtype for p in names.values()} == {torch.float32}


@pytest.mark.parametrize("way", WAYS)
def test_saved_it_loads_in_peft_and_here(way, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    adapter = made(way)
    model = attached(adapter, load(str(tmp_path / "base"), dtype="float32").model)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(std=0.3)
    text = [20, 21, 22, 23, 24]
    expected = logits(model, text)
    adapter.save(model, tmp_path / "adapter")
    files = {p.name: p.stat().st_size for p in (tmp_path / "adapter").iterdir()}
    assert (
        files["adapter_model.safetensors"] < 4 * 4 * 128 + 500
    )  # at most (tokens, layers x 2 x heads) floats
    with quiet_peft():
        plain = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(plain, text), expected, rtol=1e-5, atol=1e-5)
    loaded = load(str(tmp_path / "adapter"), dtype="float32")
    assert loaded.virtual == 4 == adapter.virtual
    batch = build_batch([Tokens(text, [1.0] * 5)])
    with torch.no_grad():
        ours = ModelForward(loaded.model).per_target(batch, lambda given, index: given)
    torch.testing.assert_close(ours, expected[:-1], rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"adapt.tokens 512: the model has 512 positions"):
        attached(made("prompt", 512))
    with pytest.raises(ConfigError, match=r"adapt.text has 5 tokens for adapt.tokens 4.* adapt.tokens=5"):
        made("prefix", text="long").fitted(lambda text: [1, 2, 3, 4, 5])
    with pytest.raises(ConfigError, match=r"adapt.text has 0 tokens"):
        made("prompt", text="").fitted(lambda text: [])
    with pytest.raises(ConfigError, match="width=0"):
        adapter_of("prefix", width=8, text="any")
    with pytest.raises(ConfigError, match="cannot be merged"):
        made("prompt").merged(attached(made("prompt")))
    assert not made("prompt").merges


def test_a_method_of_peft_with_virtual_tokens_takes_its_room():
    assert adapter_of("cartridge", num_virtual_tokens=3).virtual == 3
    assert adapter_of("lora").virtual == 0
