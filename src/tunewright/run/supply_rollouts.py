"""Supplies roll-outs: the model answers the training prompts, and the recipe's rewards score the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunewright.adapt.base import Adapter
from tunewright.adapt.options.lora import LoraOptions
from tunewright.adapt.start import moves_base
from tunewright.core.errors import ConfigError
from tunewright.core.records import Message, Tokens
from tunewright.engine.batch import packed
from tunewright.models.changes import NONE
from tunewright.models.generate import Sampling
from tunewright.models.save import own_stop_ids
from tunewright.objectives.completions import OpenAISampler, Tongue
from tunewright.objectives.dialogue import Ask, Dialogue, Question, asking, following
from tunewright.objectives.policy import PolicyObjective, asked
from tunewright.objectives.rollout import Means, Rollouts
from tunewright.objectives.sampler import Sampler, TransformersSampler, VllmSampler, need_vllm
from tunewright.run.compose import context_of
from tunewright.run.ready import Ready
from tunewright.run.recipe import Recipe
from tunewright.run.rewarding import environment_of, rewards_of
from tunewright.run.session import Session
from tunewright.run.supply import Supply

# Settings of PEFT that put more into an adapter than low-rank differences of linear layers.
BESIDE_LORA = (
    "bias", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication",
    "target_parameters", "alora_invocation_tokens",
)  # fmt: skip


def check(session: Session, ready: Ready) -> None:
    """What can be found before the run begins. Raises ``ConfigError``.

    A loss must not be watched: on answers of the model's own it says nothing. The sampler must be there, and
    so must the environment, with a chat template that can render a dialogue.
    """
    recipe, parts = session.recipe, ready.parts
    if recipe.train.stop.metric == "validation_loss" and ready.splits.validation:
        raise ConfigError(
            f"train.stop.metric: objective {recipe.objective.name!r} samples its answers, and the loss on"
            " those says nothing about how good they are; watch reward"
        )
    kind = recipe.objective.options.rollout.sampler.kind
    if kind == "vllm":
        _check_engine(recipe, parts.adapter)
        need_vllm()
    _ = rewards_of(recipe, parts.objective)  # loads the user's code, and reward models
    if environment_of(recipe, parts.objective) is not None:
        first = asked(ready.splits.train[0])
        turns = [Message("assistant", "x"), Message("user", "y")]
        _ = following(parts.renderer, first.messages, turns, first)


def _check_engine(recipe: Recipe, adapter: Adapter) -> None:
    """Raise ``ConfigError`` for what vLLM cannot serve: all but plain LoRA over the base as it is on disk."""
    options, method = recipe.adapt.options, recipe.adapt.method
    if not isinstance(options, LoraOptions):
        raise ConfigError(
            "objective.rollout.sampler.kind 'vllm' is given a LoRA adapter for every roll-out, and"
            f" adapt.method {method!r} makes none; use lora, or kind transformers"
        )
    passed_on = options.model_extra or {}
    beside = [f"adapt.{name}" for name in BESIDE_LORA if passed_on.get(name) not in (None, False, "none", [])]
    if getattr(options, "also_train", "nothing") != "nothing":
        beside.append("adapt.also_train")
    if method == "dora" or beside or adapter.changes != NONE:
        what = ", ".join(beside) or f"adapt.method {method!r}"
        if options.new_tokens:
            what = "adapt.new_tokens"
        raise ConfigError(
            "objective.rollout.sampler.kind 'vllm' serves plain LoRA over the base as it is on disk, so its"
            f" answers would be those of another model than the one that trains with {what}; use lora without"
            " these, or kind transformers"
        )


def engine_rank(options: LoraOptions) -> int:
    """The largest rank in the files that are saved; a start from the weights doubles it."""
    ranks = [options.rank, *(other.rank for other in options.patterns.values() if other.rank)]
    return max(ranks) * (2 if moves_base(options.init) else 1)


def supply(session: Session, ready: Ready, given: Supply) -> Supply:
    """The source that samples. Validation rows are prompts as well, and judged by rewards, not by a loss."""
    check(session, ready)
    recipe, objective = session.recipe, given.objective
    assert isinstance(objective, PolicyObjective), f"{type(objective).__name__} wants no roll-outs"
    device, micro_tokens = given.forward.device, recipe.train.at_once
    means = Means(
        _ask(session, ready, sampler_of(session, ready, given)),
        rewards_of(recipe, ready.parts.objective),
        given.model,
        given.forward,
        lambda sequences: list(packed(sequences, micro_tokens, device)),
        micro_tokens,
        given.reference,
    )
    questions = _questions(ready, given.train)
    _warn_of_room(session, ready, questions)
    source = Rollouts(objective, questions, means, recipe.train.seed, session.observe)
    return replace(given, source=source, validation=())


def _ask(session: Session, ready: Ready, sampler: Sampler) -> Ask:
    """One answer each, or a dialogue where the recipe names what replies."""
    environment = environment_of(session.recipe, ready.parts.objective)
    if environment is None:
        return asking(sampler)
    turns = session.recipe.objective.options.rollout.environment.max_turns
    context = context_of(ready.parts.loaded)
    return Dialogue(sampler, ready.parts.renderer, environment, turns, context, session.warn)


def sampler_of(session: Session, ready: Ready, given: Supply) -> Sampler:
    """What writes the answers; see ``check``, which was called before."""
    recipe, parts = session.recipe, ready.parts
    rollout, renderer = recipe.objective.options.rollout, parts.renderer
    sampling = Sampling(
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        stop_ids=renderer.stop_ids | own_stop_ids(parts.loaded.model),
    )
    if rollout.sampler.kind == "openai":
        tongue = Tongue(renderer.decode, renderer.plain_ids, renderer.end_of_turn, session.warn)
        return OpenAISampler(rollout.sampler, sampling, tongue)
    if rollout.sampler.kind == "vllm":
        return VllmSampler(
            parts.loaded.ref.path,
            engine_rank(recipe.adapt.options),
            lambda folder: parts.adapter.save(given.model, folder),
            sampling,
            renderer.decode,
        )
    return TransformersSampler(given.model, sampling, renderer.decode, recipe.evaluate.batch_size)


def _questions(ready: Ready, prompts: Sequence[Tokens]) -> list[tuple[Tokens, Question]]:
    """Each rendered prompt with the row it comes from."""
    rows = {example.meta: example for example in ready.splits.train}
    return [(tokens, Question(tokens.ids, asked(rows[tokens.meta]))) for tokens in prompts]


def _warn_of_room(session: Session, ready: Ready, questions: Sequence[tuple[Tokens, Any]]) -> None:
    new, context = session.recipe.objective.options.rollout.max_new_tokens, context_of(ready.parts.loaded)
    short = sum(len(tokens.ids) + new > context + 1 for tokens, _ in questions)
    if short:
        session.warn(
            f"{short} of {len(questions)} training prompts leave room for fewer than {new} new tokens in the"
            f" model's context of {context}; their answers may be cut"
        )
