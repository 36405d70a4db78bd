"""From raw turns (OpenAI or ShareGPT spelling) to messages, with the rules for turns stated in one place."""

from __future__ import annotations

from typing import Any

from tunewright.core.names import nearest
from tunewright.core.records import ROLES, Message
from tunewright.data.columns import kind
from tunewright.data.problems import BadRow
from tunewright.data.strict import parse_json, shown, without_controls

ALIASES = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
CALLS = ("function_call", "tool_call")
EXTRAS = ("name", "tool_call_id", "reasoning_content", "thinking")
TURN_KEYS = frozenset(("role", "content", "from", "value", "weight", "tool_calls", "function_call", *EXTRAS))

Repairs = list[tuple[str, str]]
"""``(reason, detail)`` of what was changed while a row was read."""


def read_turns(raw: Any, name: str, repairs: Repairs) -> tuple[Message, ...]:
    """Messages of the list of turns under the key ``name``. Raises ``BadRow``; appends to ``repairs``."""
    if not isinstance(raw, list):
        raise BadRow("wrong_type", f"{name} is {kind(raw)}, not a list of turns")
    turns: list[Message] = []
    for number, item in enumerate(raw, 1):
        turn = _turn(item, number)
        if len(item) > 2:
            unused = [key for key in item if key not in TURN_KEYS and item[key] is not None]
            repairs += [("ignored_keys", f"{name}[].{key}") for key in unused]
        if turn.role == "system" and not turn.content.strip():
            repairs.append(("empty_system", f"turn {number}"))
        elif turns and _joins(turns[-1], turn):
            turns[-1] = Message(turn.role, f"{turns[-1].content}\n\n{turn.content}", turn.weight)
            repairs.append(("merged_turns", f"turn {number} is a second {turn.role} turn in a row"))
        else:
            turns.append(turn)
    if not turns:
        raise BadRow("empty_turn", f"{name} has no turns" if not raw else f"{name} has no turn with text")
    return tuple(turns)


def _joins(before: Message, turn: Message) -> bool:
    """Plain turns of one role in a row are one turn; most chat templates refuse them otherwise."""
    plain = turn.role in ("user", "assistant") and not turn.extra and not before.extra
    return plain and before.role == turn.role and before.weight == turn.weight


def _turn(item: Any, number: int) -> Message:
    if type(item) is not dict:
        raise BadRow("wrong_type", f"turn {number} is {kind(item)}, not an object")
    raw_role = item.get("role", item.get("from"))
    if not isinstance(raw_role, str):
        raise BadRow("wrong_type", f"turn {number} has no role ('role' or 'from')")
    if raw_role in CALLS:
        return _function_call(item, number)
    role = ALIASES.get(raw_role)
    if role is None:
        hint = nearest(raw_role, ALIASES)
        raise BadRow("unknown_role", f"turn {number} has the role {shown(raw_role)}. {hint}")
    content = item["content"] if "content" in item else item.get("value")
    if len(item) == 2 and type(content) is str and content and not content.isspace():
        return Message(role, content)
    return _full_turn(item, number, role, content)


def _full_turn(item: dict[str, Any], number: int, role: str, content: Any) -> Message:
    """A turn with more than a role and a plain text."""
    extra = {key: item[key] for key in EXTRAS if item.get(key) is not None}
    if any(not isinstance(value, str) for value in extra.values()):
        raise BadRow("wrong_type", f"turn {number}: {', '.join(extra)} must be text")
    calls = item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else None)
    if calls is not None:
        if role != "assistant":
            raise BadRow("bad_tool_call", f"turn {number}: only an assistant turn can call a tool")
        extra["tool_calls"] = _calls(calls, number)
    text = "" if content is None and calls is not None else _content_text(content, number)
    if not text.strip() and role not in ("tool", "system") and calls is None:
        reason = "empty_answer" if role == "assistant" else "empty_turn"
        raise BadRow(reason, f"turn {number} ({role}) has no text")
    return Message(role, text, _weight(item.get("weight"), number), extra)


