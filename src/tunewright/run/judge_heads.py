"""What judges of heads share: texts are read, the head scores them, predictions are shown and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer, Progress, Warned
from tunewright.core.names import nearest
from tunewright.core.records import Example, Labelled, Tokens, kind_of
from tunewright.data.render import Renderer
from tunewright.engine.batch import packed
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Question
from tunewright.evaluate.text_baselines import Known
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded
from tunewright.models.score import head_called
from tunewright.objectives.predict import Prediction, predict
from tunewright.run.compose import Parts, context_of
from tunewright.run.judges import Baseline
from tunewright.run.session import Session

Columns = Callable[[Sequence[Prediction], Sequence[Any]], tuple[Sequence[Any], Sequence[Any]] | None]
"""(predictions, what is right) -> what a metric compares, or ``None`` where the predictions cannot say it."""


@dataclass(frozen=True)
class Reading:
    """Which metrics to take, and how texts are read: at most ``longest`` tokens, so many at once."""

    metrics: Sequence[str]
    longest: int
    micro_tokens: int


@dataclass(frozen=True)
class Telling:
    """What one kind of head says: ``text`` shows what is right or predicted, ``note`` how sure it is."""

    right: Callable[[Labelled], Any]
    text: Callable[[Any], str]
    note: Callable[[Prediction], str]
    columns: Mapping[str, Columns]


@dataclass(frozen=True)
class HeadJudge:
    """One set of labelled rows and one set of metrics; call it with any model that has the head ``score``."""

    questions: Sequence[Question]
    metrics: Sequence[str]
    sequences: Sequence[Tokens]
    right: Sequence[Any]
    telling: Telling
    forward_of: Callable[[Any], ModelForward]
    micro_tokens: int
    observe: Observer

    def __call__(self, model: Any) -> Answers:
        """What the head says of each row, scored."""
        begun = time.perf_counter()
        scores = head_scores(self.forward_of(model), self.sequences, self.micro_tokens, self.observe)
        answers = self.answers(predict(scores, head_called(model, "score").facts))
        answers.seconds = time.perf_counter() - begun
        return answers

    def answers(self, predictions: Sequence[Prediction]) -> Answers:
        """Predictions, of a head or of a baseline, shown and scored."""
        found = Answers(
            texts=[self.telling.text(p.value) for p in predictions],
            notes=[self.telling.note(p) for p in predictions],
        )
        for name in self.metrics:
            columns = self.telling.columns[name](predictions, self.right)
            if columns is not None:
                found.scores[name] = METRICS[name].rows(*columns)
        return found

    def remarks(self, answers: Answers) -> list[str]:
        """Metrics that were asked for and could not be taken."""
        missing = [name for name in self.metrics if name not in answers.scores]
        return [f"{', '.join(missing)} could not be measured"] if missing else []


def head_judge(
    loaded: Loaded, rows: Sequence[Example], how: Reading, telling: Telling, observe: Observer
) -> HeadJudge:
    """The judge over ``rows``.

    Raises ``ConfigError`` for a metric that does not fit, ``DataError`` naming the first row that is not a
    labelled text or whose label the head does not know.
    """
    check_metrics(how.metrics, telling.columns, loaded.ref.name)
    labelled = [as_labelled(row) for row in rows]
    right = [telling.right(row) for row in labelled]
    dtype = loaded.precision.dtype  # the judge must not hold on to the model
    return HeadJudge(
        questions=[Question(r.messages, telling.text(x), r) for r, x in zip(labelled, right, strict=True)],
        metrics=list(how.metrics),
        sequences=_read(loaded, labelled, how.longest, observe),
        right=right,
        telling=telling,
        forward_of=lambda model: ModelForward(model, compute=dtype),
        micro_tokens=how.micro_tokens,
        observe=observe,
    )


def head_scores(
    forward: ModelForward, sequences: Sequence[Tokens], micro_tokens: int, observe: Observer
) -> Tensor:
    """The output of the head ``score`` for each sequence, in their order: (n, K) float32 on the CPU."""
    forward.model.eval()
    found: dict[int, Tensor] = {}
    with torch.inference_mode():
        for batch in packed(sequences, micro_tokens, forward.device):
            scores = forward.scores(batch)
            found.update(zip(batch.rows, scores.float().cpu(), strict=True))
            observe(Progress("rows", len(found), len(sequences)))
    if not found:
        raise DataError("no text is left to judge: all are over-long (data.max_length, data.over_long)")
    return torch.stack([found[i] for i in range(len(sequences))])


def scored(session: Session, parts: Parts, sequences: Sequence[Tokens], model: Any) -> Tensor:
    """``head_scores`` within a run, in float64."""
    forward = ModelForward(model, compute=parts.loaded.precision.dtype)
    return head_scores(forward, sequences, session.recipe.train.at_once, session.observe).double()


def as_labelled(example: Example) -> Labelled:
    """The row itself; raises ``DataError`` for one of another kind."""
    if not isinstance(example, Labelled):
        raise DataError(
            f"{example.meta.where()} is a {kind_of(example)} row, but a head judges labelled texts; give rows"
            " with a text and a label, or map the columns"
        )
    return example


def text_of(example: Example) -> str:
    """The words of a labelled row."""
    return "\n".join(message.content for message in as_labelled(example).messages)


def classical(method: Callable[..., list[Prediction]], setting: Callable[[Session, Parts], Any]) -> Baseline:
    """The baseline that learns from the words of the training rows by ``method`` (``text_baselines``).

    ``setting`` is what the method reads beside texts: the labels, the level of intervals.
    """

    def prepared(
        session: Session, parts: Parts, judge: HeadJudge, train: Sequence[Example]
    ) -> Callable[[], Answers]:
        texts = [text_of(q.example) for q in judge.questions]

        def score() -> Answers:
            right = [judge.telling.right(as_labelled(row)) for row in train]
            rows = Known([text_of(row) for row in train], right)
            return judge.answers(method(rows, texts, setting(session, parts)))

        return score

    return prepared


def check_metrics(names: Sequence[str], able: Mapping[str, Any], model: str) -> None:
    """Raise ``ConfigError`` for a metric that the head of ``model`` cannot be measured by."""
    for name in names:
        if name not in able:
            raise ConfigError(
                f"{model}: metric {name!r} does not suit what this head says. {nearest(name, able)}"
            )


def _read(loaded: Loaded, rows: Sequence[Labelled], longest: int, observe: Observer) -> list[Tokens]:
    """Each row as it was read in training; one that is too long is cut, and never left out."""
    limit = min(longest, context_of(loaded))
    renderer, found = Renderer(loaded.tokenizer, max_length=limit), []
    for row in rows:
        ids = renderer.reading(row.messages)
        found.append(Tokens(ids, [0.0] * len(ids), meta=row.meta))
    if cut := sum(len(tokens.ids) > limit for tokens in found):
        observe(Warned(0, f"{cut} of {len(rows)} texts to judge are longer than {limit} tokens and were cut"))
    return [kept for tokens in found for kept in renderer.limited(tokens)]
