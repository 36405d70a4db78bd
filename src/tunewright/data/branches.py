"""A prompt and the answers to it as one ``Tokens``: the prompt once, each answer a branch.

Every answer is rendered as the end of a conversation, by the same code as all conversations, and what follows
the ids of the prompt is its branch. So answers are judged on exactly what a model would read and write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunewright.core.errors import RenderError
from tunewright.core.records import (
    Conversation,
    Example,
    Labelled,
    Message,
    Meta,
    Preference,
    Ranking,
    Span,
    Tokens,
    kind_of,
)
from tunewright.data.turns import weights_of


@dataclass(frozen=True, slots=True)
class Choices:
    """Answers to one prompt, with one number each: equal answers must not have different ``scores``.

    An answer whose score is NaN is *spare*: it is not judged but stands beside the others. It may equal one
    of them, and a limit on length shortens it before it concerns them.
    """

    prompt: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], ...]
    scores: tuple[float, ...]
    meta: Meta
    tools: tuple[dict[str, object], ...] = ()

    @property
    def spare(self) -> list[bool]:
        """Which answers are spare."""
        return [math.isnan(score) for score in self.scores]

    def chats(self, train_on: str) -> list[Conversation]:
        """One conversation per answer, in which only assistant turns of the answer have a loss weight.

        ``train_on`` counts within the answer, and a weight of a message's own wins there. Raises
        ``RenderError`` for an answer that nothing could be learnt from.
        """
        context = [replace(m, weight=0.0) for m in self.prompt]
        return [
            Conversation((*context, *_weighted(answer, i, train_on)), self.meta, self.tools)
            for i, answer in enumerate(self.answers, 1)
        ]


def choices_of(example: Example) -> Choices:
    """The answers that an example judges.

    A liked or disliked chat is a choice of one answer, its last turn. Raises ``RenderError`` for a row that
    judges no answer.
    """
    if isinstance(example, Preference):
        answers = (example.chosen, example.rejected)
        return Choices(example.prompt, answers, (1.0, 0.0), example.meta, example.tools)
    if isinstance(example, Ranking):
        return Choices(example.prompt, example.answers, example.scores, example.meta, example.tools)
    if isinstance(example, Labelled) and isinstance(example.label, bool):
        if not example.messages or example.messages[-1].role != "assistant":
            raise RenderError("liked or not is said of an answer, but the last turn is not the assistant's")
        return Choices(example.messages[:-1], (example.messages[-1:],), (float(example.label),), example.meta)
    raise RenderError(
        f"a {kind_of(example)} row{' with this label' * isinstance(example, Labelled)} judges no answer; give"
        " a preference, a ranking, or a chat with the label true or false"
    )


def grown(prompt: list[int], rendered: Sequence[Sequence[Tokens]], choices: Choices) -> Tokens:
    """``prompt`` (n,) with one branch per answer; ``rendered`` are the sequences of each of its chats.

    Raises ``RenderError`` where the template rewrites what an answer follows, and for two answers that read
    the same although one is said to be better.
    """
    if not rendered:
        raise RenderError("a prompt without answers; give at least one, or remove the row")
    branches = tuple(_branch(prompt, found, i, choices) for i, found in enumerate(rendered))
    _refuse_contradiction(branches, choices.scores)
    spans = tuple(span for span in rendered[0][0].spans if span.end <= len(prompt))
    return Tokens(prompt, [0.0] * len(prompt), spans, branches, meta=choices.meta)


def _weighted(answer: Sequence[Message], number: int, train_on: str) -> list[Message]:
    """The answer with weights on assistant turns only."""
    if train_on == "all":
        raise RenderError(
            "an answer is judged by what the assistant writes, so train_on 'all' means nothing here; set it"
            " to assistant, last or message"
        )
    if not answer or answer[0].role != "assistant":
        begin = f"begins with a {answer[0].role} turn" if answer else "has no turns"
        raise RenderError(f"answer {number} {begin}; it must begin with an assistant turn")
    weights = weights_of(answer, train_on)
    weighted = [
        replace(m, weight=weight if m.role == "assistant" else 0.0)
        for m, weight in zip(answer, weights, strict=True)
    ]
    if not any(m.weight for m in weighted):
        raise RenderError(f"answer {number} has nothing to learn; give its assistant turns a weight")
    return weighted


def _branch(prompt: list[int], found: Sequence[Tokens], index: int, choices: Choices) -> Tokens:
    size = len(prompt)
    if len(found) != 1 or found[0].ids[:size] != prompt:
        assert len(choices.answers[index]) > 1, "the ids of a single answer do not begin with its prompt"
        raise RenderError(
            f"the chat template rewrites earlier turns, so answer {index + 1} does not continue its prompt as"
            " one sequence; let the prompt end before the last assistant turn"
        )
    ids, weights = found[0].ids[size:], found[0].weights[size:]
    assert any(weights), "a turn with a weight gave no token"
    spans = tuple(Span(s.role, s.start - size, s.end - size) for s in found[0].spans if s.start >= size)
    return Tokens(ids, weights, spans, meta=choices.meta)


def _refuse_contradiction(branches: Sequence[Tokens], scores: Sequence[float]) -> None:
    first: dict[tuple[int, ...], int] = {}
    for i, branch in enumerate(branches):
        if math.isnan(scores[i]):
            continue
        twin = first.setdefault(tuple(branch.ids), i)
        if scores[twin] != scores[i]:
            raise RenderError(
                f"answers {twin + 1} and {i + 1} read the same in the chat template, yet one is said to be"
                " better; remove the row"
            )
