"""What makes two rows "the same": normalised texts and their keys (16-byte hashes).

Normalised means: Unicode NFKC, case folded, runs of white space as one space. That is right for keeping
rows together in a split, but too coarse for leaving one out: "us" and "US" may be two answers. ``row_key``
therefore keeps case, and changes no more than Unicode NFC and runs of white space.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from tunewright.core.hashing import canonical_json
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

Key = bytes
_JOINT = b"\x1e"  # stands between turns


def normalise(text: str) -> str:
    """NFKC, case folded, white space collapsed."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def respaced(text: str) -> str:
    """NFC, white space collapsed; case is kept."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _key(kind: str, *parts: str) -> Key:
    return _hash(kind, *parts).digest()


def _hash(kind: str, *parts: str) -> blake2b:
    return blake2b("\x1f".join((kind, *parts)).encode("utf-8", "surrogatepass"), digest_size=16)


def turn_text(message: Message) -> str:
    """The content of a turn, with its tool calls as JSON if it has some."""
    calls = message.extra.get("tool_calls")
    return f"{message.content}\n{canonical_json(calls).decode()}" if calls else message.content


def turns_text(messages: Iterable[Message]) -> str:
    """Normalised roles and texts of turns, as one string."""
    return _JOINT.decode().join(f"{m.role}: {normalise(turn_text(m))}" for m in messages)


def prompt_of(example: Example) -> tuple[Message, ...]:
    """The turns that ask: all before the last answer; all of a labelled chat; none of a ``Text``."""
    if isinstance(example, (Preference, Ranking)):
        return example.prompt
    if isinstance(example, Text):
        return ()
    judged = isinstance(example, Labelled) and not isinstance(example.label, bool)
    if judged or example.messages[-1].role != "assistant":
        return example.messages
    return example.messages[:-1]


def answer_of(example: Example) -> str:
    """What the row teaches for its prompt: the last answer, the label, the chosen side of a pair, or the
    answers of a ranking from best to worst. Nothing for a ``Text`` or a ``Prompt``."""
    if isinstance(example, (Text, Prompt)):
        return ""
    if isinstance(example, Preference):
        return "\n".join(turn_text(m) for m in example.chosen)
    if isinstance(example, Ranking):
        return "\x1e".join(_best_first(example))
    if isinstance(example, Labelled):
        return _json(example.label)
    return turn_text(example.messages[-1])


def texts_of(example: Example) -> Iterator[str]:
    """Every text of an example, in order."""
    if isinstance(example, Text):
        yield example.text
    elif isinstance(example, Preference):
        yield from (m.content for m in (*example.prompt, *example.chosen, *example.rejected))
    elif isinstance(example, Ranking):
        yield from (m.content for turns in (example.prompt, *example.answers) for m in turns)
    else:
        yield from (m.content for m in example.messages)


def prompt_key(example: Example) -> Key:
    """Equal for rows that ask the same; a ``Text`` asks its whole text."""
    text = normalise(example.text) if isinstance(example, Text) else turns_text(prompt_of(example))
    return _key("prompt", text)


def question_key(example: Example) -> Key:
    """Rows that share it should agree in ``answer_of``. For rows that judge answers: prompt and answers."""
    if isinstance(example, (Preference, Ranking)):
        return _key("pair", turns_text(example.prompt), *sorted(map(turns_text, _judged(example))))
    if isinstance(example, Labelled):
        return _key("labelled", turns_text(example.messages))
    return prompt_key(example)


def earlier_prompt_keys(example: Example) -> list[Key]:
    """Keys of the prompts of all answers but the last in a conversation, which are trained on too.

    Each is the ``prompt_key`` of a row that ends there; one pass over the turns makes them all.
    """
    if not isinstance(example, Conversation):
        return []
    so_far, keys = _hash("prompt", ""), []
    for number, message in enumerate(example.messages[:-1]):
        if number:
            if message.role == "assistant":
                keys.append(so_far.copy().digest())
            so_far.update(_JOINT)
        so_far.update(turns_text([message]).encode("utf-8", "surrogatepass"))
    return keys


def text_key(example: Example) -> Key:
    """Equal for rows with the same texts, whatever their labels and formats."""
    if isinstance(example, (Preference, Ranking)):
        return _key("text", turns_text(example.prompt), *sorted(map(turns_text, _judged(example))))
    return _key(
        "text", normalise(example.text) if isinstance(example, Text) else turns_text(example.messages)
    )


def row_key(example: Example) -> Key:
    """Equal for exact duplicates, white space aside: all that a message carries, labels, tools, margins,
    fields. The answers of a ranking may stand in another order."""
    if isinstance(example, Text):
        return _key("row", respaced(example.text))
    if isinstance(example, Preference):
        sides = map(_whole_turns, (example.prompt, example.chosen, example.rejected))
        return _key("row", *sides, _json([example.tools, example.margin]))
    if isinstance(example, Ranking):
        scored = zip(example.answers, example.scores, strict=True)
        answers = sorted(_json([_whole_turns(answer), score]) for answer, score in scored)
        return _key("row", _whole_turns(example.prompt), *answers, _json(example.tools))
    if isinstance(example, Prompt):
        return _key("row", _whole_turns(example.messages), _json([example.tools, example.fields]))
    rest = example.label if isinstance(example, Labelled) else example.tools
    return _key("row", _whole_turns(example.messages), _json(rest))


def look_alike_key(example: Example) -> Key:
    """Equal for rows whose texts and label are equal but for case, compatible characters and white space."""
    if isinstance(example, Preference):
        return _key("alike", *map(turns_text, (example.prompt, example.chosen, example.rejected)))
    if isinstance(example, Ranking):
        return _key("alike", turns_text(example.prompt), *_best_first(example))
    label = _json(example.label) if isinstance(example, Labelled) else ""
    return _key("alike", text_key(example).hex(), normalise(label))


def _judged(example: Preference | Ranking) -> tuple[tuple[Message, ...], ...]:
    return example.answers if isinstance(example, Ranking) else (example.chosen, example.rejected)


def _best_first(example: Ranking) -> list[str]:
    """The answers in falling order of their scores; those that tie as one text, in alphabetical order."""
    texts = list(map(turns_text, example.answers))
    levels = sorted(set(example.scores), reverse=True)
    ties = ([t for t, s in zip(texts, example.scores, strict=True) if s == level] for level in levels)
    return ["\x1d".join(sorted(tie)) for tie in ties]


def _json(value: Any) -> str:
    return canonical_json(value).decode()


def _whole_turns(messages: Iterable[Message]) -> str:
    turns = [[m.role, respaced(m.content), m.weight, m.extra] for m in messages]
    return _json(turns)


def group_key(example: Example) -> Key | None:
    """The key of the group that the user gave, if any."""
    group = example.meta.group
    return None if group is None else _key("group", group)
