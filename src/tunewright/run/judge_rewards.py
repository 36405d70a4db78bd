"""Judging by rewards: the model answers held-out prompts, greedily, and the run's own rewards score them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer
from tunewright.core.names import nearest
from tunewright.core.records import Conversation, Example, Message, Prompt
from tunewright.data.render import Renderer
from tunewright.evaluate.baselines import with_shots
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Question, drawn
from tunewright.models.generate import AtOnce, Sampling
from tunewright.models.load import Loaded
from tunewright.models.save import own_stop_ids
from tunewright.objectives.dialogue import Ask, Dialogue, Environment, shown_to_rewards
from tunewright.objectives.dialogue import Question as Asked
from tunewright.objectives.dialogue import asking as asking_once
from tunewright.objectives.environment import UserEnvironment, make_environment
from tunewright.objectives.policy import asked
from tunewright.objectives.rewards import RewardSet, Scored, reward_specs
from tunewright.objectives.sampler import Sampled, TransformersSampler
from tunewright.run import asking
from tunewright.run.compose import Parts, check_kinds, context_of, objective_of
from tunewright.run.judges import JudgeKind
from tunewright.run.judging import Settled
from tunewright.run.recipe import Recipe
from tunewright.run.rewarding import environment_of, make_all, rewards_of
from tunewright.run.session import Session

REWARD = "reward"


class Talk(NamedTuple):
    """What replies to answers, and how many answers a dialogue may have, as in training."""

    environment: Environment
    max_turns: int


@dataclass(frozen=True)
class RewardJudge:
    """Held-out prompts, how to ask them, and the rewards; call it with any model."""

    renderer: Renderer
    questions: Sequence[Question]
    metrics: Sequence[str]
    rewards: RewardSet
    sampling: Sampling
    batch_size: AtOnce
    context: int
    on_progress: Callable[[int, int], None]
    talk: Talk | None = None

    def __call__(self, model: Any, shots: Sequence[Conversation] = ()) -> Answers:
        """Answer every prompt and score the answers; ``shots`` are put before each as earlier turns."""
        begun = time.perf_counter()
        found = [
            answer for [answer] in self._ask(model)([self._asked(q, shots) for q in self.questions], 1, 0)
        ]
        scored = self._scored(found)
        return Answers(
            [answer.text for answer in found],
            unfinished=sum(not answer.finished for answer in found),
            new_tokens=sum(sum(w != 0 for w in answer.weights) - answer.finished for answer in found),
            scores={name: self._rows(name, scored) for name in self.metrics},
            seconds=time.perf_counter() - begun,
        )

    def remarks(self, answers: Answers) -> list[str]:
        """That answers ended only because they had no more room."""
        cut = (
            f"{answers.unfinished} of {len(answers.texts)} answers were cut before they ended"
            f" (evaluate.max_new_tokens is {self.sampling.max_new_tokens})"
        )
        if self.talk:
            cut = f"{cut}, or a reply left no room in the model's context of {self.context} tokens"
        return [cut] if answers.unfinished else []

    def _ask(self, model: Any) -> Ask:
        """One greedy answer each, or a dialogue of them."""
        sampler = TransformersSampler(
            model, self.sampling, self.renderer.decode, self.batch_size, self.on_progress
        )
        if self.talk is None:
            return asking_once(sampler)
        return Dialogue(sampler, self.renderer, *self.talk, self.context)

    def _asked(self, question: Question, shots: Sequence[Conversation]) -> Asked:
        messages = with_shots(shots, question.prompt)
        prompt = Prompt(tuple(messages), meta=question.example.meta, tools=question.tools)
        return Asked(self.renderer.prompt(messages, question.tools), prompt)

    def _scored(self, answers: Sequence[Sampled]) -> Scored:
        shown = [
            shown_to_rewards(asked(question.example), answer.turns)
            for question, answer in zip(self.questions, answers, strict=True)
        ]
        texts = [answer.text for answer in answers]
        return self.rewards.score([prompt for prompt, _ in shown], texts, [example for _, example in shown])

    def _rows(self, name: str, scored: Scored) -> Any:
        values = scored.total if name == REWARD else scored.parts[name.partition(":")[2]]
        return METRICS[name].rows(values, [q.reference for q in self.questions])


def suggest(rows: Sequence[Example]) -> tuple[list[str], str]:
    """The reward, which is what is learnt."""
    return [REWARD], "answers are sampled and rewarded"


def refine(names: list[str], objective: Any) -> list[str]:
    """Each reward by itself as well, where there are several."""
    parts = [spec.name for spec in reward_specs(objective.options.rewards)]
    return [*names, *(f"{REWARD}:{part}" for part in parts)] if len(parts) > 1 else names


def make(session: Session, parts: Parts, rows: Sequence[Example], metrics: Sequence[str]) -> RewardJudge:
    """The judge over ``rows`` (or a seeded draw of them), with the rewards that training has.

    Raises ``ConfigError`` for a metric that is no reward of this run, and ``DataError`` for a prompt beyond
    the model's context.
    """
    recipe, section = session.recipe, session.recipe.evaluate
    new = recipe.objective.options.rollout.max_new_tokens
    how = Settled(
        metrics=tuple(metrics),
        rows=section.rows,
        max_new_tokens=new if section.max_new_tokens == "auto" else section.max_new_tokens,
        batch_size=section.batch_size,
        seed=recipe.train.seed,
    )
    judge = judge_of(parts.loaded, rewards_of(recipe, parts.objective), rows, how, session.observe)
    return _talking(judge, recipe, environment_of(recipe, parts.objective))


def of_run(
    recipe: Recipe, loaded: Loaded, rows: Sequence[Example], how: Settled, observe: Observer
) -> RewardJudge:
    """The judge of any model by the rewards of a finished run, whose ``recipe`` this is.

    Raises ``ConfigError`` naming the first row that is no question.
    """
    check_kinds(objective_of(recipe), recipe.objective.name, rows)
    rollout = recipe.objective.options.rollout
    how = replace(how, max_new_tokens=how.max_new_tokens or rollout.max_new_tokens)
    environment = make_environment(rollout.environment) if rollout.environment.file else None
    judge = _talking(judge_of(loaded, make_all(recipe), rows, how, observe), recipe, environment)
    weakref.finalize(judge, judge.rewards.close)
    if environment is not None:
        weakref.finalize(judge, environment.close)
    return judge


def _talking(judge: RewardJudge, recipe: Recipe, environment: UserEnvironment | None) -> RewardJudge:
    """``judge`` with the dialogues of the recipe, if it has an ``environment``."""
    turns = recipe.objective.options.rollout.environment.max_turns
    return judge if environment is None else replace(judge, talk=Talk(environment, turns))


def judge_of(
    loaded: Loaded, rewards: RewardSet, rows: Sequence[Example], how: Settled, observe: Observer
) -> RewardJudge:
    """The judge that asks ``rows`` as ``how`` says; see ``make``."""
    assert how.max_new_tokens is not None, "a roll-out has a longest answer"
    metrics = how.metrics or (REWARD,)
    _check_metrics(metrics, [spec.name for spec, _ in rewards.rewards])
    taken = drawn(rows, how.rows, how.seed)
    if len(taken) < len(rows):
        observe(events.Stage("note", f"{len(taken)} of {len(rows)} rows are scored, a seeded draw"))
    renderer, context = asking.reader(loaded), context_of(loaded)
    questions = [question_of(example) for example in taken]
    _check_room(renderer, questions, context)
    stop_ids = renderer.stop_ids | own_stop_ids(loaded.model)
    return RewardJudge(
        renderer,
        questions,
        list(metrics),
        rewards,
        Sampling(max_new_tokens=how.max_new_tokens, stop_ids=stop_ids),
        how.batch_size,
        context,
        lambda done, total: observe(events.Progress("answers", done, total)),
    )


def question_of(example: Example) -> Question:
    """A row as a question; the reference is its answer, where it has one."""
    prompt = asked(example)
    answer = prompt.fields.get("answer")
    reference = answer if isinstance(answer, str) else ""
    return Question(prompt.messages, reference, example, prompt.tools)


def few_shot(
    session: Session, parts: Parts, judge: RewardJudge, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The untouched model with training rows as examples in the prompt, where they have answers."""
    recipe = session.recipe
    answered = [_answered(example) for example in train]
    shots = asking.fitting_shots(
        judge,  # type: ignore[arg-type]
        [row for row in answered if row is not None],
        recipe.evaluate.shots,
        recipe.train.seed,
        session.warn,
    )
    return partial(judge, parts.loaded.model, shots)


