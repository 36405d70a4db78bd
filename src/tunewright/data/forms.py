"""The text that a template makes of all conversations of one shape, learnt from a single rendering.

A *shape* is the roles and loss weights of a conversation without tools or extra keys. A ``Form`` is its
draft with a gap for each content. It is learnt by running the plain path (``turns.Stage``) once on made-up
contents, with the template watched (``watched.py``), and it is given up as ``None`` wherever the draft could
depend on the contents in any way but by holding them: the plain path then renders each conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from tunewright.core.errors import RenderError
from tunewright.data.controls import Controls, Veil
from tunewright.data.template import ChatTemplate
from tunewright.data.turns import Draft, Script, Stage, Turn
from tunewright.data.watched import Looked, Needs, WatchedTemplate

Kind = Literal["drafts", "whole", "prompt"]  # which method of ``Stage`` makes the draft
Shape = tuple[tuple[str, float], ...]  # role and loss weight of each message


@dataclass(frozen=True, slots=True)
class Gap:
    """Characters ``[start, end)`` of the learnt text where the content of message ``index`` stands."""

    start: int
    end: int
    index: int


@dataclass(frozen=True, slots=True)
class Form:
    """The learnt ``draft``, the ``gaps`` in it from left to right, and what contents ``needs`` promise."""

    draft: Draft
    gaps: tuple[Gap, ...]
    needs: Needs

    def fits(self, contents: Sequence[str]) -> bool:
        """Whether contents without control strings are of the class that this form is for."""
        for content in contents:
            bare = content.strip()
            if not bare or (self.needs.stripped and len(bare) < len(content)):
                return False
        return not any(wanted in content for wanted in self.needs.absent for content in contents)

    def filled(self, contents: Sequence[str]) -> Draft:
        """The draft of a conversation with these contents."""
        text, parts, position = self.draft.text, [], 0
        for gap in self.gaps:
            parts += [text[position : gap.start], contents[gap.index]]
            position = gap.end
        grown = [(gap.end, len(contents[gap.index]) - (gap.end - gap.start)) for gap in self.gaps]

        def moved(character: int) -> int:
            return character + sum(more for end, more in grown if end <= character)

        cuts = [moved(cut) for cut in self.draft.cuts]
        stretches = [s._replace(start=moved(s.start), end=moved(s.end)) for s in self.draft.stretches]
        return Draft("".join([*parts, text[position:]]), cuts, stretches)


def learnt(template: ChatTemplate, stage: Stage, kind: Kind, shape: Shape) -> Form | None:
    """The form of ``shape``, or ``None`` if there is none."""
    contents = [made_up(i) for i in range(len(shape))]
    try:
        watched = _Watching(template)
        draft = _Strict(watched, stage.controls, stage.ending).draft(kind, _script(shape, contents, stage))
        gaps = _gaps(draft, contents, stage.controls)
        _check_places(draft, gaps, shape, template.leads)
    except (Looked, RenderError):
        return None
    return Form(draft, gaps, watched.needs)


def made_up(index: int) -> str:
    """A content that no template holds, and that shows if it is quoted, escaped or changed in its case."""
    return f"q{index}\"'\\&\n {{}} é\tZz{index}w"


def _script(shape: Shape, contents: Sequence[str], stage: Stage) -> Script:
    veil = Veil(stage.controls)
    messages = [{"role": role, "content": text} for (role, _), text in zip(shape, contents, strict=True)]
    if veil.cover(contents) != contents:
        raise Looked("a made-up content holds a control string")
    return Script(messages, [weight for _, weight in shape], [], veil)


class _Watching:
    """A template that is held against a watched copy of it at every rendering."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._watched = WatchedTemplate(template.plain_source, template.variables)
        self.leads = template.leads
        self.needs = self._watched.needs

    def render(self, messages: Any, tools: Sequence[Any] = (), *, generate: bool = False) -> str:
        text = self._template.render(messages, tools, generate=generate)
        if self._watched.render(messages, generate=generate) != text:
            raise Looked("the watched template writes something else")
        return text


class _Strict(Stage):
    """A stage that refuses every turn whose place depends on what another text holds."""

    def draft(self, kind: Kind, script: Script) -> Draft:
        """The only draft; all its turns begin with their prompts and go on as the text does."""
        turns = [self._turn(script, i, strict=True) for i in script.answers()]
        drafts = self.drafts(script) if kind == "drafts" else [getattr(self, kind)(script)]
        if len(drafts) != 1:
            raise Looked("the template rewrites history")
        [draft] = drafts
        for turn in turns:
            wanted = turn.full if turn is turns[-1] and kind != "prompt" else turn.full[: turn.end]
            if not (draft.text.startswith(turn.prompt) and draft.text.startswith(wanted)):
                raise Looked("the template rewrites history")
        return draft

    def _turn(self, script: Script, index: int, *, strict: bool) -> Turn:
        return super()._turn(script, index, strict=True)


def _gaps(draft: Draft, contents: Sequence[str], controls: Controls) -> tuple[Gap, ...]:
    """Where the contents stand, each once and in order."""
    gaps = []
    for index, content in enumerate(contents):
        start = draft.text.find(content)
        if draft.text.count(content) != 1 or controls.begun_at_end(draft.text[:start]):
            raise Looked("a content does not stand in the text just once, apart from control tokens")
        gaps.append(Gap(start, start + len(content), index))
    if any(before.end > after.start for before, after in pairwise(gaps)):
        raise Looked("the template changes the order of messages")
    return tuple(gaps)


def _check_places(draft: Draft, gaps: Sequence[Gap], shape: Shape, leads: Mapping[str, str]) -> None:
    """Refuse a draft in which the search for a message could find another place than its gap.

    Answers stand where their prompts end. Another message is searched behind its lead, from the end of the
    one before it; up to its gap this is constant text, so there the lead must stand only once.
    """
    if len(draft.stretches) != len(shape):
        raise Looked("a message was not found")
    position = 0
    for stretch, gap, (role, _) in zip(draft.stretches, gaps, shape, strict=True):
        if role == "assistant":
            inside = stretch.start <= gap.start and gap.end <= stretch.end and stretch.start in draft.cuts
        else:
            lead = leads.get(role, "")
            inside = (stretch.start, stretch.end) == (gap.start, gap.end) and bool(lead)
            inside &= draft.text.find(lead, position) == gap.start - len(lead)
        if not inside or stretch.start < position:
            raise Looked("a message could be found elsewhere")
        position = stretch.end
