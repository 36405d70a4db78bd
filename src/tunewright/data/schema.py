"""The formats: one table. A row states the keys that mark a format, those it may use, and how it is read.

A file has one format, found from its first rows: the first in the table whose marking keys are all there.
To add a format, write a builder (``formats_*.py``) and a table row, and give ``docs/data.md`` one example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.core.records import Example, Kind, Meta
from tunewright.data import formats_chat as chat
from tunewright.data import formats_compare as compare
from tunewright.data import formats_label as labels
from tunewright.data.formats_parts import ANSWERS, OPENING, PROMPTS, TURNS, Row
from tunewright.data.formats_prompt import prompt
from tunewright.data.messages import Repairs, asks_only, holds_answer
from tunewright.data.problems import BadRow
from tunewright.data.strict import shown


@dataclass(frozen=True)
class Format:
    """One known format. Each entry of ``needs`` is a tuple of names, one of which must be present.

    A row with a name in ``lacks`` is of another format. ``keeps_rest``: no column is left unused.
    """

    name: str
    becomes: Kind
    needs: tuple[tuple[str, ...], ...]
    may: tuple[str, ...]
    build: Callable[[Row, Meta, Repairs], Example]
    lacks: frozenset[str] = frozenset()
    keeps_rest: bool = False
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        known = {name for names in self.needs for name in names} | set(self.may) | {"id", "meta"}
        object.__setattr__(self, "known", frozenset(known))

    def fits(self, row: Mapping[str, Any]) -> bool:
        """True if the row has every key that marks this format, and none of another."""
        marked = all(any(name in row for name in names) for names in self.needs)
        return marked and self.lacks.isdisjoint(row)

    def describe(self) -> str:
        """The marking keys in words."""
        return " + ".join("/".join(names) for names in self.needs) + " alone" * bool(self.lacks)


_PAIR = (("chosen",), ("rejected",))
_OPENAI_PAIR = (("input",), ("preferred_output",), ("non_preferred_output",))
_SHAREGPT = ("tools", "system")
_JUDGED = labels.JUDGED
_REST = (*OPENING, "tools")
_MARGINS = compare.MARGINS
# Whoever has one of these says more than a question.
_TARGETS = ("chosen", "rejected", "preferred_output", "non_preferred_output", "score", "kto_tag")
ANSWERED = frozenset(
    {*ANSWERS, "output", "answer", *_TARGETS, *compare.GROUPS, *compare.SCORES, *labels.LABELS} - {"target"}
)

FORMATS: tuple[Format, ...] = (
    Format(
        "preference_sharegpt",
        "preference",
        (("conversations",), *_PAIR),
        (*_SHAREGPT, *_MARGINS),
        compare.sharegpt_pair,
    ),
    Format("preference_openai", "preference", _OPENAI_PAIR, _MARGINS, compare.openai_pair),
    Format("preference", "preference", (PROMPTS, *_PAIR), (*_REST, *_MARGINS), compare.pair),
    Format("preference_chats", "preference", _PAIR, ("tools", *_MARGINS), compare.implicit_pair),
    Format(
        "ranking",
        "ranking",
        ((*PROMPTS, *TURNS), compare.GROUPS, compare.SCORES),
        _REST,
        compare.ranking,
    ),
    Format("chat_label", "labelled", (TURNS, _JUDGED), ("system",), labels.labelled_chat),
    Format("kto", "labelled", (("prompt",), ANSWERS, _JUDGED), OPENING, labels.kto),
    Format("messages", "conversation", (("messages",),), _SHAREGPT, chat.messages),
    Format("sharegpt", "conversation", (("conversations",),), _SHAREGPT, chat.messages),
    Format("alpaca", "conversation", (("instruction",), ("output",)), OPENING, chat.alpaca),
    Format("prompt_completion", "conversation", (("prompt",), ANSWERS), _REST, chat.prompt_completion),
    Format("question_answer", "conversation", (("question",), ("answer",)), OPENING, chat.question_answer),
    Format("text_label", "labelled", (("text",), labels.LABELS), (), labels.labelled_text),
    Format("text_score", "labelled", (("text",), ("score",)), (), labels.scored_text),
    Format("text", "text", (("text",),), (), chat.document),
    Format("prompt", "prompt", ((*PROMPTS, *TURNS),), (*_REST, "fields"), prompt, ANSWERED, keeps_rest=True),
)
BY_NAME = {row.name: row for row in FORMATS}
PROMPT = BY_NAME["prompt"]


def format_named(name: str) -> Format:
    """A row of the table by name, which then reads every row that has its marking keys.

    Raises ``ConfigError`` with the nearest name.
    """
    if name not in BY_NAME:
        raise ConfigError(f"unknown format {name!r}. {nearest(name, BY_NAME)}")
    return replace(BY_NAME[name], lacks=frozenset())


def recognise(row: Mapping[str, Any]) -> Format | None:
    """The first format of the table that fits the keys of a row."""
    return next((known for known in FORMATS if known.fits(row)), None)


def format_of(rows: Iterable[Mapping[str, Any]]) -> Format | None:
    """The format most of the rows have (the earlier one in a tie), or ``None`` if no row has a known one.

    ``prompt`` is the last resort: for files in which no row has another format, and for chats of which none
    holds an answer.
    """
    rows = list(rows)
    votes = Counter(known.name for row in rows if (known := recognise(row)))
    others = Counter({name: n for name, n in votes.items() if name != PROMPT.name})
    if not others:
        return PROMPT if votes else None
    found = BY_NAME[others.most_common(1)[0][0]]
    return PROMPT if found.build is chat.messages and _only_ask(rows) else found


def _only_ask(rows: list[Mapping[str, Any]]) -> bool:
    """True if some chat ends in a question, and none of all holds an answer."""
    chats = [[row[key] for key in TURNS if key in row] for row in rows]
    if any(holds_answer(raw) for raws in chats for raw in raws):
        return False
    return any(PROMPT.fits(row) and any(map(asks_only, raws)) for row, raws in zip(rows, chats, strict=True))


def advice(row: Mapping[str, Any]) -> str:
    """What to do about a row whose keys are those of no format."""
    mapping = 'map them with columns, for example {"prompt": "…", "completion": "…"}'
    if not format_named(PROMPT.name).fits(row):
        return mapping
    return f"{mapping}, or set format to 'prompt' to keep all but the question as fields for rewards"


def build(known: Format, row: Row, meta: Meta, repairs: Repairs) -> Example:
    """The example a row stands for; raises ``BadRow`` if it does not fit the format of its file."""
    if not known.fits(row):
        other = recognise(row)
        keys = ", ".join(shown(key) for key in list(row)[:8])
        looks = f"the row looks like {other.name}" if other else f"the row has {keys or 'no keys'}"
        raise BadRow("wrong_format", f"the format is {known.name} ({known.describe()}), but {looks}")
    return known.build(row, meta, repairs)
