"""Formats of rows to learn judging from: two answers of which one is preferred, or several with scores."""

from __future__ import annotations

import math
from typing import Any

from tunewright.core.records import Example, Message, Meta, Preference, Ranking
from tunewright.data.columns import kind
from tunewright.data.formats_parts import (
    PROMPTS,
    TURNS,
    Row,
    answer_of,
    key_of,
    number_of,
    prompt_of,
    said,
    tools_of,
)
from tunewright.data.messages import Repairs, ending_in_answer, read_turns
from tunewright.data.problems import BadRow

SCORE_PAIRS = (("chosen_score", "rejected_score"), ("score_chosen", "score_rejected"))
MARGINS = ("margin", *(name for pair in SCORE_PAIRS for name in pair))
GROUPS = ("answers", "responses", "completions")
RANKS = ("ranks", "ranking")
SCORES = ("scores", *RANKS)
Turns = tuple[Message, ...]


def pair(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A preference with its prompt in a column, as text or turns."""
    prompt = prompt_of(row, key_of(row, PROMPTS), repairs)
    return _preference(row, prompt, (row.get("chosen"), row.get("rejected")), meta, repairs)


def sharegpt_pair(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A preference whose prompt is ShareGPT's ``conversations``."""
    prompt = prompt_of(row, "conversations", repairs)
    return _preference(row, prompt, (row.get("chosen"), row.get("rejected")), meta, repairs)


def openai_pair(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """OpenAI's spelling: prompt and tools stand in ``input``."""
    given = row["input"]
    if not isinstance(given, dict):
        raise BadRow("wrong_type", f"input is {kind(given)}, not an object with messages")
    prompt = read_turns(given.get("messages"), "input.messages", repairs)
    answers = row.get("preferred_output"), row.get("non_preferred_output")
    return _preference({**row, "tools": given.get("tools")}, prompt, answers, meta, repairs)


def _preference(row: Row, prompt: Turns, answers: tuple[Any, Any], meta: Meta, repairs: Repairs) -> Example:
    chosen = answer_of(answers[0], "chosen", prompt, repairs)
    rejected = answer_of(answers[1], "rejected", prompt, repairs)
    _differ(chosen, rejected)
    return Preference(prompt, chosen, rejected, meta, tools_of(row), margin_of(row))


def _differ(chosen: Turns, rejected: Turns) -> None:
    if said(chosen) == said(rejected):
        raise BadRow("equal_answers", "chosen and rejected are equal")


def implicit_pair(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """Two whole chats; the prompt is what they share before the first assistant turn that differs."""
    if isinstance(row["chosen"], str):
        raise BadRow("no_shared_prompt", "chosen is a text and the row has no prompt")
    chosen, rejected = (read_turns(row[side], side, repairs) for side in ("chosen", "rejected"))
    _differ(chosen, rejected)
    pairs = zip(chosen, rejected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    tails = chosen[shared:], rejected[shared:]
    if shared == 0 or any(not tail or tail[0].role != "assistant" for tail in tails):
        raise BadRow("no_shared_prompt", "the chats do not part at an assistant turn after a shared prompt")
    better, worse = (ending_in_answer(tail, repairs) for tail in tails)
    if chosen[shared - 1].role == "assistant":
        raise BadRow("prompt_answered", "the shared prompt ends in an assistant turn")
    _differ(better, worse)
    return Preference(chosen[:shared], better, worse, meta, tools_of(row), margin_of(row))


def margin_of(row: Row) -> float | None:
    """By how much chosen is better: ``margin`` (at least 0), or the difference of two scores (above 0).

    ``None`` if the row says nothing; where it says so twice, both must agree.
    """
    found: dict[str, float] = {}
    if _given(row, "margin"):
        found["margin"] = number_of(row["margin"], "margin")
        if found["margin"] < 0:
            raise BadRow("bad_margin", f"margin is {found['margin']:g}, below 0")
    for better, worse in SCORE_PAIRS:
        if _given(row, better) or _given(row, worse):
            found[f"{better} - {worse}"] = _difference(row, better, worse)
    if not found:
        return None
    (first, margin), *others = found.items()
    for name, value in others:
        if not math.isclose(margin, value, rel_tol=1e-6, abs_tol=1e-9):
            raise BadRow("bad_margin", f"{first} is {margin:g}, but {name} is {value:g}")
    return margin


def _given(row: Row, name: str) -> bool:
    """Tables write a missing number as an empty cell."""
    value = row.get(name)
    return value is not None and not (isinstance(value, str) and not value.strip())


def _difference(row: Row, better: str, worse: str) -> float:
    for name, other in ((better, worse), (worse, better)):
        if not _given(row, name):
            raise BadRow("bad_margin", f"{other} is given without {name}")
    high, low = number_of(row[better], better), number_of(row[worse], worse)
    if high <= low:
        relation = "equal to" if high == low else "below"
        raise BadRow("bad_margin", f"{better} {high:g} is {relation} {worse} {low:g}")
    return number_of(high - low, f"{better} - {worse}")


def ranking(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A prompt and a list of answers with scores (higher is better) or ranks (1 is best)."""
    prompt = prompt_of(row, key_of(row, (*PROMPTS, *TURNS)), repairs)
    key = key_of(row, GROUPS)
    given = row[key]
    if not isinstance(given, list):
        raise BadRow("wrong_type", f"{key} is {kind(given)}, not a list of answers")
    if len(given) < 2:
        raise BadRow("few_answers", f"{key} has {len(given)} answers; a ranking needs at least 2")
    answers = tuple(_answer(value, n, key, prompt, repairs) for n, value in enumerate(given, 1))
    seen: dict[bytes, int] = {}
    for n, answer in enumerate(answers, 1):
        first = seen.setdefault(said(answer), n)
        if first != n:
            raise BadRow("equal_answers", f"answers {first} and {n} are equal")
    return Ranking(prompt, answers, _scores(row, len(answers)), meta, tools_of(row))


def _answer(value: Any, number: int, key: str, prompt: Turns, repairs: Repairs) -> Turns:
    try:
        return answer_of(value, f"{key}[]", prompt, repairs)
    except BadRow as bad:
        raise BadRow(bad.reason, f"answer {number}: {bad.detail}") from None


def _scores(row: Row, count: int) -> tuple[float, ...]:
    """One score for each answer; ranks are negated, so that a higher score is better."""
    names = [name for name in SCORES if row.get(name) is not None]
    if len(names) != 1:
        found = " and ".join(names) or "neither scores nor ranks"
        raise BadRow("bad_scores", f"the row has {found}; give one list")
    key = names[0]
    if not isinstance(row[key], list):
        raise BadRow("wrong_type", f"{key} is {kind(row[key])}, not a list of numbers")
    if len(row[key]) != count:
        raise BadRow("bad_scores", f"{len(row[key])} {key} for {count} answers")
    values = [number_of(value, f"number {n} of {key}") for n, value in enumerate(row[key], 1)]
    if len(set(values)) == 1:
        raise BadRow("bad_scores", f"all {key} are {values[0]:g}, so no answer is better")
    if key in RANKS and min(values) < 1:
        raise BadRow("bad_scores", f"{key} has {min(values):g}, but 1 is the best rank")
    return tuple(-value for value in values) if key in RANKS else tuple(values)
