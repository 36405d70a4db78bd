"""The formats: one table. A row states the keys that mark a format, those it may use, and how it is read.

A file has one format, found from its first rows: the first in the table whose marking keys are all there.
To add a format, write a builder and a table row, and give ``docs/data.md`` one example.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.core.records import Conversation, Example, Kind, Labelled, Message, Meta, Preference, Text
from tunewright.data.columns import kind
from tunewright.data.messages import Repairs, ending_in_answer, read_tools, read_turns
from tunewright.data.problems import BadRow
from tunewright.data.strict import shown

Row = dict[str, Any]
TURNS = ("messages", "conversations")
PROMPTS = ("prompt", "instruction", "question")
ANSWERS = ("completion", "response")
LABELS = ("label", "labels", "category", "class", "intent")


@dataclass(frozen=True)
class Format:
    """One known format. Each entry of ``needs`` is a tuple of names, one of which must be present."""

    name: str
    becomes: Kind
    needs: tuple[tuple[str, ...], ...]
    may: tuple[str, ...]
    build: Callable[[Row, Meta, Repairs], Example]
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        known = {name for names in self.needs for name in names} | set(self.may) | {"id", "meta"}
        object.__setattr__(self, "known", frozenset(known))

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True if the row has every key that marks this format."""
        return all(any(name in row for name in names) for names in self.needs)

    def describe(self) -> str:
        """The marking keys in words."""
        return " + ".join("/".join(names) for names in self.needs)


def _key(row: Row, names: tuple[str, ...]) -> str:
    return next((name for name in names if row.get(name) is not None), names[0])


def _text(row: Row, key: str, empty: str) -> str:
    """A required text; ``empty`` is the reason code for one without characters."""
    value = row.get(key)
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{key} is {kind(value)}, not text")
    if not value or value.isspace():
        raise BadRow(empty, f"{key} has no text")
    return value


