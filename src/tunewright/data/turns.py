"""Where the answers stand in a rendered conversation, found by rendering prefixes of it.

For the assistant turn ``i``: ``prompt`` is what the template makes of the messages before it, up to where the
answer begins, and ``full`` what it makes of the messages up to and with it. ``full`` must begin with
``prompt``; what follows is the answer, as far as the control token that ends the turn. So a model is trained
on exactly the text that it will be given and must write, and no template needs markers of any kind.

Some templates rewrite history (Qwen3 drops the reasoning of earlier turns). Where the text of one turn is not
how the prompt of the next begins, the conversation becomes several drafts, each of them a prompt that really
occurs at inference and its answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tunewright.core.errors import RenderError
from tunewright.core.records import Message
from tunewright.data.controls import Controls, Veil


@dataclass(frozen=True, slots=True)
class Script:
    """One conversation with covered text, ready for the template. ``weights`` has one number per message."""

    messages: list[dict[str, Any]]
    weights: list[float]
    tools: list[Any]
    veil: Veil

    def first(self, count: int) -> Script:
        """The script up to its first ``count`` messages."""
        return Script(self.messages[:count], self.weights[:count], self.tools, self.veil)

    def answers(self) -> list[int]:
        """Indices of the assistant turns that have a prompt."""
        return [i for i, message in enumerate(self.messages) if i and message["role"] == "assistant"]


class Ending(NamedTuple):
    """How a template ends a turn: ``token`` if it writes one, ``eos`` to put there if it does not."""

    token: str | None
    eos: str | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: ``full[len(prompt):end]``. ``open`` means that no control token ends it.

    ``end`` is 0 if ``full`` does not begin with ``prompt``: such a turn is history, it cannot be trained.
    """

    index: int
    prompt: str
    full: str
    end: int
    open: bool


class Stretch(NamedTuple):
    """Characters ``[start, end)`` of a draft that belong to one message."""

    role: str
    start: int
    end: int
    weight: float


@dataclass(slots=True)
class Draft:
    """Covered text of one sequence, where to cut it, and which message wrote what."""

    text: str
    cuts: list[int]
    stretches: list[Stretch] = field(default_factory=list)


class Template(Protocol):
    """What writes messages; see ``data.template.ChatTemplate``."""

    leads: dict[str, str]

    def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] = (), *, generate: bool = False
    ) -> str:
        """The text of ``messages``; with ``generate``, up to where the assistant's answer begins."""
        ...


class Stage:
    """Everything that rendering needs besides the conversation: template, control tokens, how turns end."""

    def __init__(self, template: Template, controls: Controls, ending: Ending) -> None:
        self.template = template
        self.controls = controls
        self.ending = ending

    def prompt(self, script: Script) -> Draft:
        """The text up to where the next answer begins, cut as in training."""
        text = self.template.render(script.messages, script.tools, generate=True)
        turns = [self._turn(script, i, strict=False) for i in script.answers()]
        known = {t.index: (t, t.end) for t in turns}
        stretches = _stretches(script, self.template.leads, text, known)
        return Draft(text, _cuts(text, turns), [s for _, s in stretches])

    def drafts(self, script: Script) -> list[Draft]:
        """The sequences to train on: one, or one for each run of turns that the template does not rewrite.

        Raises ``RenderError`` if a weighted turn cannot be trained, or if the template leaves out a message.
        """
        if script.messages and script.messages[0]["role"] == "assistant" and script.weights[0]:
            raise RenderError(
                "the conversation opens with an assistant turn, which has no prompt to learn it from; put a "
                "user turn before it or give it weight 0"
            )
        turns = [self._turn(script, i, strict=script.weights[i] != 0) for i in script.answers()]
        groups = _unbroken(turns) or [[]]
        last = groups[-1]
        others = any(
            w for w, m in zip(script.weights, script.messages, strict=True) if m["role"] != "assistant"
        )
        kept = [g for g in groups if any(script.weights[t.index] for t in g) or (others and g is last)]
        return [self._draft(script, turns, group, final=group is last) for group in kept or [last]]

    def whole(self, script: Script) -> Draft:
        """The full rendering as one sequence, however the template treats history."""
        turns = [self._turn(script, i, strict=False) for i in script.answers()]
        return self._draft(script, turns, turns, final=True)

    def _turn(self, script: Script, index: int, *, strict: bool) -> Turn:
        prompt = self.template.render(script.messages[:index], script.tools, generate=True)
        full = self.template.render(script.messages[: index + 1], script.tools)
        if not full.startswith(prompt):
            if strict:
                raise RenderError(_differs(script.veil.reveal(prompt), script.veil.reveal(full), index))
            return Turn(index, prompt, full, 0, open=True)
        answer = full[len(prompt) :]
        if strict:
            _require_answer(script.messages[index], answer, index)
        length = self._answer_length(answer)
        return Turn(index, prompt, full, len(prompt) + (length or len(answer)), open=length is None)

    def _answer_length(self, answer: str) -> int | None:
        """Characters of ``answer`` up to and with its end-of-turn token; ``None`` if it has none."""
        if self.ending.token and (position := answer.rfind(self.ending.token)) >= 0:
            return position + len(self.ending.token)
        matches = self.controls.find(answer)
        if matches and matches[-1].end() == len(answer.rstrip()):
            return matches[-1].end()
        return None

    def _draft(self, script: Script, turns: list[Turn], group: list[Turn], *, final: bool) -> Draft:
        last = group[-1] if group else None
        text = last.full if last else self.template.render(script.messages, script.tools)
        if last and final and last.index + 1 < len(script.messages):
            whole = self.template.render(script.messages, script.tools)
            text = whole if whole.startswith(last.full[: last.end]) else text
        before = [t for t in turns if last and t.index <= last.index]
        ends = {t.index: t.end for t in before}
        if last and last.open and text == last.full and self.ending.eos:
            text += self.ending.eos
            ends[last.index] = len(text)
        count = last.index + 1 if last and text.startswith(last.full) else len(script.messages)
        known = {t.index: (t, ends[t.index]) for t in before}
        stretches = _stretches(script.first(count), self.template.leads, text, known)
        trained = {t.index for t in group}
        kept = [
            stretch._replace(weight=0.0) if stretch.role == "assistant" and i not in trained else stretch
            for i, stretch in stretches
        ]
        return Draft(text, _cuts(text, before), kept)


