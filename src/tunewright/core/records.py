"""The nouns that data passes through: ``Example`` (what a row says) and ``Tokens`` (what a model reads).

A row of any supported file becomes one of six examples. They are immutable and know no model;
a renderer turns them into ``Tokens`` for one particular model.

    >>> row = Conversation((Message("user", "2+2?"), Message("assistant", "4")), Meta("sums.jsonl", 1))
    >>> row.messages[-1].content
    '4'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    ``weight`` scales the loss of this turn (0 = context only, ``None`` = decided by ``train_on``).
    ``extra`` holds further keys a chat template may read (``tool_calls``, ``name``, ``reasoning_content`` …).
    """

    role: str
    content: str
    weight: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that chat templates read."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True, slots=True)
class Meta:
    """Where an example came from. ``line`` is the 1-based physical line, or the row number of a table.

    ``task`` is what the row is for, in a run that learns several things. ``synthetic`` says how a row that
    no person wrote was made, and marks it as one. ``mixed`` is the file of a row that was mixed in.
    """

    source: str = "<memory>"
    line: int = 0
    id: str | None = None
    group: str | None = None
    task: str | None = None
    synthetic: str | None = None
    mixed: str | None = None

    def where(self) -> str:
        """``file:line``, the form every message uses."""
        return f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat whose assistant turns can be trained on."""

    messages: tuple[Message, ...]
    meta: Meta = Meta()
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, ``chosen`` better than ``rejected``, by ``margin`` where that is known."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    meta: Meta = Meta()
    tools: tuple[dict[str, Any], ...] = ()
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several answers to one prompt, each with a score; a higher score is better, equal scores are a tie."""

    prompt: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], ...]
    scores: tuple[float, ...]
    meta: Meta = Meta()
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question without an answer: answers are sampled and scored by rewards, which may read ``fields``."""

    messages: tuple[Message, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    meta: Meta = Meta()
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text or a chat with a label: a class, several classes, a number, or liked / not liked (KTO)."""

    messages: tuple[Message, ...]
    label: str | float | bool | tuple[str, ...]
    meta: Meta = Meta()


@dataclass(frozen=True, slots=True)
class Text:
    """A document for continued pre-training."""

    text: str
    meta: Meta = Meta()


Example = Conversation | Preference | Ranking | Prompt | Labelled | Text
Kind = Literal["conversation", "preference", "ranking", "prompt", "labelled", "text"]


def kind_of(example: Example) -> Kind:
    """The lower-case name of an example's class, as written in files and messages."""
    return type(example).__name__.lower()  # type: ignore[return-value]


def as_conversation(example: Example) -> Conversation | None:
    """A row to learn to *write*: a conversation as it is, a class label as the answer; else ``None``."""
    if isinstance(example, Conversation):
        return example
    if isinstance(example, Labelled) and isinstance(example.label, str):
        return Conversation((*example.messages, Message("assistant", example.label)), example.meta)
    return None


@dataclass(frozen=True, slots=True)
class Span:
    """``[start, end)`` token positions that belong to one role (``"template"`` for what no message wrote)."""

    role: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """One rendered example, possibly a prefix shared by several ``branches``.

    ``weights[i]`` is the loss weight of *predicting* ``ids[i]`` (0 = context). A branch continues the
    prefix: a preference pair is one prompt with two branches, a group of samples one prompt with many.
    ``extras`` carries per-sequence numbers to the objective (a label, a reference log-probability), and
    ``tracks`` one number per token (an old log-probability, an advantage). Sequences of different ``task``
    never share a micro-batch, and the loss of each task is divided by a count of its own.
    """

    ids: list[int]
    weights: list[float]
    spans: tuple[Span, ...] = ()
    branches: tuple[Tokens, ...] = ()
    extras: dict[str, float] = field(default_factory=dict)
    meta: Meta = Meta()
    tracks: dict[str, list[float]] = field(default_factory=dict)
    task: str = ""

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.weights), f"{len(self.ids)} ids but {len(self.weights)} weights"
        for name, values in self.tracks.items():
            assert len(values) == len(self.ids), f"{len(self.ids)} ids but {len(values)} values of {name!r}"

    @property
    def size(self) -> int:
        """Tokens the model must process, branches included."""
        return len(self.ids) + sum(b.size for b in self.branches)

    def with_branches_marked(self, marks: Iterable[Mapping[str, float]]) -> Tokens:
        """The same with ``marks`` added to the ``extras`` of its branches, one mapping for each."""
        pairs = zip(self.branches, marks, strict=True)
        return replace(self, branches=tuple(replace(b, extras={**b.extras, **mark}) for b, mark in pairs))

    def unrolled(self) -> list[Tokens]:
        """Each branch behind its prefix, as a sequence of its own; the sequence itself without branches."""
        if not self.branches:
            return [self]
        return [
            Tokens(
                [*self.ids, *b.ids],
                [*self.weights, *b.weights],
                (
                    *self.spans,
                    *(Span(s.role, s.start + len(self.ids), s.end + len(self.ids)) for s in b.spans),
                ),
                extras={**self.extras, **b.extras},
                meta=self.meta,
                task=self.task,
            )
            for b in self.branches
        ]

    @property
    def trained(self) -> int:
        """Tokens with a weight, branches included. The first token of a document is never predicted."""
        own = sum(w != 0 for w in self.weights[1:]) if self.ids else 0
        return own + sum(sum(w != 0 for w in b.weights) for b in self.branches)
