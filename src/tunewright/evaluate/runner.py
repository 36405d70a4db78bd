"""Ask a model the held-out questions and score its answers, row by row.

The prompts are rendered by the renderer that made the training tokens, so what is measured is what was
trained. Rows keep their own score; intervals and paired tests are made from them in ``compare``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tunewright.core.errors import DataError
from tunewright.core.hashing import example_digest, unit_interval
from tunewright.core.records import Conversation, Example, Message, Text, Tokens, as_conversation
from tunewright.data.pack import plan_epoch
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.evaluate.baselines import with_shots
from tunewright.evaluate.metrics import METRICS, Metric
from tunewright.models.generate import AtOnce, Sampling, generate

HEADROOM = 1.25  # answers may be this much longer than the longest reference before they are cut
CEILING = 512  # no answer is given more tokens than this unless the recipe says so


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, the answer the data gives, and the whole row that they come from."""

    prompt: tuple[Message, ...]
    reference: str
    example: Example
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def where(self) -> str:
        """``file:line``."""
        return self.example.meta.where()


@dataclass
class Answers:
    """What one system answered, and its cost. ``scores`` holds each metric's rows, see ``Metric.rows``.

    ``notes`` say something about each answer, where it was chosen rather than written: how sure it is. Where
    rows are of several tasks, ``parts`` has the texts of each task, and ``scores`` still those of all.
    """

    texts: list[str] = field(default_factory=list)
    unfinished: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: dict[str, Answers] = field(default_factory=dict)


def drawn(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most ``limit`` of ``examples``, in their order: a seeded draw by content, wherever a row stands."""
    if limit is None or limit >= len(examples):
        return list(examples)
    chance = [unit_interval(seed, "asked", example_digest(e)) for e in examples]
    taken = sorted(range(len(examples)), key=chance.__getitem__)[:limit]
    return [examples[i] for i in sorted(taken)]


def questions(examples: Sequence[Example]) -> list[Question]:
    """The last assistant turn of each conversation is the reference; documents are only read."""
    found = []
    for example in examples:
        if isinstance(example, Text):
            found.append(Question((), "", example))
            continue
        conversation = as_conversation(example)
        if conversation is None or conversation.messages[-1].role != "assistant":
            raise DataError(f"{example.meta.where()}: no final assistant turn to compare an answer with")
        *before, last = conversation.messages
        found.append(Question(tuple(before), last.content, conversation, conversation.tools))
    return found


@dataclass(frozen=True)
class Evaluator:
    """One set of questions, one set of metrics, one way of asking; call it with any model.

    ``forward_of`` makes a ``Forward`` of a model, for log-probabilities; ``micro_tokens`` bounds its batches.
    Documents are read in pieces of ``piece`` tokens. ``context`` is what the model has room for, in tokens.
    """

    renderer: Renderer
    questions: Sequence[Question]
    metrics: Sequence[str]
    sampling: Sampling
    forward_of: Callable[[Any], Any]
    batch_size: AtOnce = "auto"
    micro_tokens: int = 2048
    piece: int = 2048
    context: int = 2**30
    on_progress: Callable[[int, int], None] | None = None

    def __call__(self, model: Any, shots: Sequence[Conversation] = ()) -> Answers:
        """Answer and score every question; ``shots`` are put before each as earlier turns."""
        begun = time.perf_counter()
        answers = Answers()
        wanted = [METRICS[name] for name in self.metrics]
        if any(m.needs == "text" for m in wanted):
            self._answer(model, shots, answers)
        for metric in wanted:
            answers.scores[metric.name] = self._rows(metric, model, shots, answers)
        answers.seconds = time.perf_counter() - begun
        return answers

    def remarks(self, answers: Answers) -> list[str]:
        """That answers ended only because they had no more room, and what the renderer noted."""
        limit = self.sampling.max_new_tokens
        cut = (
            f"{answers.unfinished} of {len(answers.texts)} answers were cut before they ended"
            f" (evaluate.max_new_tokens is {limit})"
        )
        return [cut] if answers.unfinished else []

    def _answer(self, model: Any, shots: Sequence[Conversation], answers: Answers) -> None:
        prompts = [self.renderer.prompt(with_shots(shots, q.prompt), q.tools) for q in self.questions]
        generated = generate(
            model,
            prompts,
            self.sampling,
            batch_size=self.batch_size,
            decode=self.renderer.decode,
            on_progress=self.on_progress,
        )
        answers.texts = [self.renderer.decode(g.ids) for g in generated]
        answers.unfinished = sum(not g.finished for g in generated)
        answers.new_tokens = sum(len(g.ids) for g in generated)

    def _rows(
        self, metric: Metric, model: Any, shots: Sequence[Conversation], answers: Answers
    ) -> np.ndarray:
        if metric.needs == "text":
            return metric.rows(answers.texts, [q.reference for q in self.questions])
        sequences = [reading(self.renderer, q, self.piece, shots) for q in self.questions]
        nll, tokens = answer_likelihood(self.forward_of(model), sequences, self.micro_tokens).T
        return metric.rows(list(nll), list(tokens))


def reading(
    renderer: Renderer, question: Question, piece: int, shots: Sequence[Conversation] = ()
) -> list[Tokens]:
    """The question with its reference answer, of which only the answer has weight; a document in pieces."""
    if isinstance(question.example, Text):
        return renderer.document_chunks(question.example.text, piece)
    context = [Message(m.role, m.content, 0.0, m.extra) for m in with_shots(shots, question.prompt)]
    assert isinstance(question.example, Conversation), "only conversations have an answer to be read"
    last = Message("assistant", question.reference, 1.0, question.example.messages[-1].extra)
    return renderer.conversation(Conversation((*context, last), question.example.meta, question.tools))


def answer_likelihood(forward: Any, sequences: Sequence[list[Tokens]], micro_tokens: int) -> np.ndarray:
    """Per question: (sum of -log p of its weighted tokens, their number); shape (n, 2)."""
    flat = [(row, tokens) for row, parts in enumerate(sequences) for tokens in parts]
    rows = np.zeros((len(sequences), 2))
    sizes = [tokens.size for _, tokens in flat]
    plan = plan_epoch(sizes, seed=0, epoch=0, tokens_per_step=sum(sizes), micro_tokens=micro_tokens)
    forward.model.eval()
    with torch.inference_mode():
        for pack in (pack for step in plan for pack in step):
            batch = build_batch([flat[i][1] for i in pack], device=forward.device)
            nll = (-forward.logprobs(batch) * batch.targets.weights).cpu().double().numpy()
            owner = np.array([flat[i][0] for i in pack])[batch.targets.segment.cpu().numpy()]
            np.add.at(rows[:, 0], owner, nll)
            np.add.at(rows[:, 1], owner, batch.targets.weights.cpu().double().numpy())
    return rows


def longest_answer(
    renderer: Any, questions: Sequence[Question], context: int, ceiling: int = CEILING
) -> tuple[int, str]:
    """How many tokens an answer may take, and why: a quarter over the longest reference, and room to stop.

    Never more than ``ceiling`` or the model's ``context``; the reason says which of them decided.
    """
    longest = max((len(renderer.plain_ids(q.reference)) for q in questions), default=0)
    return min(
        (int(longest * HEADROOM) + 8, "a quarter over the longest reference"),
        (ceiling, f"the most that auto allows; the longest reference has {longest} tokens"),
        (context, f"the model's context; the longest reference has {longest} tokens"),
        key=lambda choice: choice[0],
    )
