"""Judging a model by answers that people judged: how likely are chosen and rejected, liked and disliked ones?

Answers are read to their end, up to the model's context, whatever ``data.max_length`` cuts in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer, Progress
from tunewright.core.names import nearest
from tunewright.core.paths import RunDir
from tunewright.core.records import Example, Labelled, Message, Preference, Ranking, Tokens, kind_of
from tunewright.data.render import Renderer
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.metrics_pairs import Likelihood, Pair
from tunewright.evaluate.runner import Answers, Question, drawn
from tunewright.models.added import without_adapter
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded, load
from tunewright.run.asking import reader
from tunewright.run.compose import Parts
from tunewright.run.judges import JudgeKind
from tunewright.run.judging import Settled
from tunewright.run.reference import Sums, answer_sums
from tunewright.run.resolve import read_recipe
from tunewright.run.session import Session

PAIRED = ("prefers_chosen", "reward_margin", "reward_accuracy", "perplexity")
SINGLE = ("liked_auc", "liked_margin", "reward_auc")
MOVED = frozenset({"reward_margin", "reward_accuracy", "liked_margin", "reward_auc"})  # since before training
Base = Callable[[Any], AbstractContextManager[Any]]
"""A trained model -> the same before training, for the time of the context."""


@dataclass(frozen=True)
class PreferenceJudge:
    """Pairs, or liked and disliked answers; call it with any model that reads the same tokens.

    ``base`` gives the untouched model, which is read once; ``untouched`` keeps what it said. Without a
    ``base`` it is not measured how far a model has moved.
    """

    questions: Sequence[Question]
    metrics: Sequence[str]
    rows: Sequence[Tokens]
    forward_of: Callable[[Any], ModelForward]
    base: Base | None
    micro_tokens: int
    observe: Observer
    untouched: Sums = field(default_factory=list)

    def __call__(self, model: Any) -> Answers:
        """What a trained model makes of every row, measured against the untouched one."""
        begun = time.perf_counter()
        sums = self._read(model)
        if self.base is None:
            return self._answers(sums, sums, begun)
        if not self.untouched:
            with self.base(model) as before:
                self.untouched.extend(self._read(before))
        return self._answers(sums, self.untouched, begun)

    def before(self, model: Any) -> Answers:
        """The same for the untouched model itself."""
        begun = time.perf_counter()
        self.untouched[:] = self._read(model)
        return self._answers(self.untouched, self.untouched, begun)

    def remarks(self, answers: Answers) -> list[str]:
        """Metrics that were asked for and could not be taken."""
        missing = [name for name in self.metrics if name not in answers.scores]
        if not missing:
            return []
        return [
            f"{', '.join(missing)} could not be measured: it is not known what this model was trained from"
        ]

    def tokens_read(self) -> list[int]:
        """Tokens of each answer that a metric per token is about; empty if there is no such metric."""
        return [t.branches[0].trained for t in self.rows] if "perplexity" in self.metrics else []

    def _read(self, model: Any) -> Sums:
        """log p of every answer, summed over its tokens."""
        forward, total = self.forward_of(model), len(self.rows)
        model.eval()
        with torch.inference_mode():
            return answer_sums(
                self.rows,
                forward.logprobs,
                forward.device,
                self.micro_tokens,
                lambda done: self.observe(Progress("answers", done, total)),
            )

    def _answers(self, sums: Sums, untouched: Sums, begun: float) -> Answers:
        seen = [_likelihoods(*row) for row in zip(self.rows, sums, untouched, strict=True)]
        paired = len(seen[0]) > 1
        found: list[Any] = [Pair(*row) for row in seen] if paired else [row[0] for row in seen]
        right: list[Any] = [getattr(q.example, "label", q.reference) for q in self.questions]
        scores = {}
        for name in self.metrics:
            if self.base is None and name in MOVED:
                continue
            wanted = (found, right)
            if name == "perplexity":
                wanted = [-p.chosen.logp for p in found], [p.chosen.tokens for p in found]
            scores[name] = METRICS[name].rows(*wanted)
        return Answers(
            texts=[_told(row) for row in found],
            notes=[] if self.base is None else [_margin(row) for row in found],
            scores=scores,
            seconds=time.perf_counter() - begun,
        )


def suggest(rows: Sequence[Example]) -> tuple[list[str], str]:
    """Whether the model finds chosen answers likelier, and how far it has moved towards them."""
    if all(isinstance(row, Preference) for row in rows):
        return list(PAIRED), "one of two answers is preferred"
    return list(SINGLE), "answers are liked or not"


def make(session: Session, parts: Parts, rows: Sequence[Example], metrics: Sequence[str]) -> PreferenceJudge:
    """The judge over ``rows`` (or a seeded draw of them), against the model before training."""
    recipe = session.recipe
    asked = drawn(rows, recipe.evaluate.rows, recipe.train.seed)
    if len(asked) < len(rows):
        session.note([f"{len(asked)} of {len(rows)} rows are scored, a seeded draw"])
    how = Settled(metrics=metrics, micro_tokens=recipe.train.at_once)
    return _judge(parts.loaded, asked, how, session.observe, _base_in(session, parts))


def of_model(loaded: Loaded, rows: Sequence[Example], how: Settled, observe: Observer) -> PreferenceJudge:
    """The judge of a model that was saved, against what it was trained from, where that is known."""
    base = _base_of(loaded, how)
    metrics = list(how.metrics) or [m for m in suggest(rows)[0] if base is not None or m not in MOVED]
    return _judge(loaded, rows, replace(how, metrics=metrics), observe, base)


def zero_shot(
    session: Session, parts: Parts, judge: PreferenceJudge, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The untouched model."""
    return partial(judge.before, parts.loaded.model)


