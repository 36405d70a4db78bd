"""The texts of a row by what they are for, and how to change them.

A place is ``prompt`` (user turns, and whatever a label stands for), ``answer`` (what is learnt: trained
assistant turns, the chosen side of a pair, a liked answer), ``other`` (answers that are not learnt: rejected,
ranked, disliked, of weight 0), ``system`` or ``document``. Tool turns and tool calls have no place: they must
stay as the tools read and write them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from tunewright.core.records import (
    Conversation,
    Example,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Text,
)
from tunewright.data.keys import prompt_of

Place = Literal["prompt", "answer", "other", "system", "document"]
Turns = tuple[Message, ...]
EVERYWHERE: frozenset[Place] = frozenset(("prompt", "answer", "other", "system", "document"))
TALK: frozenset[Place] = frozenset(("prompt", "answer", "other", "document"))
WRITTEN: frozenset[Place] = frozenset(("answer", "other"))
THOUGHTS = ("reasoning_content", "thinking")


def mapped(example: Example, places: frozenset[Place], change: Callable[[str], str]) -> Example:
    """``example`` with ``change`` applied to its texts at ``places``; itself where nothing changes."""
    if isinstance(example, Text):
        text = change(example.text) if "document" in places else example.text
        return example if text is example.text or text == example.text else replace(example, text=text)

    def turns(messages: Turns, written: Place) -> Turns:
        return _mapped_turns(messages, written, places, change)

    if isinstance(example, Preference):
        prompt, chosen = turns(example.prompt, "other"), turns(example.chosen, "answer")
        rejected = turns(example.rejected, "other")
        if prompt is example.prompt and chosen is example.chosen and rejected is example.rejected:
            return example
        return replace(example, prompt=prompt, chosen=chosen, rejected=rejected)
    if isinstance(example, Ranking):
        prompt = turns(example.prompt, "other")
        answers = tuple(turns(answer, "other") for answer in example.answers)
        same = prompt is example.prompt and all(map(_is, answers, example.answers))
        return example if same else replace(example, prompt=prompt, answers=answers)
    messages = turns(example.messages, _written(example))
    return example if messages is example.messages else replace(example, messages=messages)


def _is(one: object, other: object) -> bool:
    return one is other


def _written(example: Conversation | Prompt | Labelled) -> Place:
    """What the assistant turns of a row are for."""
    learnt = isinstance(example, Conversation) or (isinstance(example, Labelled) and example.label is True)
    return "answer" if learnt else "other"


def _mapped_turns(
    messages: Turns, written: Place, places: frozenset[Place], change: Callable[[str], str]
) -> Turns:
    changed = False
    result = []
    for message in messages:
        if _place(message, written) in places:
            content = change(message.content)
            if content is not message.content and content != message.content:
                message, changed = replace(message, content=content), True
            if message.extra:
                extra = _mapped_thoughts(message, change)
                if extra is not message.extra:
                    message, changed = replace(message, extra=extra), True
        result.append(message)
    return tuple(result) if changed else messages


def _mapped_thoughts(message: Message, change: Callable[[str], str]) -> dict[str, object]:
    """``extra`` with the written reasoning changed, which is learnt like the answer itself."""
    new = {key: change(message.extra[key]) for key in THOUGHTS if message.extra.get(key)}
    return message.extra if all(message.extra[k] == v for k, v in new.items()) else {**message.extra, **new}


def _place(message: Message, written: Place) -> Place | None:
    role = message.role
    if role == "user":
        return "prompt"
    if role == "assistant":
        return "other" if message.weight == 0 else written
    return None if role == "tool" else "system"


def answers_learnt(example: Example) -> list[str]:
    """The texts a model learns to write, in order; none for labels, prompts, rankings and documents."""
    if isinstance(example, (Text, Ranking, Prompt)):
        return []
    if isinstance(example, Preference):
        turns: Iterable[Message] = example.chosen
    elif isinstance(example, Conversation) or example.label is True:
        turns = example.messages
    else:
        return []
    return [m.content for m in turns if m.role == "assistant" and m.weight != 0 and m.content]


def last_question(example: Example) -> str:
    """The user turn that the last answer replies to; empty where there is none."""
    return next((m.content for m in reversed(prompt_of(example)) if m.role == "user"), "")


def asked(example: Example) -> str:
    """All that is asked or instructed, as one text: what a row is about."""
    return "\n".join(m.content for m in prompt_of(example) if m.role != "tool")