def _optional(row: Row, key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRow("wrong_type", f"{key} is {kind(value)}, not text")
    return value or ""


def _opening(row: Row, key: str) -> tuple[Message, ...]:
    """System turn, history and question of a row that names them by columns."""
    question = _text(row, key, "empty_turn")
    if "input" in row:
        added = _optional(row, "input")
        question = f"{question}\n\n{added}" if added.strip() else question
    system = _optional(row, "system") if "system" in row else ""
    turns = [Message("system", system)] if system.strip() else []
    return (*turns, *_history(row.get("history")), Message("user", question))


def _history(pairs: Any) -> list[Message]:
    """Alpaca's earlier turns: a list of [question, answer]."""
    turns = []
    for pair in pairs or ():
        texts = isinstance(pair, list) and all(isinstance(text, str) and text.strip() for text in pair)
        if not texts or len(pair) != 2:
            raise BadRow("wrong_type", "history must be a list of [question, answer] texts")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def _prompt(row: Row, key: str, repairs: Repairs) -> tuple[Message, ...]:
    """A prompt given as text or as turns."""
    turns = key in TURNS or isinstance(row.get(key), list)
    return _with_system(row, read_turns(row[key], key, repairs)) if turns else _opening(row, key)


def _answer(value: Any, name: str, prompt: tuple[Message, ...], repairs: Repairs) -> tuple[Message, ...]:
    """An answer given as text, as one turn, or as turns (which may repeat the prompt)."""
    turns: tuple[Message, ...]
    if value is None or isinstance(value, str):
        turns = (Message("assistant", _text({name: value}, name, "empty_answer")),)
    else:
        turns = read_turns([value] if isinstance(value, dict) else value, name, repairs)
    if prompt[-1].role == "assistant":
        raise BadRow("prompt_answered", f"the prompt ends in an assistant turn, before {name}")
    if turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if not turns or turns[0].role != "assistant":
        raise BadRow("no_answer", f"{name} does not begin with an assistant turn")
    return ending_in_answer(turns, repairs)


def _messages(row: Row, meta: Meta, repairs: Repairs) -> Example:
    key = "messages" if "messages" in row else "conversations"
    turns = read_turns(row[key], key, repairs)
    turns = _with_system(row, turns)
    tools = read_tools(row["tools"]) if "tools" in row else ()
    return Conversation(ending_in_answer(turns, repairs), meta, tools)


def _with_system(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """ShareGPT files may hold the system turn in a column of its own."""
    system = _optional(row, "system") if "system" in row else ""
    if system.strip() and turns[0].role == "system":
        raise BadRow("wrong_format", "a system column and a system turn; keep one")
    return (Message("system", system), *turns) if system.strip() else turns


def _alpaca(row: Row, meta: Meta, repairs: Repairs) -> Example:
    return Conversation(
        (*_opening(row, "instruction"), Message("assistant", _text(row, "output", "empty_answer"))), meta
    )


def _prompt_completion(row: Row, meta: Meta, repairs: Repairs) -> Example:
    prompt = _prompt(row, "prompt", repairs)
    key = _key(row, ANSWERS)
    tools = read_tools(row["tools"]) if "tools" in row else ()
    return Conversation((*prompt, *_answer(row.get(key), key, prompt, repairs)), meta, tools)


def _question_answer(row: Row, meta: Meta, repairs: Repairs) -> Example:
    return Conversation(
        (*_opening(row, "question"), Message("assistant", _text(row, "answer", "empty_answer"))), meta
    )


def _pair(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A preference with its prompt in a column: a text, turns, or ShareGPT's ``conversations``."""
    key = _key(row, ("conversations", "messages", *PROMPTS))
    prompt = _prompt(row, key, repairs)
    return _preference(prompt, (row.get("chosen"), row.get("rejected")), row, meta, repairs)


def _openai_pair(row: Row, meta: Meta, repairs: Repairs) -> Example:
    given = row["input"]
    if not isinstance(given, dict):
        raise BadRow("wrong_type", f"input is {kind(given)}, not an object with messages")
    prompt = read_turns(given.get("messages"), "input.messages", repairs)
    answers = row.get("preferred_output"), row.get("non_preferred_output")
    return _preference(prompt, answers, given, meta, repairs)


def _preference(
    prompt: tuple[Message, ...], answers: tuple[Any, Any], row: Row, meta: Meta, repairs: Repairs
) -> Example:
    chosen = _answer(answers[0], "chosen", prompt, repairs)
    rejected = _answer(answers[1], "rejected", prompt, repairs)
    if chosen == rejected:
        raise BadRow("same_answers", "chosen and rejected are equal")
    return Preference(prompt, chosen, rejected, meta, read_tools(row.get("tools")))


def _implicit_pair(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """Two whole chats; the prompt is what they share before the first assistant turn that differs."""
    if isinstance(row["chosen"], str):
        raise BadRow("no_shared_prompt", "chosen is a text and the row has no prompt")
    chosen, rejected = (read_turns(row[side], side, repairs) for side in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRow("same_answers", "chosen and rejected are equal")
    pairs = zip(chosen, rejected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    tails = chosen[shared:], rejected[shared:]
    if shared == 0 or any(not tail or tail[0].role != "assistant" for tail in tails):
        raise BadRow("no_shared_prompt", "the chats do not part at an assistant turn after a shared prompt")
    answers = [ending_in_answer(tail, repairs) for tail in tails]
    if chosen[shared - 1].role == "assistant":
        raise BadRow("prompt_answered", "the shared prompt ends in an assistant turn")
    return Preference(chosen[:shared], answers[0], answers[1], meta, read_tools(row.get("tools")))


def _label_of(row: Row) -> Any:
    """A class (text or whole number), several classes, a number, or liked / not liked."""
    key = _key(row, (*LABELS, "kto_tag"))
    label = row.get(key)
    if isinstance(label, list):
        if not label or not all(isinstance(item, str) and item.strip() for item in label):
            raise BadRow("wrong_type", f"{key} must be a list of one or more texts")
        return tuple(label)
    if label is None or (isinstance(label, str) and not label.strip()):
        raise BadRow("empty_label", f"{key} is empty")
    if not isinstance(label, (str, int, float)):
        raise BadRow("wrong_type", f"{key} is {kind(label)}, not a label")
    return label


def _liked(row: Row) -> bool:
    label = _label_of(row)
    if isinstance(label, str) and label.lower() in ("true", "false"):
        return label.lower() == "true"
    if not isinstance(label, bool):
        raise BadRow("wrong_type", f"the label of an answer must be true or false, not {kind(label)}")
    return label


def _kto(row: Row, meta: Meta, repairs: Repairs) -> Example:
    prompt = _prompt(row, "prompt", repairs)
    key = _key(row, ANSWERS)
    return Labelled((*prompt, *_answer(row.get(key), key, prompt, repairs)), _liked(row), meta)


def _labelled_chat(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A chat with a label; true / false judges its last answer, any other label describes the chat."""
    key = "messages" if "messages" in row else "conversations"
    turns = _with_system(row, read_turns(row[key], key, repairs))
    label = _liked(row) if "kto_tag" in row else _label_of(row)
    if isinstance(label, bool):
        turns = ending_in_answer(turns, repairs)
    return Labelled(turns, label, meta)


def _labelled_text(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A boolean label is a class here; as a bool it would mean that an answer was liked."""
    label = _label_of(row)
    if isinstance(label, bool):
        label = str(label).lower()
    return Labelled((Message("user", _text(row, "text", "empty_text")),), label, meta)


def _scored_text(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A number per text. A table may hold it as text."""
    text = _text(row, "text", "empty_text")
    score = row["score"]
    try:
        number = math.nan if isinstance(score, bool) else float(score)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow("wrong_type", f"score is {kind(score)}, not a finite number")
    return Labelled((Message("user", text),), number, meta)


def _document(row: Row, meta: Meta, repairs: Repairs) -> Example:
    return Text(_text(row, "text", "empty_text"), meta)


_PAIR = (("chosen",), ("rejected",))
FORMATS: tuple[Format, ...] = (
    Format("preference_sharegpt", "preference", (("conversations",), *_PAIR), ("tools", "system"), _pair),
    Format(
        "preference_openai",
        "preference",
        (("input",), ("preferred_output",), ("non_preferred_output",)),
        (),
        _openai_pair,
    ),
    Format("preference", "preference", (PROMPTS, *_PAIR), ("system", "input", "history", "tools"), _pair),
    Format("preference_chats", "preference", _PAIR, ("tools",), _implicit_pair),
    Format("chat_label", "labelled", (TURNS, ("label", "kto_tag")), ("system",), _labelled_chat),
    Format("kto", "labelled", (("prompt",), ANSWERS, ("label", "kto_tag")), ("system", "input"), _kto),
    Format("messages", "conversation", (("messages",),), ("tools",), _messages),
    Format("sharegpt", "conversation", (("conversations",),), ("tools", "system"), _messages),
    Format(
        "alpaca", "conversation", (("instruction",), ("output",)), ("input", "system", "history"), _alpaca
    ),
    Format(
        "prompt_completion",
        "conversation",
        (("prompt",), ANSWERS),
        ("system", "input", "history", "tools"),
        _prompt_completion,
    ),
    Format("question_answer", "conversation", (("question",), ("answer",)), ("system",), _question_answer),
    Format("text_label", "labelled", (("text",), LABELS), (), _labelled_text),
    Format("text_score", "labelled", (("text",), ("score",)), (), _scored_text),
    Format("text", "text", (("text",),), (), _document),
)
BY_NAME = {row.name: row for row in FORMATS}


def format_named(name: str) -> Format:
    """A row of the table by name; raises ``ConfigError`` with the nearest name."""
    if name not in BY_NAME:
        raise ConfigError(f"unknown format {name!r}. {nearest(name, BY_NAME)}")
    return BY_NAME[name]


def recognise(row: Mapping[str, Any]) -> Format | None:
    """The first format of the table that fits the keys of a row."""
    return next((known for known in FORMATS if known.fits(row)), None)


def format_of(rows: Iterable[Mapping[str, Any]]) -> Format | None:
    """The format most of the rows have (the earlier one in a tie), or ``None`` if no row has a known one."""
    votes = Counter(found.name for row in rows if (found := recognise(row)))
    return BY_NAME[votes.most_common(1)[0][0]] if votes else None


def build(known: Format, row: Row, meta: Meta, repairs: Repairs) -> Example:
    """The example a row stands for; raises ``BadRow`` if it does not fit the format of its file."""
    if not known.fits(row):
        other = recognise(row)
        keys = ", ".join(shown(key) for key in list(row)[:8])
        looks = f"the row looks like {other.name}" if other else f"the row has {keys or 'no keys'}"
        raise BadRow("wrong_format", f"the format is {known.name} ({known.describe()}), but {looks}")
    return known.build(row, meta, repairs)