def _unbroken(turns: list[Turn]) -> list[list[Turn]]:
    """Runs of turns in which the text of each is how the prompt of the next begins."""
    groups: list[list[Turn]] = []
    for turn in turns:
        previous = groups[-1][-1] if groups else None
        if previous and previous.end and turn.prompt.startswith(previous.full[: previous.end]):
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return groups


def _cuts(text: str, turns: Sequence[Turn]) -> list[int]:
    """Where prompts end in ``text``."""
    cuts = {len(t.prompt) for t in turns if text.startswith(t.prompt)}
    return sorted(cut for cut in cuts if 0 < cut < len(text))


Known = dict[int, tuple[Turn, int]]  # message index -> its turn, and where the turn ends in this text


def _stretches(script: Script, leads: dict[str, str], text: str, known: Known) -> list[tuple[int, Stretch]]:
    """``(message index, stretch)`` for each message that is found in ``text``, in order.

    Raises ``RenderError`` for a message of another role than assistant that the template leaves out.
    """
    found, missing = _search(script, leads, text, known)
    if missing is not None:  # a lead may have led to a later place that reads the same
        found, missing = _search(script, {}, text, known)
    if missing is not None:
        message = script.messages[missing]
        raise RenderError(_left_out(message["role"], script.veil.reveal(message["content"]), missing))
    return found


def _search(
    script: Script, leads: dict[str, str], text: str, known: Known
) -> tuple[list[tuple[int, Stretch]], int | None]:
    """Stretches in order, and the first message that cannot be found before the next answer."""
    answers = {
        i: (len(t.prompt), end) for i, (t, end) in known.items() if t.end and text.startswith(t.full[: t.end])
    }
    found: list[tuple[int, Stretch]] = []
    position, missing = 0, None
    for index, message in enumerate(script.messages):
        role, content = message["role"], message["content"]
        limit = min((start for i, (start, _) in answers.items() if i > index), default=len(text))
        place = answers.get(index) or _locate(content, leads.get(role, ""), text, (position, limit))
        if place:
            found.append((index, Stretch(role, *place, script.weights[index])))
            position = place[1]
        elif missing is None and role != "assistant" and content.strip():
            missing = index
    return found, missing


def _locate(content: str, lead: str, text: str, within: tuple[int, int]) -> tuple[int, int] | None:
    """Where ``content`` first stands in ``text``: as it is (behind its lead), trimmed, or inside JSON."""
    bare = content.strip()
    if not bare:
        return None
    for before, candidate in ((lead, content), (lead, bare), ("", bare)):
        start = text.find(before + candidate, *within) if before or candidate is bare else -1
        if start >= 0:
            return start + len(before), start + len(before) + len(candidate)
    quoted = json.dumps(bare, ensure_ascii=False)[1:-1]
    start = text.find(quoted, *within)
    return (start, start + len(quoted)) if start >= 0 else None


def name_of(tool: Any) -> str:
    """The name of a tool or of a call to one; empty if it has none."""
    inner = tool.get("function", tool) if isinstance(tool, dict) else None
    return str(inner.get("name") or "") if isinstance(inner, dict) else ""


def _require_answer(message: dict[str, Any], answer: str, index: int) -> None:
    """An answer that is to be learnt must stand in the text: content and tool calls."""
    content = message["content"].rpartition("</think>")[2]
    if content.strip() and not _locate(content, "", answer, (0, len(answer))):
        raise RenderError(_left_out("assistant", message["content"], index))
    for name in map(name_of, message.get("tool_calls") or []):
        if name not in answer:
            raise RenderError(
                f"message {index + 1} calls the tool {name!r}, but the chat template does not write tool "
                "calls; use a model with a tool template or write the call into the content"
            )


def _left_out(role: str, content: str, index: int) -> str:
    return (
        f"the chat template leaves out the {role} message {index + 1} ({content[:60]!r}); give this model "
        "only the roles that its template knows, or use another template"
    )


def _differs(prompt: str, full: str, index: int) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full))
    )
    return (
        f"the prompt for message {index + 1} is not how the full text begins: the prompt goes on with "
        f"{prompt[at : at + 60]!r} where the text has {full[at : at + 60]!r}. If the generation prompt opens "
        "a reasoning block, give the answer a reasoning_content or switch reasoning off with the template "
        "option enable_thinking: false"
    )


def weights_of(messages: Sequence[Message], train_on: str) -> list[float]:
    """The loss weight of each message: its own if it has one, else what ``train_on`` says."""
    answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
    chosen = {
        "assistant": set(answers),
        "last": set(answers[-1:]),
        "all": set(range(len(messages))),
        "message": set[int](),
    }[train_on]
    return [float(i in chosen) if m.weight is None else float(m.weight) for i, m in enumerate(messages)]
