"""Conversations of known shapes, rendered without the template and encoded many at a time.

Most conversations of a data set have one of a few shapes (``shapes.py``). Once a shape is known by its form
(``forms.py``), conversations are made by putting contents into it. Where the tokenizer allows it
(``sections.py``), ids are put together as well. What is not known, and every conversation with tools, extra
keys or control strings, is left to the plain path. So is the proof: the first conversations of each shape and
some later ones are made both ways and compared.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tunewright.core.errors import RenderError
from tunewright.core.records import Conversation, Example, Labelled, Message, Tokens
from tunewright.data.forms import Form, Kind
from tunewright.data.sections import Plan
from tunewright.data.shapes import Shape, Shapes
from tunewright.data.turns import Draft

_BLOCK = 4096  # conversations that are encoded at a time
_AHEAD = 2  # blocks that are encoded while an earlier one is put together
_CHECKED = 2  # conversations of each shape that are made both ways at first
_EVERY = 8192  # and one in so many afterwards
_WORTH_SAYING = 1000  # conversations that are noticeably slow without their forms
PLAIN_NOTE = (
    "the chat template rewrites messages or decides by what they say, so chats are rendered one by one, which"
    " takes longer"
)
DIFFERS_NOTE = (
    "a chat that was put together from known parts differed from its plain rendering, which was used instead;"
    " please report the chat template"
)

Job = tuple[int, Plan, list[str]]  # the number of a conversation, how to make it, its contents
Plainly = Callable[[Sequence[Example]], list[list[Tokens]]]


class Known:
    """Renders conversations of known shapes, exactly as ``plainly`` would."""

    def __init__(self, shapes: Shapes, train_on: str, plainly: Plainly) -> None:
        self._shapes = shapes
        self._plainly = plainly
        self._kind: Kind = "whole" if train_on == "all" else "drafts"
        self._made = 1
        self._without = 0

    @property
    def notes(self) -> list[str]:
        """What the user should be told, each once."""
        return self._shapes.notes

    def rendered(self, examples: Sequence[Example]) -> list[list[Tokens] | None]:
        """The sequences of each conversation in full length; ``None`` for those of the plain path."""
        self._shapes.begin()
        run = _Run([None] * len(examples), [None] * len(examples))
        with _few_collections():
            self._encode(examples, run)
            self._fill(examples, run)
        self._compare(examples, run)
        return run.results

    def prompt(self, messages: Sequence[Message], plainly: Callable[[], Draft]) -> Draft | None:
        """The draft of a prompt without tools, where its shape is known."""
        self._shapes.begin()
        shape, contents = self._shapes.find("prompt", messages)
        if shape is None or not shape.form or not shape.form.fits(contents):
            return None
        draft = shape.form.filled(contents)
        if shape.checked < _CHECKED:
            shape.checked += 1
            plain = plainly()
            if (plain.text, plain.cuts) != (draft.text, draft.cuts):
                self._forget(shape)
                return None
        return draft

    def _encode(self, examples: Sequence[Example], run: _Run) -> None:
        """Make what can be put together from sections, which are encoded a few blocks ahead."""
        waiting: deque[tuple[list[Job], list[int], Future[Any]]] = deque()
        with ThreadPoolExecutor(1) if len(examples) > _BLOCK else _Here() as pool:
            for start in range(0, len(examples), _BLOCK):
                jobs = self._jobs(examples, range(start, min(start + _BLOCK, len(examples))), run)
                if self._shapes.sections and jobs:
                    texts, counts = self._shapes.sections.joined(
                        [text for _, plan, contents in jobs for text in plan.sections(contents)]
                    )
                    waiting.append((jobs, counts, pool.submit(self._shapes.sections.start, texts)))
                if len(waiting) > _AHEAD:
                    self._finish(*waiting.popleft(), examples, run)
            while waiting:
                self._finish(*waiting.popleft(), examples, run)

    def _jobs(self, examples: Sequence[Example], rows: range, run: _Run) -> list[Job]:
        """What can be put together from ids; what must be encoded as a whole goes to ``run.whole``."""
        jobs: list[Job] = []
        for row in rows:
            example = examples[row]
            if not isinstance(example, Conversation | Labelled) or (
                isinstance(example, Conversation) and example.tools
            ):
                continue
            shape, contents = self._shapes.find(self._kind, example.messages)
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

    def _finish(
        self, jobs: list[Job], counts: list[int], found: Future[Any], examples: Sequence[Example], run: _Run
    ) -> None:
        """Put conversations together from their encoded sections."""
        assert self._shapes.sections, "nothing was encoded without sections"
        parts = self._shapes.sections.finish(found.result(), counts)
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
        if not run.whole:
            return
        drafts = [(form.filled(contents), examples[row].meta) for row, form, contents in run.whole]
        try:
            found = self._shapes.assembled(drafts)
        except RenderError:
            return  # the plain path finds it again, and tells which row it is
        for (row, _, _), tokens in zip(run.whole, found, strict=True):
            run.results[row] = [tokens]

    def _compare(self, examples: Sequence[Example], run: _Run) -> None:
        """Make some conversations plainly as well. A shape for which that differs is not known any more."""
        wrong = []
        for row, shape in enumerate(run.shapes):
            self._made += 1
            if shape is None or run.results[row] is None:
                continue
            if shape.checked >= _CHECKED and self._made % _EVERY:
                continue
            shape.checked += 1
            if shape.form and self._plainly([examples[row]]) != [run.results[row]]:
                self._forget(shape)
                wrong.append(shape)
        if wrong:
            for row, shape in enumerate(run.shapes):
                if any(shape is bad for bad in wrong):
                    run.results[row] = None
        if self._without >= _WORTH_SAYING:
            self._shapes.note(PLAIN_NOTE)

    def _forget(self, shape: Shape) -> None:
        shape.form = shape.plan = None
        self._shapes.note(DIFFERS_NOTE)


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
