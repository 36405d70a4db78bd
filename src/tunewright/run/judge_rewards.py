"""Judging by rewards: the model answers held-out prompts, greedily, and the run's own rewards score them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer
from tunewright.core.names import nearest
from tunewright.core.records import Conversation, Example, Message, Prompt
from tunewright.data.render import Renderer
from tunewright.evaluate.baselines import with_shots
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Question, drawn
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import Loaded
from tunewright.models.save import own_stop_ids
from tunewright.objectives.dialogue import shown_to_rewards
from tunewright.objectives.policy import asked
from tunewright.objectives.rewards import RewardSet, Scored, reward_specs
from tunewright.run import asking
from tunewright.run.compose import Parts, context_of
from tunewright.run.judges import JudgeKind
from tunewright.run.judging import Settled
from tunewright.run.recipe import Recipe
from tunewright.run.rewarding import make_all, rewards_of
from tunewright.run.session import Session

REWARD = "reward"


@dataclass(frozen=True)
class RewardJudge:
    """Held-out prompts, how to ask them, and the rewards; call it with any model."""

    renderer: Renderer
    questions: Sequence[Question]
    metrics: Sequence[str]
    rewards: RewardSet
    sampling: Sampling
    batch_size: int
    context: int
    on_progress: Callable[[int, int], None]

    def __call__(self, model: Any, shots: Sequence[Conversation] = ()) -> Answers:
        """Answer every prompt and score the answers; ``shots`` are put before each as earlier turns."""
        begun = time.perf_counter()
        found = generate(
            model,
            [self.renderer.prompt(with_shots(shots, q.prompt), q.tools) for q in self.questions],
            self.sampling,
            batch_size=self.batch_size,
            on_progress=self.on_progress,
        )
        texts = [self.renderer.decode(generated.ids) for generated in found]
        return Answers(
            texts,
            unfinished=sum(not generated.finished for generated in found),
            new_tokens=sum(len(generated.ids) for generated in found),
            scores={
                name: self._rows(name, scored) for scored in [self._scored(texts)] for name in self.metrics
            },
            seconds=time.perf_counter() - begun,
        )

    def remarks(self, answers: Answers) -> list[str]:
        """That answers ended only because they had no more room."""
        cut = (
            f"{answers.unfinished} of {len(answers.texts)} answers were cut before they ended"
            f" (evaluate.max_new_tokens is {self.sampling.max_new_tokens})"
        )
        return [cut] if answers.unfinished else []

    def _scored(self, texts: Sequence[str]) -> Scored:
        shown = [shown_to_rewards(asked(q.example)) for q in self.questions]
        return self.rewards.score([p for p, _ in shown], texts, [example for _, example in shown])

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
    return judge_of(parts.loaded, rewards_of(recipe, parts.objective), rows, how, session.observe)


def of_run(
    recipe: Recipe, loaded: Loaded, rows: Sequence[Example], how: Settled, observe: Observer
) -> RewardJudge:
    """The judge of any model by the rewards of a finished run, whose ``recipe`` this is."""
    new = how.max_new_tokens or recipe.objective.options.rollout.max_new_tokens
    judge = judge_of(loaded, make_all(recipe), rows, replace(how, max_new_tokens=new), observe)
    weakref.finalize(judge, judge.rewards.close)
    return judge


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
