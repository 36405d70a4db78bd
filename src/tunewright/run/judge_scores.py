"""Judging a reward model: are its rewards in order, how sure may one be of them, do they only count tokens?

Answers are read to their end, up to the model's context, whatever ``data.max_length`` cuts in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer, Progress
from tunewright.core.names import nearest
from tunewright.core.records import Example, Message, Preference, Ranking, Tokens, kind_of
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.metrics_ranked import Rated, ordered
from tunewright.evaluate.runner import Answers, Question, drawn
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded
from tunewright.run.asking import reader
from tunewright.run.compose import Parts
from tunewright.run.judge_preferences import read_rows, said
from tunewright.run.judges import JudgeKind
from tunewright.run.judging import Settled
from tunewright.run.reference import answer_sums
from tunewright.run.scoring import branch_scores
from tunewright.run.session import Session

ORDER = ("pair_accuracy", "pair_calibration")
LENGTH = ("shorter_accuracy", "length_correlation")
UNCALIBRATED = frozenset({"pair_calibration"})  # says nothing of numbers that never were rewards
CLEARLY = 0.9  # an answer of fewer characters than this share of the other's is clearly the shorter one
FEWEST = 5  # pairs of which an accuracy is worth a line
BIASED = 0.3  # correlation of rewards with length from which the user is warned …
WORSE = 0.1  # … if shorter answers are put in order so much less often than all


@dataclass(frozen=True)
class ScoreJudge:
    """Rows with answers of known order; call it with any reward model that reads the same tokens."""

    questions: Sequence[Question]
    metrics: Sequence[str]
    rows: Sequence[Tokens]
    orders: Sequence[Sequence[float]]
    forward_of: Callable[[Any], ModelForward]
    micro_tokens: int
    observe: Observer

    def __call__(self, model: Any) -> Answers:
        """The rewards that ``model`` gives, shown and measured."""
        begun = time.perf_counter()
        rewards = branch_scores(self.rows, self.forward_of(model), self.micro_tokens, self.told)
        answers = self.answers(rewards, self.metrics)
        answers.seconds = time.perf_counter() - begun
        return answers

    def answers(self, rewards: Sequence[Sequence[float]], metrics: Sequence[str]) -> Answers:
        """Rewards of any source, shown and measured by ``metrics``."""
        rated = [Rated(r, n) for r, n in zip(rewards, self.lengths, strict=True)]
        return Answers(
            texts=[_told(r, order) for r, order in zip(rewards, self.orders, strict=True)],
            notes=["rewards " + ", ".join(f"{x:+.3g}" for x in r) for r in rewards],
            scores={name: METRICS[name].rows(rated, self.orders) for name in metrics},
        )

    @property
    def lengths(self) -> list[list[int]]:
        """Tokens of every answer."""
        return [[len(branch.ids) for branch in tokens.branches] for tokens in self.rows]

    def remarks(self, answers: Answers) -> list[str]:
        """That rewards follow length, where they clearly do."""
        if not {"pair_accuracy", *LENGTH} <= answers.scores.keys():
            return []
        found = {name: METRICS[name].aggregate(rows) for name, rows in answers.scores.items()}
        short = found["shorter_accuracy"]
        if found["length_correlation"] < BIASED or short > found["pair_accuracy"] - WORSE:
            return []
        pairs = answers.scores["shorter_accuracy"][:, 1].sum()
        return [
            "the rewards follow length: the longer of two answers tends to have the higher reward (rank"
            f" correlation of the differences {found['length_correlation']:.2f}), and where the better answer"
            f" is the shorter one, {short:.0%} of {pairs:.0f} pairs are in order, against"
            f" {found['pair_accuracy']:.0%} of all. A policy trained on such rewards learns to write more;"
            " balance the lengths of chosen and rejected answers"
        ]

    def told(self, done: int) -> None:
        """Progress for the eye."""
        self.observe(Progress("answers", done, len(self.rows)))


def suggest(rows: Sequence[Example]) -> tuple[list[str], str]:
    """Order and calibration; and where shorter answers are often enough the better ones, taste for length."""
    reason = "rewards of answers that were compared"
    short = sum(_clearly_shorter(row) for row in rows)
    long = sum(_clearly_shorter(row, reverse=True) for row in rows)
    return [*ORDER, *(LENGTH if min(short, long) >= FEWEST else ())], reason


def make(session: Session, parts: Parts, rows: Sequence[Example], metrics: Sequence[str]) -> ScoreJudge:
    """The judge over ``rows`` (or a seeded draw of them), as the recipe says."""
    recipe = session.recipe
    asked = drawn(rows, recipe.evaluate.rows, recipe.train.seed)
    if len(asked) < len(rows):
        session.note([f"{len(asked)} of {len(rows)} rows are scored, a seeded draw"])
    how = Settled(metrics=metrics, micro_tokens=recipe.train.at_once)
    return of_model(parts.loaded, asked, how, session.observe)


def of_model(loaded: Loaded, rows: Sequence[Example], how: Settled, observe: Observer) -> ScoreJudge:
    """The judge over ``rows``.

    Raises ``ConfigError`` for a metric that does not fit, ``DataError`` for a row in which no answer is
    better than another.
    """
    metrics = list(how.metrics) or suggest(rows)[0]
    for name in metrics:
        if name not in KIND.measures:
            raise ConfigError(
                f"{loaded.ref.name}: metric {name!r} does not suit a reward model."
                f" {nearest(name, KIND.measures)}"
            )
    orders = [scores_of(row) for row in rows]
    dtype = loaded.precision.dtype  # the judge must not hold on to the model
    judge = ScoreJudge(
        questions=[_question(row) for row in rows],
        metrics=metrics,
        rows=read_rows(reader(loaded), rows),
        orders=orders,
        forward_of=lambda model: ModelForward(model, compute=dtype),
        micro_tokens=how.micro_tokens,
        observe=observe,
    )
    if "shorter_accuracy" in metrics and not _any_shorter(judge):
        raise ConfigError(
            "shorter_accuracy: in no pair is the better answer the shorter one; leave it out of"
            " evaluate.metrics"
        )
    return judge


def longer(
    session: Session, parts: Parts, judge: ScoreJudge, train: Sequence[Example]
) -> Callable[[], Answers]:
    """Always the longer answer, in tokens."""
    lengths = [[float(n) for n in row] for row in judge.lengths]
    return partial(judge.answers, lengths, _uncalibrated(judge.metrics))


def likelihood(
    session: Session, parts: Parts, judge: ScoreJudge, train: Sequence[Example]
) -> Callable[[], Answers]:
    """Always the answer that the untouched model finds likelier, per token."""

    def score() -> Answers:
        begun, model = time.perf_counter(), parts.loaded.model
        forward = judge.forward_of(model)
        model.eval()
        with torch.inference_mode():
            sums = answer_sums(judge.rows, forward.logprobs, forward.device, judge.micro_tokens, judge.told)
        sizes = [[sum(branch.weights) for branch in tokens.branches] for tokens in judge.rows]
        means = [[x / n for x, n in zip(*row, strict=True)] for row in zip(sums, sizes, strict=True)]
        answers = judge.answers(means, _uncalibrated(judge.metrics))
        answers.seconds = time.perf_counter() - begun
        return answers

    return score


def scores_of(row: Example) -> tuple[float, ...]:
    """The order of the answers of a row, higher is better; raises ``DataError`` for a row that has none."""
    if isinstance(row, Preference):
        return 1.0, 0.0
    if not isinstance(row, Ranking):
        raise DataError(
            f"{row.meta.where()} is a {kind_of(row)} row; to judge rewards, give pairs of a chosen and a"
            " rejected answer, or answers with scores"
        )
    if not ordered(row.scores):
        raise DataError(f"{row.meta.where()}: no answer is better than another; remove the row")
    return row.scores


def _answers_of(row: Example) -> tuple[tuple[Message, ...], ...]:
    assert isinstance(row, Preference | Ranking)
    return (row.chosen, row.rejected) if isinstance(row, Preference) else row.answers


def _clearly_shorter(row: Example, reverse: bool = False) -> bool:
    """Whether a better answer of the row is clearly the shorter (the longer) one, in characters."""
    sizes = [len(said(turns)) for turns in _answers_of(row)]
    pairs = [(sizes[j], sizes[i]) if reverse else (sizes[i], sizes[j]) for i, j in ordered(scores_of(row))]
    return any(short < CLEARLY * long for short, long in pairs)


def _any_shorter(judge: ScoreJudge) -> bool:
    rows = zip(judge.lengths, judge.orders, strict=True)
    return any(lengths[i] < lengths[j] for lengths, order in rows for i, j in ordered(order))


def _uncalibrated(metrics: Sequence[str]) -> list[str]:
    return [name for name in metrics if name not in UNCALIBRATED]


def _question(row: Example) -> Question:
    assert isinstance(row, Preference | Ranking)
    if isinstance(row, Preference):
        shown = f"Chosen:\n{said(row.chosen)}\n\nRejected:\n{said(row.rejected)}"
        return Question(row.prompt, shown, row, row.tools)
    parts = [
        f"Answer {i} (score {score:g}):\n{said(turns)}"
        for i, (turns, score) in enumerate(zip(row.answers, row.scores, strict=True), 1)
    ]
    return Question(row.prompt, "\n\n".join(parts), row, row.tools)


def _told(rewards: Sequence[float], order: Sequence[float]) -> str:
    """What the report says of the rewards of a row."""
    if tuple(order) == (1.0, 0.0):
        better, worse = rewards
        if better == worse:
            return "finds both answers equally good"
        return f"finds the {'chosen' if better > worse else 'rejected'} answer better"
    places = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    return "from best to worst: answer " + ", ".join(str(i + 1) for i in places)


KIND = JudgeKind(
    suggest,
    make,
    {"longer": longer, "likelihood": likelihood},
    ("longer", "likelihood"),
    measures=frozenset((*ORDER, *LENGTH)),
    of_model=of_model,
)