def read_rows(renderer: Renderer, rows: Sequence[Example]) -> list[Tokens]:
    """Each row as a prompt with its answers as branches; raises ``DataError`` for one beyond the context."""
    found = []
    for row in rows:
        tokens = renderer.branches(row)
        if not tokens:
            raise DataError(
                f"{row.meta.where()}: the model has room for {renderer.max_length} tokens, and within these"
                " the answers of this row are empty or the same; shorten or remove the row"
            )
        found += tokens
    return found


def _judge(
    loaded: Loaded, rows: Sequence[Example], how: Settled, observe: Observer, base: Base | None
) -> PreferenceJudge:
    """The judge over ``rows``.

    Raises ``ConfigError`` for a metric that does not fit, ``DataError`` for rows of the wrong or mixed kinds
    and for single answers that are all liked, or all disliked.
    """
    checked = [_checked(row) for row in rows]
    odd = next((row for row in checked if type(row) is not type(checked[0])), None)
    if odd is not None:
        raise DataError(
            f"{odd.meta.where()} is a {kind_of(odd)} row among {kind_of(checked[0])} rows; judge them apart"
        )
    known = PAIRED if isinstance(checked[0], Preference) else SINGLE
    for name in how.metrics:
        if name not in known:
            raise ConfigError(
                f"metric {name!r} does not suit {kind_of(checked[0])} rows. {nearest(name, known)}"
            )
    _check_both_sides(checked)
    dtype = loaded.precision.dtype  # the judge must not hold on to the model
    return PreferenceJudge(
        questions=[_question(row) for row in checked],
        metrics=list(how.metrics),
        rows=read_rows(reader(loaded), checked),
        forward_of=lambda model: ModelForward(model, compute=dtype),
        base=base,
        micro_tokens=how.micro_tokens,
        observe=observe,
    )


def _base_in(session: Session, parts: Parts) -> Base:
    """The model before training: its adapter switched off, or loaded again where the weights are new."""
    if "reference" in parts.adapter.provides:
        return partial(_off, parts.adapter.disabled)
    section = session.recipe.model
    how = Settled(device=section.device, dtype=section.dtype, weights=parts.adapter.weights)
    return _loading(section.name, how)


