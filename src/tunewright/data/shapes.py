"""Shapes of conversations that came up before, and what was learnt of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from tunewright.core.errors import RenderError
from tunewright.core.records import Message, Meta, Tokens
from tunewright.data.assemble import assemble, pieces_of
from tunewright.data.controls import Veil
from tunewright.data.encode import Encoder
from tunewright.data.forms import Form, Kind, learnt, made_up
from tunewright.data.roles import fit_roles
from tunewright.data.sections import Plan, Sections
from tunewright.data.template import ChatTemplate
from tunewright.data.turns import Draft, Stage, weights_of
from tunewright.data.watched import Looked, WatchedTemplate

_LEARNT = 3  # conversations of a shape after which it is learnt, which costs about as much as two
_MOST = 4096  # shapes that are remembered; conversations of further ones are rendered plainly

Key = tuple[str | float | None, ...]  # role and own weight of each message, one after the other


@dataclass(slots=True)
class Shape:
    """What is known of conversations with the same roles and weights: nothing, a ``form``, or a ``plan`` too.

    ``seen`` counts them until they are learnt, ``checked`` those that were also made plainly.
    """

    seen: int = 0
    checked: int = 0
    form: Form | None = None
    plan: Plan | None = None


class Shapes:
    """Finds what is known of a conversation; learns it when its shape comes up again and again."""

    def __init__(self, template: ChatTemplate, stage: Stage, encoder: Encoder, train_on: str) -> None:
        self.sections = Sections.of(encoder.backend, stage.controls)
        self.notes: list[str] = []
        self._template = template
        self._stage = stage
        self._controls = stage.controls
        self._encoder = encoder
        self._train_on = train_on
        self._base = float(train_on == "all")
        kept = {"system": template.keeps_system, "developer": template.keeps_developer}
        self._changed = {role for role, keeps in kept.items() if not keeps}
        self._shapes: dict[tuple[Kind, Key], Shape] = {}
        self._day = ""
        self._watched: WatchedTemplate | None = None
        with suppress(Looked):  # without it, no shape is ever learnt
            self._watched = WatchedTemplate(template.plain_source, template.variables)

    def begin(self) -> None:
        """Make the tokenizer ready, and forget forms with a date of another day."""
        self._encoder.reset()
        today = date.today().isoformat()
        if today != self._day:
            self._day = today
            dated = [key for key, shape in self._shapes.items() if shape.form and shape.form.needs.day]
            for key in dated:
                del self._shapes[key]

    def find(self, kind: Kind, messages: Sequence[Message]) -> tuple[Shape | None, list[str]]:
        """The shape of ``messages`` and their contents; no shape for what only the plain path can render."""
        key: list[str | float | None] = []
        contents: list[str] = []
        for message in messages:
            if message.extra:
                return None, contents
            if message.role in self._changed:
                return self._find_fitted(kind, messages)
            key += (message.role, message.weight)
            contents.append(message.content)
        known = (kind, tuple(key))
        shape = self._shapes.get(known)
        if shape is None or shape.seen < _LEARNT:
            shape = self._seen(known, messages)
        if not self._controls.unmarked("".join(contents)) and not all(map(self._controls.spares, contents)):
            return None, contents
        return shape, contents

    def assembled(self, drafts: Sequence[tuple[Draft, Meta]]) -> list[Tokens]:
        """The sequences of drafts that hold no covered text. Raises ``RenderError`` as the encoder does."""
        veil = Veil(self._controls)
        pieces = [pieces_of(draft, veil, self._controls) for draft, _ in drafts]
        encoded = iter(self._encoder.encode([piece for group in pieces for piece in group]))
        return [
            assemble(draft, [next(encoded) for _ in group], self._base, meta)
            for (draft, meta), group in zip(drafts, pieces, strict=True)
        ]

    def note(self, text: str) -> None:
        """Say ``text`` once."""
        if text not in self.notes:
            self.notes.append(text)

    def _find_fitted(self, kind: Kind, messages: Sequence[Message]) -> tuple[Shape | None, list[str]]:
        """As ``find``, of messages with roles that the template does not know."""
        try:
            fitted, notes = fit_roles(messages, self._template)
        except RenderError:
            return None, []
        if not notes or any(m.role in self._changed for m in fitted):
            return None, []
        for note in notes:
            self.note(note)
        return self.find(kind, fitted)

    def _seen(self, known: tuple[Kind, Key], messages: Sequence[Message]) -> Shape | None:
        """Count a conversation of a shape that is not learnt; learn it if it is time."""
        shape = self._shapes.get(known)
        if shape is None:
            if len(self._shapes) >= _MOST:
                return None
            shape = self._shapes[known] = Shape()
        shape.seen += 1
        if shape.seen < _LEARNT:
            return None
        if self._watched:
            self._learn(known[0], self._watched, shape, messages)
        return shape

    def _learn(self, kind: Kind, watched: WatchedTemplate, shape: Shape, messages: Sequence[Message]) -> None:
        try:
            fit_roles(messages, self._template)
        except RenderError:
            return  # the plain path tells it with file and line
        weights = [0.0] * len(messages) if kind == "prompt" else weights_of(messages, self._train_on)
        written = tuple((m.role, w) for m, w in zip(messages, weights, strict=True))
        shape.form = learnt(self._template, watched, self._stage, kind, written)
        if shape.form and self.sections and kind != "prompt":
            contents = [made_up(i) for i in range(len(messages))]
            [made] = self.assembled([(shape.form.filled(contents), Meta())])
            shape.plan = self.sections.plan(shape.form, made, contents, self._base)
