"""What a reward model says of answers, and which models may say it."""

import json

import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core.errors import ConfigError
from tunewright.core.records import Conversation, Message, Preference
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.save import save_model
from tunewright.models.score import attach, heads_of
from tunewright.objectives.base import HeadSpec, make_objective
from tunewright.objectives.options.table import options_of
from tunewright.run.recipe import Recipe
from tunewright.run.rewarding import make_all
from tunewright.run.scoring import load_scorer, score_texts

CHATS = [("Is it cold?", "yes"), ("And now?", "no, not any more, I think"), ("Why?", "later")]


def saved(folder, outputs=1, task="reward"):
    """A tiny model with a random head."""
    model = tiny_model()
    attach(model, {"score": HeadSpec(outputs, facts={"task": task})})
    torch.nn.init.normal_(heads_of(model)["score"].weight, generator=torch.Generator().manual_seed(0))
    tokenizer = tiny_tokenizer()
    save_model(model, tokenizer, folder, Renderer(tokenizer).stop_ids, writes=False)
    return folder


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("reward") / "model")


def conversation(question, answer):
    return Conversation((Message("user", question), Message("assistant", answer)))


def test_scores_are_those_that_training_compares(path):
    """Each answer, in whatever batch, scores as a chosen answer does in the objective of reward models."""
    loaded = load_scorer(str(path), device="cpu", dtype="float32")
    renderer = Renderer(loaded.tokenizer)
    objective = make_objective("reward", options_of("reward", {}))
    forward = ModelForward(loaded.model)
    expected = []
    for question, answer in CHATS:
        turns = [(Message("assistant", text),) for text in (answer, "something else")]
        [tokens] = objective.encode(Preference((Message("user", question),), *turns), renderer)
        with torch.no_grad():
            expected.append(float(forward.scores(build_batch([tokens]))[1, 0]))
    found = score_texts(loaded, renderer, [conversation(*chat) for chat in CHATS])
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found)) == 3
    assert score_texts(loaded, renderer, [conversation(*chat) for chat in CHATS], micro_tokens=1) == (
        pytest.approx(expected, abs=1e-5)
    )


def test_a_recipe_names_a_reward_model(path):
    values = {
        "data": {"train": "x.jsonl"},
        "model": {"device": "cpu", "dtype": "float32"},
        "objective": {"name": "grpo", "rewards": [{"name": "model", "path": str(path), "weight": 2.0}]},
    }
    example = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}
    with make_all(Recipe.model_validate(values)) as rewards:
        scored = rewards.score(["Why?"], ["later"], [example])
    loaded = load(str(path), device="cpu", dtype="float32")
    whole = Conversation(
        (Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "later"))
    )
    [expected] = score_texts(loaded, Renderer(loaded.tokenizer), [whole])
    assert scored.parts == {"model": [pytest.approx(expected, abs=1e-5)]}
    assert scored.total == [pytest.approx(2 * expected, abs=1e-5)]


def test_a_model_with_another_head_or_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no reward model: it has a head for classify"):
        load_scorer(str(saved(tmp_path / "a", 3, "classify")), device="cpu", dtype="float32")
    model, tokenizer = tiny_model(), tiny_tokenizer()
    save_model(model, tokenizer, tmp_path / "b", Renderer(tokenizer).stop_ids)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["hidden_size"] == 64
    with pytest.raises(ConfigError, match="is no reward model: it has no score head"):
        load_scorer(str(tmp_path / "b"), device="cpu", dtype="float32")
