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
    """The learnt ``draft``, the ``gaps`` in it from left to right, and what contents ``needs`` promise.

    ``loose`` are messages, by index, that are searched by their content alone, and the text before them where
    that must not be found.
    """

    draft: Draft
    gaps: tuple[Gap, ...]
    needs: Needs
    loose: tuple[tuple[int, str], ...] = ()

    def fits(self, contents: Sequence[str]) -> bool:
        """Whether contents without control strings are of the class that this form is for."""
        for content in contents:
            bare = content.strip()
            if not bare or (self.needs.stripped and len(bare) < len(content)):
                return False
        for index, before in self.loose:
            if (before + contents[index]).find(contents[index]) < len(before):
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


def learnt(
    template: ChatTemplate, watched: WatchedTemplate, stage: Stage, kind: Kind, shape: Shape
) -> Form | None:
    """The form of ``shape``, or ``None`` if there is none. ``watched`` is made from ``template``."""
    contents = [made_up(i) for i in range(len(shape))]
    try:
        watched.needs = Needs()
        draft = _Strict(_Watching(template, watched), stage.controls, stage.ending).draft(
            kind, _script(shape, contents, stage)
        )
        gaps = _gaps(draft, contents, stage.controls)
        loose = _loose(draft, gaps, template.leads, stage.controls)
    except (Looked, RenderError):
        return None
    watched.needs.stripped |= bool(loose)  # the search by content alone is for it without white space
    return Form(draft, gaps, watched.needs, loose)


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
    """A template that is held against a watched copy of it at every rendering of one conversation."""

    def __init__(self, template: ChatTemplate, watched: WatchedTemplate) -> None:
        self.leads = template.leads
        self._template = template
        self._watched = watched
        self._texts: dict[tuple[int, bool], str] = {}  # of so many first messages

    def render(self, messages: Any, tools: Sequence[Any] = (), *, generate: bool = False) -> str:
        known = (len(messages), generate)
        if known not in self._texts:
            text = self._template.render(messages, tools, generate=generate)
            if self._watched.render(messages, generate=generate) != text:
                raise Looked("the watched template writes something else")
            self._texts[known] = text
        return self._texts[known]


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


def _loose(
    draft: Draft, gaps: Sequence[Gap], leads: Mapping[str, str], controls: Controls
) -> tuple[tuple[int, str], ...]:
    """``Form.loose``. Raises ``Looked`` where a message could be found elsewhere than in its gap.

    Answers stand where their prompts end. Any other message is searched from the end of the one before it, at
    first behind its lead. The text from there to its gap is constant. So the message is found in its gap if
    the lead first stands before it, or if it stands nowhere up to the next answer, whatever the contents are,
    because of a control token in it; then the content must not be found in the constant text.
    """
    loose = []
    position = 0
    for index, (stretch, gap) in enumerate(zip(draft.stretches, gaps, strict=False)):
        place, lead = (gap.start, gap.end), leads.get(stretch.role, "")
        if stretch.role == "assistant":
            found = stretch.start in draft.cuts and stretch.start <= gap.start and gap.end <= stretch.end
        elif lead and draft.text.find(lead, position) == gap.start - len(lead):
            found = (stretch.start, stretch.end) == place
        else:
            limit = min((s.start for s in draft.stretches[index:] if s.role == "assistant"), default=None)
            token = controls.first(lead)
            found = (stretch.start, stretch.end) == place and (
                not lead or (token is not None and token not in draft.text[position:limit])
            )
            loose.append((index, draft.text[position : gap.start]))
        if not found or stretch.start < position:
            raise Looked("a message could be found elsewhere")
        position = stretch.end
    return tuple(loose)