def _base_of(loaded: Loaded, how: Settled) -> Base | None:
    """What a saved model was trained from: its adapter's base, or what the recipe of its run names."""
    if loaded.ref.adapter is not None:
        return partial(_off, without_adapter)
    run = RunDir(Path(loaded.ref.name))
    return _loading(read_recipe(run).recipe.model.name, how) if run.recipe.exists() else None


@contextmanager
def _off(disabled: Callable[[Any], AbstractContextManager[Any]], model: Any) -> Iterator[Any]:
    with disabled(model):
        yield model


def _loading(name: str, how: Settled) -> Base:
    return lambda model: nullcontext(
        load(name, device=how.device, dtype=how.dtype, weights=how.weights).model
    )


def judges_answers(row: Example) -> bool:
    """Whether a row says which answer is better, or whether one is liked."""
    if isinstance(row, Labelled):
        return isinstance(row.label, bool)
    return isinstance(row, Preference | Ranking)


def _checked(row: Example) -> Preference | Labelled:
    """Raises ``DataError`` for a row of which the two answers cannot be compared."""
    if isinstance(row, Preference) or (isinstance(row, Labelled) and isinstance(row.label, bool)):
        return row
    raise DataError(
        f"{row.meta.where()} is a {kind_of(row)} row; to judge preferences, give pairs of a chosen and a"
        " rejected answer, or answers that are liked or not"
    )


def _check_both_sides(rows: Sequence[Preference | Labelled]) -> None:
    """Every metric of single answers compares the two sorts, so with one of them it has no value."""
    sides = {row.label for row in rows if isinstance(row, Labelled)}
    if len(sides) == 1:
        one, other = ("liked", "disliked") if sides == {True} else ("disliked", "liked")
        raise DataError(
            f"all {len(rows)} answers to judge are {one} (the first at {rows[0].meta.where()}), and"
            f" {', '.join(SINGLE)} compare liked with disliked ones; add {other} answers, or hold more rows"
            " out (data.split, evaluate.rows)"
        )


def _question(row: Preference | Labelled) -> Question:
    if isinstance(row, Preference):
        shown = f"Chosen:\n{said(row.chosen)}\n\nRejected:\n{said(row.rejected)}"
        return Question(row.prompt, shown, row, row.tools)
    shown = f"{'Liked' if row.label else 'Disliked'}:\n{said(row.messages[-1:])}"
    return Question(row.messages[:-1], shown, row)


def said(turns: Sequence[Message]) -> str:
    """The text of an answer."""
    return "\n\n".join(turn.content for turn in turns)


def _likelihoods(tokens: Tokens, sums: Sequence[float], untouched: Sequence[float]) -> list[Likelihood]:
    """One entry per answer."""
    sizes = [sum(branch.weights) for branch in tokens.branches]
    return [Likelihood(*row) for row in zip(sums, untouched, sizes, strict=True)]


def _told(row: Pair | Likelihood) -> str:
    """What the report says that the model thinks of a row."""
    if isinstance(row, Likelihood):
        return f"log-likelihood per token {row.per_token:.3f}"
    chosen, rejected = row.chosen.per_token, row.rejected.per_token
    verb = "prefers the chosen answer" if chosen > rejected else "prefers the rejected answer"
    if chosen == rejected:
        verb = "finds both equally likely"
    return f"{verb}: log-likelihood per token {chosen:.3f} (chosen), {rejected:.3f} (rejected)"


def _margin(row: Pair | Likelihood) -> str:
    """How far the model has moved."""
    if isinstance(row, Likelihood):
        return f"reward {row.gain:+.2f} nats"
    return f"reward margin {row.margin:+.2f} nats"


KIND = JudgeKind(
    suggest,
    make,
    {"zero_shot": zero_shot},
    ("zero_shot",),
    measures=frozenset((*PAIRED, *SINGLE)),
    of_model=of_model,
)