def _content_text(content: Any, number: int) -> str:
    """The text of a turn: a string, or text parts put together; raises ``BadRow`` for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow("wrong_type", f"turn {number}: the content is {kind(content)}, not text")
    texts = []
    for part in content:
        part_type, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, None)
        if part_type != "text":
            raise BadRow("not_text", f"turn {number} has a part of type {shown(part_type)}")
        if not isinstance(text, str):
            raise BadRow("wrong_type", f"turn {number}: the text of a part is {kind(text)}")
        texts.append(text)
    return "".join(texts)


def _weight(value: Any, number: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise BadRow("wrong_type", f"turn {number}: weight must be a number of at least 0")
    return value


def _function_call(item: dict[str, Any], number: int) -> Message:
    """ShareGPT's ``function_call`` turn: its value is the JSON of one call or of a list of calls."""
    raw = item.get("value", item.get("content"))
    value = _json(raw, f"turn {number}: the function call") if isinstance(raw, str) else raw
    calls = _calls(value if isinstance(value, list) else [value], number)
    return Message("assistant", "", _weight(item.get("weight"), number), {"tool_calls": calls})


def _calls(raw: Any, number: int) -> list[dict[str, Any]]:
    """Tool calls with the arguments as an object, which is what chat templates expect."""
    if not isinstance(raw, list) or not raw:
        raise BadRow("bad_tool_call", f"turn {number}: tool_calls is {kind(raw)}, not a list of calls")
    calls = []
    for call in raw:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("bad_tool_call", f"turn {number}: a call without a function name")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _json(arguments or "{}", f"turn {number}: the arguments of a call")
        if not isinstance(arguments, dict):
            raise BadRow("bad_tool_call", f"turn {number}: the arguments are {kind(arguments)}")
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        named = {"name": function["name"], "arguments": arguments}
        calls.append({**identity, "type": "function", "function": named})
    return calls


def read_tools(raw: Any) -> tuple[dict[str, Any], ...]:
    """The tools of a row: a list of objects, or the JSON text of one (as ShareGPT files have it)."""
    if raw is None or raw == "":
        return ()
    value = _json(raw, "tools") if isinstance(raw, str) else raw
    if not isinstance(value, list) or any(not isinstance(tool, dict) for tool in value):
        raise BadRow("bad_tool_call", "tools is not a list of objects")
    return tuple(value)


def _json(text: str, what: str) -> Any:
    try:
        value, controls = without_controls(parse_json(text.encode("utf-8")))
    except BadRow as bad:
        raise BadRow("bad_tool_call", f"{what}: not JSON ({bad.detail})") from None
    if controls:
        raise BadRow("bad_tool_call", f"{what}: escaped control characters")
    return value


def holds_answer(raw: Any) -> bool:
    """True if a raw list of turns has one of the assistant."""
    return any(role in CALLS or ALIASES.get(role) == "assistant" for role in _raw_roles(raw))


def asks_only(raw: Any) -> bool:
    """True if a raw list of turns ends in a user or tool turn and has none of the assistant."""
    roles = _raw_roles(raw)
    return bool(roles) and ALIASES.get(roles[-1]) in ("user", "tool") and not holds_answer(raw)


def _raw_roles(raw: Any) -> list[str]:
    turns = raw if isinstance(raw, list) else []
    roles = (turn.get("role", turn.get("from")) if isinstance(turn, dict) else None for turn in turns)
    return [role if isinstance(role, str) else "" for role in roles]


def ending_in_answer(turns: tuple[Message, ...], repairs: Repairs) -> tuple[Message, ...]:
    """``turns`` up to the last assistant turn; raises ``BadRow`` if there is none."""
    if turns[-1].role == "assistant":
        return turns
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    if last < 0:
        raise BadRow("no_answer", f"{len(turns)} turns, none of the assistant")
    repairs.append(("cut_after_answer", f"{len(turns) - 1 - last} turns after the last answer"))
    return turns[: last + 1]
