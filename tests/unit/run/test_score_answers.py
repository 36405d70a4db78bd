"""A reward model asked for many answers: prompts shared, in any order, of any length."""

import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.run.test_scoring import saved
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Message
from tunewright.data.render import Renderer
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.save import save_model
from tunewright.run.scoring import score_answers

USER, OTHER = (Message("user", "Is it cold?"),), (Message("system", "Be brief."), Message("user", "Why?"))
PROMPTS = [USER, OTHER, USER, USER, OTHER, USER]
ANSWERS = ["yes", "later", "no, not any more, I think", "yes", "", "x"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(str(saved(tmp_path_factory.mktemp("scorer") / "m")), device="cpu", dtype="float32")


@pytest.fixture
def tokens_seen(monkeypatch):
    """How many tokens each forward pass reads."""
    seen, real = [], ModelForward.hidden
    monkeypatch.setattr(ModelForward, "hidden", lambda self, b: (seen.append(b.size), real(self, b))[1])
    return seen


def plainly(loaded, prompt, answer):
    """The head on the last state of prompt and answer, in transformers' own forward pass."""
    turns = [m.to_dict() for m in (*prompt, Message("assistant", answer))]
    ids = loaded.tokenizer.apply_chat_template(turns, return_dict=False)
    with torch.no_grad():
        states = loaded.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state
        return float(loaded.model.score(states[0, -1:])[0, 0])


def test_every_answer_gets_what_it_gets_alone_in_transformers(loaded):
    expected = [plainly(loaded, *pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]
    assert score_answers(loaded, PROMPTS, ANSWERS) == pytest.approx(expected, abs=1e-4)
    assert len({round(x, 4) for x in expected}) == 5, "only the two equal answers are equal"
    assert score_answers(loaded, [], []) == []


def test_a_prompt_is_read_once_for_all_its_answers(loaded, tokens_seen):
    long = (Message("user", "cold " * 60),)
    few = score_answers(loaded, [long], ["yes"])
    [one] = tokens_seen
    tokens_seen.clear()
    many = score_answers(loaded, [long] * 8, ["yes"] * 8)
    assert sum(tokens_seen) < 1.6 * one
    assert many == pytest.approx(few * 8, abs=1e-5)


def test_many_answers_are_read_in_bounded_batches(loaded, tokens_seen):
    answers = [f"answer number {i}" for i in range(12)]
    whole = score_answers(loaded, [USER] * 12, answers)
    tokens_seen.clear()
    assert score_answers(loaded, [USER] * 12, answers, micro_tokens=64) == pytest.approx(whole, abs=1e-5)
    assert len(tokens_seen) > 2 and max(tokens_seen) <= 64


def test_answers_beyond_the_context_are_judged_by_their_beginning(loaded):
    long = "cold " * 600  # the model has room for 512 tokens
    found = score_answers(loaded, [USER] * 3, [long + "a", long + "b", "yes"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[2] == pytest.approx(plainly(loaded, USER, "yes"), abs=1e-4)
    with pytest.raises(DataError, match="no room for an answer in the 512 tokens"):
        score_answers(loaded, [(Message("user", long),)], ["yes"])


def test_a_language_model_and_a_classifier_give_no_rewards(tmp_path):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    save_model(model, tokenizer, tmp_path / "lm", Renderer(tokenizer).stop_ids)
    with pytest.raises(
        ConfigError, match="no reward model: it has no score head; train one with objective reward"
    ):
        score_answers(load(str(tmp_path / "lm"), device="cpu", dtype="float32"), [USER], ["yes"])
    classifier = load(str(saved(tmp_path / "c", 1, "classify")), device="cpu", dtype="float32")
    with pytest.raises(ConfigError, match="it has a head for classify"):
        score_answers(classifier, [USER], ["yes"])