def zero_shot(
    session: Session, parts: Parts, judge: RewardJudge, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The untouched model, asked as it is."""
    return partial(judge, parts.loaded.model)


def _answered(example: Example) -> Conversation | None:
    """A row with its reference answer as a conversation, or ``None`` where there is none."""
    if not isinstance(example, Prompt):
        return example if isinstance(example, Conversation) else None
    answer = example.fields.get("answer")
    if not isinstance(answer, str):
        return None
    return Conversation((*example.messages, Message("assistant", answer)), example.meta, example.tools)


def _check_metrics(metrics: Sequence[str], parts: Sequence[str]) -> None:
    known = [REWARD, *(f"{REWARD}:{part}" for part in parts)]
    for name in metrics:
        if name not in known:
            raise ConfigError(
                f"evaluate.metrics: {name!r} is no reward of this run, and a policy is judged by its rewards."
                f" {nearest(name, known)}"
            )


def _check_room(renderer: Renderer, questions: Sequence[Question], context: int) -> None:
    for question in questions:
        size = len(renderer.prompt(question.prompt, question.tools))
        if size > context:
            raise DataError(
                f"{question.where}: the prompt takes {size} tokens, but the model has room for {context};"
                " shorten or remove the row"
            )


KIND = JudgeKind(suggest, make, {"zero_shot": zero_shot, "few_shot": few_shot}, ("zero_shot",), refine=refine)
