"""The three ways to make rows: what is asked for each passage or row, and what of a reply becomes a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewright.core.hashing import unit_interval
from tunewright.core.records import Conversation, Example, Labelled, Message, Meta, Preference, Prompt
from tunewright.data.keys import prompt_key, turns_text
from tunewright.data.synthetic import prompts, replies
from tunewright.data.synthetic.mark import Making, Mark
from tunewright.data.synthetic.passages import SHORTEST, Passage
from tunewright.data.synthetic.reasons import Left
from tunewright.data.synthetic.support import KINSHIP, fixed_parts, kinship, says_the_same, unsupported

SHORTER, LONGER = 0.4, 2.5  # how much a rewritten text may differ in length
_FREE = 40  # characters by which it may always differ
Found = list[Example | Left]


@dataclass(frozen=True)
class Ask:
    """One request: its chat, and what makes rows (or notes of what is left out) of a reply.

    ``read(reply, model)`` raises ``replies.Malformed``.
    """

    source: str
    line: int
    chat: prompts.Chat
    read: Callable[[str, str], Found]


def ask_passages(passages: Iterable[Passage], count: int) -> Iterator[Ask | Left]:
    """Questions and answers from each passage."""
    for passage in passages:
        if len(passage.text) < SHORTEST:
            yield Left(passage.source, passage.line, "short_passage", f"{len(passage.text)} characters")
            continue
        chat = prompts.request("questions", passage.text, count)
        yield Ask(passage.source, passage.line, chat, _from_passage(passage, count))


def ask_paraphrases(rows: Iterable[Example], count: int) -> Iterator[Ask | Left]:
    """Other wordings of the last question of each row."""
    for row in rows:
        turn = _last_question(row)
        if turn is None or row.meta.synthetic:
            yield _unsuitable(row)
            continue
        chat = prompts.request("paraphrases", turn.content, count)
        yield Ask(row.meta.source, row.meta.line, chat, _from_wording(row, turn.content, count))


def ask_negatives(rows: Sequence[Example], seed: int) -> Iterator[Ask | Left]:
    """A worse answer for each row with an answer; for a text of a class, a near miss of another class."""
    labels = sorted({row.label for row in rows if isinstance(row, Labelled) and isinstance(row.label, str)})
    for row in rows:
        if row.meta.synthetic:
            yield _unsuitable(row)
        elif isinstance(row, Labelled):
            yield _ask_near_miss(row, labels, seed)
        elif isinstance(row, (Conversation, Preference)) and (chosen := _answer(row)):
            prompt = row.prompt if isinstance(row, Preference) else row.messages[:-1]
            asked = "\n\n".join(f"{m.role}: {m.content}" for m in prompt)
            chat = prompts.request("negatives", f"{asked}\n\nright answer: {chosen[0].content}", 1)
            yield Ask(row.meta.source, row.meta.line, chat, _from_answer(row, prompt, chosen))
        else:
            yield _unsuitable(row)


def _ask_near_miss(row: Labelled, labels: Sequence[str], seed: int) -> Ask | Left:
    turn = _last_question(row)
    others = [label for label in labels if label != row.label]
    if turn is None or not isinstance(row.label, str) or not others:
        return _unsuitable(row)
    draw = unit_interval("near miss", seed, turns_text(row.messages))
    other = others[int(draw * len(others))]
    chat = prompts.near_miss(turn.content, row.label, other)

    def read(reply: str, model: str) -> Found:
        text = replies.near_miss_of(reply)
        made = _reworded(replace(row, label=other), text)
        return [_checked(_marked(made, row, "negatives", model), text, turn.content, kin=True)]

    return Ask(row.meta.source, row.meta.line, chat, read)


def _from_passage(passage: Passage, count: int) -> Callable[[str, str], Found]:
    def read(reply: str, model: str) -> Found:
        mark = Mark("questions", model, passage.start, passage.end).text()
        meta = Meta(passage.source, passage.line, synthetic=mark)
        found: Found = []
        for question, answer in replies.pairs_of(reply, count):
            if why := unsupported(question, answer, passage.text):
                found.append(Left(passage.source, passage.line, "unsupported", why))
            else:
                found.append(Conversation((Message("user", question), Message("assistant", answer)), meta))
        return found

    return read


def _from_wording(row: Example, original: str, count: int) -> Callable[[str, str], Found]:
    def read(reply: str, model: str) -> Found:
        found: Found = []
        for text in replies.paraphrases_of(reply, count):
            made = _marked(_reworded(row, text), row, "paraphrases", model)
            if fixed_parts(text) != fixed_parts(original):
                found.append(_left(made, "other_facts", "its numbers or fixed parts are others"))
            else:
                found.append(_checked(made, text, original, kin=True, reordered=True))
        return found

    return read


def _from_answer(
    row: Example, prompt: Sequence[Message], chosen: tuple[Message, ...]
) -> Callable[[str, str], Found]:
    def read(reply: str, model: str) -> Found:
        text = replies.negative_of(reply)
        worse = (Message("assistant", text),)
        tools = row.tools if isinstance(row, (Conversation, Preference)) else ()
        made = Preference(tuple(prompt), chosen, worse, row.meta, tools)
        return [_checked(_marked(made, row, "negatives", model), text, chosen[0].content, kin=False)]

    return read


def _checked(
    made: Example, text: str, original: str, *, kin: bool, reordered: bool = False
) -> Example | Left:
    """The row, or why not: compared with what it was made from. ``reordered``: the same words are fine."""
    same = text.split() == original.split() if reordered else says_the_same(text, original)
    if same:
        return _left(made, "same", "it has the words of what it was made from")
    low, high = SHORTER * len(original) - _FREE, LONGER * len(original) + _FREE
    if not low <= len(text) <= high:
        return _left(made, "length", f"{len(text)} characters for {len(original)}")
    if kin and kinship(text, original) < KINSHIP:
        return _left(made, "other_meaning", "next to none of its words stands in the original")
    return made


def _marked(made: Example, row: Example, making: Making, model: str) -> Example:
    mark = Mark(making, model, origin=prompt_key(row)).text()
    return replace(made, meta=replace(row.meta, id=None, synthetic=mark, mixed=None))


def _last_question(row: Example) -> Message | None:
    """The last turn of the user that asks, if the row has turns."""
    if isinstance(row, (Preference, Conversation, Prompt, Labelled)):
        turns = row.prompt if isinstance(row, Preference) else row.messages
        found = [turn for turn in turns if turn.role == "user" and turn.content.strip()]
        return found[-1] if found else None
    return None


def _reworded(row: Example, text: str) -> Example:
    """The row with another last question."""
    name = "prompt" if isinstance(row, Preference) else "messages"
    turns: tuple[Message, ...] = getattr(row, name)
    last = max(i for i, turn in enumerate(turns) if turn.role == "user" and turn.content.strip())
    turn = replace(turns[last], content=text)
    changed: Any = row
    made: Example = replace(changed, **{name: (*turns[:last], turn, *turns[last + 1 :])})
    return made


def _answer(row: Conversation | Preference) -> tuple[Message, ...]:
    """The right answer as one plain turn; empty if it is something else."""
    turns = row.chosen if isinstance(row, Preference) else row.messages[-1:]
    asks = bool(row.prompt) if isinstance(row, Preference) else len(row.messages) > 1
    if not asks or len(turns) != 1 or turns[0].role != "assistant" or turns[0].extra:
        return ()
    return turns if turns[0].content.strip() else ()


def _unsuitable(row: Example) -> Left:
    return _left(row, "unsuitable", "synthetic already" if row.meta.synthetic else "nothing to make from")


def _left(row: Example, reason: str, detail: str) -> Left:
    return Left(row.meta.source, row.meta.line, reason, detail)
