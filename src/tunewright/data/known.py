"""Conversations of shapes that came up before, rendered without the template and encoded many at a time.

Most conversations of a data set have one of a few shapes (``forms.py``). From its second conversation on, a
shape is known by its form, and conversations are made by putting contents into it. Where the tokenizer
allows it (``sections.py``), ids are put together as well. What is not known, and every conversation with
tools, extra keys or control strings, is left to the plain path. So is the proof: the first conversations of
each shape and some later ones are made both ways and compared.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from tunewright.core.errors import RenderError
from tunewright.core.records import Conversation, Example, Labelled, Message, Meta, Tokens
from tunewright.data.assemble import assemble, pieces_of
from tunewright.data.controls import Veil
from tunewright.data.encode import Encoder
from tunewright.data.forms import Form, Kind, learnt, made_up
from tunewright.data.roles import fit_roles
from tunewright.data.sections import Plan, Sections
from tunewright.data.template import ChatTemplate
from tunewright.data.turns import Draft, Script, Stage, weights_of

_BLOCK = 4096  # conversations that are encoded at a time
_AHEAD = 2  # blocks that are encoded while an earlier one is put together
_CHECKED = 2  # conversations of each shape that are made both ways at first
_LEARNT = 2  # conversations of a shape after which it is learnt
_EVERY = 8192  # and one in so many afterwards
_SHAPES = 4096  # that are remembered; further ones are rendered plainly
_WORTH_SAYING = 1000  # conversations that are noticeably slow without their forms
PLAIN_NOTE = (
    "the chat template does more with messages than to write them, so each chat is rendered by itself, which"
    " takes longer"
)
DIFFERS_NOTE = (
    "a chat that was put together from known parts differed from its plain rendering, which was used instead;"
    " please report the chat template"
)

Key = tuple[str | float | None, ...]  # role and own weight of each message, one after the other
Plainly = Callable[[Sequence[Example]], list[list[Tokens]]]


@dataclass(slots=True)
class Shape:
    """What is known of conversations with the same key. ``seen`` counts them, ``checked`` those compared."""

    seen: int = 0
    checked: int = 0
    form: Form | None = None
    plan: Plan | None = None


Job = tuple[int, Plan, list[str]]  # the number of a conversation, how to make it, its contents


class Known:
    """Renders conversations of known shapes, exactly as ``plainly`` would."""

    def __init__(
        self, template: ChatTemplate, stage: Stage, encoder: Encoder, train_on: str, plainly: Plainly
    ):
        self._template = template
        self._stage = stage
        self._controls = stage.controls
        self._encoder = encoder
        self._train_on = train_on
        self._plainly = plainly
        self._sections = Sections.of(encoder.backend, stage.controls)
        self._kind: Kind = "whole" if train_on == "all" else "drafts"
        self._shapes: dict[tuple[Kind, Key], Shape] = {}
        self._day = ""
        self._without = 0
        self.notes: list[str] = []

    def rendered(self, examples: Sequence[Example]) -> list[list[Tokens] | None]:
        """The sequences of each conversation in full length; ``None`` for those of the plain path."""
        self._begin()
        with _few_collections():
            return self._run(examples)

    def _run(self, examples: Sequence[Example]) -> list[list[Tokens] | None]:
        run = _Run([None] * len(examples), [None] * len(examples))
        waiting: deque[tuple[list[Job], list[int], Future[Any]]] = deque()
        with ThreadPoolExecutor(1) if len(examples) > _BLOCK else _Here() as pool:
            for start in range(0, len(examples), _BLOCK):
                jobs = self._jobs(examples, range(start, min(start + _BLOCK, len(examples))), run)
                if self._sections and jobs:
                    texts, counts = self._sections.joined(
                        [text for _, plan, contents in jobs for text in plan.sections(contents)]
                    )
                    waiting.append((jobs, counts, pool.submit(self._sections.start, texts)))
                if len(waiting) > _AHEAD:
                    self._finish(*waiting.popleft(), examples, run)
            while waiting:
                self._finish(*waiting.popleft(), examples, run)
        self._fill(examples, run)
        self._compare(examples, run)
        return run.results

    def prompt(self, messages: Sequence[Message]) -> Draft | None:
        """The draft of a prompt without tools, where its shape is known."""
        self._begin()
        shape, contents = self._shape("prompt", messages)
        if shape is None or not shape.form or not shape.form.fits(contents):
            return None
        draft = shape.form.filled(contents)
        if shape.checked < _CHECKED:
            shape.checked += 1
            plain = [{"role": m.role, "content": m.content} for m in messages]
            script = Script(plain, [0.0] * len(plain), [], Veil(self._controls))
            if self._stage.prompt(script) != draft:
                self._forget(shape)
                return None
        return draft

    def _begin(self) -> None:
        """Forms with a date in them are of use only on their day."""
        self._encoder.reset()
        today = date.today().isoformat()
        if today != self._day:
            self._day = today
            dated = [key for key, shape in self._shapes.items() if shape.form and shape.form.needs.day]
            for key in dated:
                del self._shapes[key]

    def _jobs(self, examples: Sequence[Example], rows: range, run: _Run) -> list[Job]:
        """What can be put together from ids; what must be encoded as a whole goes to ``run.whole``."""
        jobs: list[Job] = []
        for row in rows:
            example = examples[row]
            if not isinstance(example, Conversation | Labelled) or (
                isinstance(example, Conversation) and example.tools
            ):
                continue
            shape, contents = self._shape(self._kind, example.messages)
            if shape is None:
                continue
            form = shape.form
            if form is None:
                self._without += 1
                continue
            if not form.fits(contents):
                continue
            run.shapes[row] = shape
            if shape.plan:
                jobs.append((row, shape.plan, contents))
            else:
                run.whole.append((row, form, contents))
        return jobs

    def _shape(self, kind: Kind, messages: Sequence[Message]) -> tuple[Shape | None, list[str]]:
        """The shape of ``messages`` from its second time on, and the contents; none for special ones."""
        key: list[str | float | None] = []
        contents: list[str] = []
        for message in messages:
            if message.extra:
                return None, contents
            key += (message.role, message.weight)
            contents.append(message.content)
        known = (kind, tuple(key))
        shape = self._shapes.get(known)
        if shape is None or shape.seen < _LEARNT:
            if shape is None:
                if len(self._shapes) >= _SHAPES:
                    return None, contents
                shape = self._shapes[known] = Shape()
            shape.seen += 1
            if shape.seen < _LEARNT:
                return None, contents
            self._learn(kind, shape, messages)
        joined = "".join(contents)
        if not self._controls.unmarked(joined) and not all(map(self._controls.spares, contents)):
            return None, contents
        return shape, contents

    def _learn(self, kind: Kind, shape: Shape, messages: Sequence[Message]) -> None:
        try:
            if fit_roles(messages, self._template)[1]:
                return  # roles are changed, which the plain path says
        except RenderError:
            return
        weights = [0.0] * len(messages) if kind == "prompt" else weights_of(messages, self._train_on)
        roles = tuple((m.role, w) for m, w in zip(messages, weights, strict=True))
        shape.form = learnt(self._template, self._stage, kind, roles)
        if shape.form and self._sections and kind != "prompt":
            contents = [made_up(i) for i in range(len(messages))]
            base = float(self._train_on == "all")
            [made] = self._assembled([(shape.form.filled(contents), Meta())], base)
            shape.plan = self._sections.plan(shape.form, made, contents, base)

    def _finish(
        self, jobs: list[Job], counts: list[int], found: Future[Any], examples: Sequence[Example], run: _Run
    ) -> None:
        """Put conversations together from their encoded sections."""
        assert self._sections, "nothing was encoded without sections"
        parts = self._sections.finish(found.result(), counts)
        position = 0
        for row, plan, contents in jobs:
            own = parts[position : position + len(plan.holes)]
            position += len(plan.holes)
            tokens = plan.tokens(own, examples[row].meta)
            if tokens is None:
                run.whole.append((row, plan.form, contents))
            else:
                run.results[row] = [tokens]

    def _fill(self, examples: Sequence[Example], run: _Run) -> None:
        """Make conversations whose text is known, and whose ids are not."""
        drafts = [(form.filled(contents), examples[row].meta) for row, form, contents in run.whole]
        try:
            found = self._assembled(drafts, float(self._train_on == "all"))
        except RenderError:
            return  # the plain path finds it again, and tells which row it is
        for (row, _, _), tokens in zip(run.whole, found, strict=True):
            run.results[row] = [tokens]

    def _assembled(self, drafts: Sequence[tuple[Draft, Meta]], base: float) -> list[Tokens]:
        veil = Veil(self._controls)
        pieces = [pieces_of(draft, veil, self._controls) for draft, _ in drafts]
        encoded = iter(self._encoder.encode([piece for group in pieces for piece in group]))
        return [
            assemble(draft, [next(encoded) for _ in group], base, meta)
            for (draft, meta), group in zip(drafts, pieces, strict=True)
        ]

    def _compare(self, examples: Sequence[Example], run: _Run) -> None:
        """Make some conversations plainly as well. A shape for which that differs is not known any more."""
        wrong = []
        for row, shape in enumerate(run.shapes):
            if shape is None or run.results[row] is None or (shape.checked >= _CHECKED and row % _EVERY):
                continue
            shape.checked += 1
            if shape.form and self._plainly([examples[row]]) != [run.results[row]]:
                self._forget(shape)
                wrong.append(shape)
        if wrong:
            for row, shape in enumerate(run.shapes):
                if any(shape is bad for bad in wrong):
                    run.results[row] = None
        if self._without >= _WORTH_SAYING and PLAIN_NOTE not in self.notes:
            self.notes.append(PLAIN_NOTE)

    def _forget(self, shape: Shape) -> None:
        shape.form = shape.plan = None
        self.notes.append(DIFFERS_NOTE)


@dataclass(slots=True)
class _Run:
    """Conversations in the making: their sequences, their shapes, and those to be encoded as a whole."""

    results: list[list[Tokens] | None]
    shapes: list[Shape | None]
    whole: list[tuple[int, Form, list[str]]] = field(default_factory=list)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Keep Python from searching for garbage while lists are made: there is none, and it reads every id."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Here(AbstractContextManager["_Here"]):
    """Does what a pool of threads does, at once."""

    def submit(self, call: Callable[..., Any], *given: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*given))
        return future

    def __exit__(self, *_: object) -> None:
        return None
