"""Answers in several turns: the model writes, an environment (a tool, a game) replies, the model goes on.

All of it is one sequence. What the environment says has loss weight 0, and what the model wrote stays as it
was sampled, token by token: text is never tokenised again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tunewright.core.errors import ConfigError, TrainError, TunewrightError
from tunewright.core.hashing import seed_from
from tunewright.core.records import Message, Prompt
from tunewright.objectives.sampler import Sampled, Sampler

NO_ROOM = (
    "in some dialogues the environment's reply left no room for another answer in the model's context of"
    " {room} tokens; they end there, unfinished"
)

Environment = Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None]
"""(messages so far, as mappings with role and content) -> the messages that follow, or None at the end."""


class Question(NamedTuple):
    """A row to sample for: its prompt as ids, and as messages with the fields that rewards read."""

    ids: list[int]
    prompt: Prompt


def shown_to_rewards(prompt: Prompt, turns: Sequence[Message] = ()) -> tuple[str, dict[str, Any]]:
    """What a reward reads of a row beside the answer: the row's last user turn, and the row's own columns.

    All that stands before the answer is beside the columns as ``messages``: the whole prompt and, in a
    dialogue, the ``turns`` that model and environment wrote before the last answer.
    """
    last = next((m.content for m in reversed(prompt.messages) if m.role == "user"), "")
    return last, {**prompt.fields, "messages": [m.to_dict() for m in (*prompt.messages, *turns)]}


Ask = Callable[[Sequence[Question], int, int], list[list[Sampled]]]
"""(questions, answers to each, seed) -> the answers in order."""


def asking(sampler: Sampler) -> Ask:
    """One answer and no more: what ``sampler`` writes after the ids."""
    return lambda questions, group, seed: sampler.sample([q.ids for q in questions], group, seed)


class Speaker(Protocol):
    """What a dialogue needs of ``data.render.Renderer``."""

    @property
    def end_of_turn(self) -> int: ...

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]: ...


@dataclass
class _Course:
    """One dialogue under way; ``ids`` begins with the prompt, the other lists with the first answer."""

    question: Question
    messages: list[Message]
    ids: list[int]
    weights: list[float] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)
    finished: bool = False
    text: str = ""

    def add(self, ids: Sequence[int], logprobs: Sequence[float] | None, weights: Sequence[float]) -> None:
        self.ids += ids
        self.weights += weights
        known = self.logprobs is not None and logprobs is not None
        self.logprobs = [*(self.logprobs or ()), *(logprobs or ())] if known else None

    def sampled(self) -> Sampled:
        prompt, written = self.question, self.messages[len(self.question.prompt.messages) :]
        return Sampled(
            self.ids[len(prompt.ids) :],
            self.logprobs,
            self.weights,
            self.finished,
            self.text,
            tuple(written[:-1]),  # the last is the answer
        )


@dataclass(frozen=True)
class Dialogue:
    """Lets ``environment`` reply after each answer, up to ``max_turns`` answers; call it as an ``Ask``.

    ``room`` is how many tokens the model can read. A dialogue ends when the environment returns ``None``, at
    ``max_turns``, or unfinished: at an answer that was cut, or before a reply that leaves no room to answer,
    which ``note`` is told.
    """

    sampler: Sampler
    speaker: Speaker
    environment: Environment
    max_turns: int
    room: int
    note: Callable[[str], None] = lambda message: None

    def __call__(self, questions: Sequence[Question], group: int, seed: int) -> list[list[Sampled]]:
        """``group`` dialogues for each question. Raises ``TrainError`` if the environment fails."""
        assert self.max_turns > 0, f"max_turns is {self.max_turns}"
        first = self.sampler.sample([q.ids for q in questions], group, seed)
        courses = [_Course(q, list(q.prompt.messages), list(q.ids)) for q in questions for _ in range(group)]
        going = self._took(courses, [answer for answers in first for answer in answers], 1)
        for turn in range(2, self.max_turns + 1):
            if not going:
                break
            answers = self.sampler.sample([c.ids for c in going], 1, seed_from(seed, "turn", turn))
            going = self._took(going, [answer for [answer] in answers], turn)
        found = [course.sampled() for course in courses]
        return [found[start : start + group] for start in range(0, len(found), group)]

    def _took(self, courses: Sequence[_Course], answers: Sequence[Sampled], turn: int) -> list[_Course]:
        """Add an answer to each course; those that go on, with the environment's reply behind it."""
        going = []
        for course, answer in zip(courses, answers, strict=True):
            course.add(answer.ids, answer.logprobs, answer.weights)
            course.finished, course.text = answer.finished, answer.text
            before = list(course.messages)
            course.messages.append(Message("assistant", answer.text))
            if not answer.finished or turn == self.max_turns:
                continue
            reply = self._reply(course)
            if reply is None:
                continue
            follows = following(self.speaker, before, [course.messages[-1], *reply], course.question.prompt)
            if len(course.ids) + len(follows) >= self.room:
                course.finished = False
                self.note(NO_ROOM.format(room=self.room))
                continue
            course.messages += reply
            course.add(follows, [0.0] * len(follows), [0.0] * len(follows))
            going.append(course)
        return going

    def _reply(self, course: _Course) -> list[Message] | None:
        where = course.question.prompt.meta.where()
        try:
            reply = self.environment([m.to_dict() for m in course.messages])
        except Exception as error:
            known = isinstance(error, TunewrightError)
            what = str(error) if known else f"{type(error).__name__}: {error}"
            raise TrainError(
                f"the environment failed at {where} after {course.text[:60]!r}: {what}"
            ) from error
        return None if reply is None else [_checked(message, where) for message in _list(reply, where)]


def following(
    speaker: Speaker, before: Sequence[Message], after: Sequence[Message], prompt: Prompt
) -> list[int]:
    """The ids between the end of an answer and the start of the next.

    ``before`` are the messages that the answer follows, ``after`` the answer itself and what follows it.
    Raises ``ConfigError`` for a chat template that writes no end of turn, or rewrites what stands before it.
    """
    start = len(speaker.prompt(before, prompt.tools))
    whole = speaker.prompt([*before, *after], prompt.tools)
    if whole[:start] != speaker.prompt(before, prompt.tools) or speaker.end_of_turn not in whole[start:]:
        raise ConfigError(
            "this model's chat template rewrites earlier turns or does not end them, so a dialogue is not one"
            " sequence; sample without an environment, or set model.template"
        )
    return whole[whole.index(speaker.end_of_turn, start) + 1 :]


def _list(reply: Any, where: str) -> list[Any]:
    if not isinstance(reply, list) or not reply:
        raise TrainError(
            f"the environment returned {str(reply)[:60]!r} at {where}; it must return a list of messages, or"
            " None at the end"
        )
    return reply


def _checked(message: Any, where: str) -> Message:
    known = isinstance(message, dict) and isinstance(message.get("content"), str)
    if not known or message.get("role") not in ("user", "tool", "system"):
        raise TrainError(
            f"the environment returned the message {str(message)[:80]!r} at {where}; it needs a role (tool,"
            " user or system) and a content, both text"
        )
    extra = {name: value for name, value in message.items() if name not in ("role", "content")}
    return Message(message["role"], message["content"], extra=extra)
