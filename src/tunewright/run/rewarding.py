"""The rewards of a run, and what replies in its dialogues: made once from its recipe, closed at its end."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.core.records import Message
from tunewright.objectives.environment import UserEnvironment, make_environment
from tunewright.objectives.rewards import RewardSet, make_rewards, reward_specs
from tunewright.objectives.rewards.base import ModelReward
from tunewright.objectives.rewards.spec import BatchFunction
from tunewright.run.recipe import Recipe
from tunewright.run.scoring import load_scorer, score_answers

_MADE: weakref.WeakKeyDictionary[Any, RewardSet] = weakref.WeakKeyDictionary()
_REPLIES: weakref.WeakKeyDictionary[Any, UserEnvironment] = weakref.WeakKeyDictionary()


def rewards_of(recipe: Recipe, objective: Any) -> RewardSet:
    """The rewards of a run; sampling and judging share them, and their processes end with ``objective``."""
    if objective not in _MADE:
        _MADE[objective] = make_all(recipe)
        weakref.finalize(objective, _MADE[objective].close)
    return _MADE[objective]


def environment_of(recipe: Recipe, objective: Any) -> UserEnvironment | None:
    """The environment of a run, if it has one; shared and ended like ``rewards_of``."""
    options = recipe.objective.options.rollout.environment
    if options.file is not None and objective not in _REPLIES:
        _REPLIES[objective] = make_environment(options)
        weakref.finalize(objective, _REPLIES[objective].close)
    return _REPLIES.get(objective)


def make_all(recipe: Recipe) -> RewardSet:
    """The rewards that a recipe lists; paths are relative to the working directory, as those of data are."""
    return make_rewards(recipe.objective.options.rewards, supply=_scorers(recipe))


def _scorers(recipe: Recipe) -> dict[str, BatchFunction]:
    """What scores for each ``{name: model, path: RUN}``, by the name of the reward."""
    specs = reward_specs(recipe.objective.options.rewards)
    return {spec.name: scorer(spec.path, recipe) for spec in specs if isinstance(spec, ModelReward)}


def scorer(path: str, recipe: Recipe) -> BatchFunction:
    """The reward model at ``path``, as a function of (prompts, answers, examples)."""
    loaded = load_scorer(path, device=recipe.model.device, dtype=recipe.model.dtype)

    def scores(
        prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Mapping[str, Any]]
    ) -> list[float]:
        chats = [[_message(turn) for turn in example["messages"]] for example in examples]
        return score_answers(loaded, chats, answers, recipe.train.read_at_once)

    return scores


def _message(turn: Mapping[str, Any]) -> Message:
    extra = {name: value for name, value in turn.items() if name not in ("role", "content")}
    return Message(turn["role"], turn["content"], extra=extra)
