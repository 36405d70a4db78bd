"""The filters of single rows in one table: pure, idempotent functions of a row and of what is to happen.

To add one: a function ``(example, action) -> Keep | Drop``, or a function of a text given to ``_mending``; a
row of ``FILTERS``; its reason in ``RULES``; its row in ``docs/clean.md``; a hit and a near miss in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from tunewright.core.records import Conversation, Example, Labelled, Preference, Text
from tunewright.data.clean.answers import breaks_off, copies, shares_nothing
from tunewright.data.clean.characters import mend_mojibake, nfc, without_invisible
from tunewright.data.clean.code import looks_like_code
from tunewright.data.clean.markup import html_to_text, is_about_markup
from tunewright.data.clean.outcome import Drop, Keep, Outcome
from tunewright.data.clean.parts import (
    EVERYWHERE,
    TALK,
    Place,
    answers_learnt,
    asked,
    last_question,
    mapped,
)
from tunewright.data.clean.refusals import is_given_text, refuses
from tunewright.data.clean.repeats import Cut, may_repeat, without_loops
from tunewright.data.clean.residue import is_about_turns, unfilled, without_edge_tokens, without_residue
from tunewright.data.clean.spacing import tidy

Step = Literal["repair", "drop", "note", "off"]
REPAIRS: tuple[Step, ...] = ("repair", "drop", "note", "off")
DROPS: tuple[Step, ...] = ("drop", "note", "off")
NOTES: tuple[Step, ...] = ("note", "drop", "off")
LEARNT: frozenset[Place] = frozenset(("answer", "document"))
WRITTEN: frozenset[Place] = frozenset(("answer", "other"))
READ: frozenset[Place] = frozenset(("prompt", "document"))


class Filter(NamedTuple):
    """``name`` is its reason code as well; ``steps`` are what may happen, the default first."""

    name: str
    steps: tuple[Step, ...]
    run: Callable[[Example, Step], Outcome]


Mend = tuple[frozenset[Place], Callable[[str], str]]


def _mending(name: str, *mends: Mend, unless: Callable[[str], bool] | None = None) -> Filter:
    """A filter that changes texts at their places, unless what is asked says that they are meant so."""

    def run(example: Example, step: Step) -> Outcome:
        mended = example
        for places, change in mends:
            mended = mapped(mended, places, change)
        if mended is example or (unless is not None and unless(asked(example))):
            return Keep(example)
        return _judged(name, step, example, mended, f"{_texts_changed(example, mended)} changed")

    return Filter(name, REPAIRS, run)


def _judged(name: str, step: Step, example: Example, mended: Example, detail: str) -> Outcome:
    if step == "drop":
        return Drop(name, detail)
    return Keep(mended, ((name, detail),)) if step == "repair" else Keep(example, notes=((name, detail),))


def _texts_changed(before: Example, after: Example) -> str:
    """How many texts differ, counted as the edits themselves are made."""
    texts: list[list[str]] = []
    for example in (before, after):
        texts.append([])
        mapped(example, EVERYWHERE, lambda text, seen=texts[-1]: seen.append(text) or text)  # type: ignore[misc,func-returns-value]
    count = sum(a != b for a, b in zip(*texts, strict=True))
    return f"{count} text{'s' if count != 1 else ''}"


def _met(name: str, step: Step, example: Example, detail: str) -> Outcome:
    """What happens to a row that cannot be mended."""
    return Drop(name, detail) if step == "drop" else Keep(example, notes=((name, detail),))


def _repeated(example: Example, step: Step) -> Outcome:
    cuts: list[tuple[int, Cut]] = []

    def cut(text: str) -> str:
        found = without_loops(text)
        if found.text != text:
            cuts.append((len(text), found))
        return found.text

    mended = mapped(example, LEARNT, cut)
    if not cuts or may_repeat(asked(example)):
        return Keep(example)
    before, after = sum(size for size, _ in cuts), sum(len(found.text) for _, found in cuts)
    detail = f"{before:,} characters, {after:,} without repetition"
    if step == "repair" and not isinstance(example, Text) and not all(found.whole for _, found in cuts):
        return Drop("repeated_text", f"{detail}, and those break off")
    return _judged("repeated_text", step, example, mended, detail)


def _refusal(example: Example, step: Step) -> Outcome:
    """In pairs a refusal was chosen on purpose; in a row with tools it says what they cannot do."""
    if not isinstance(example, (Conversation, Labelled)):
        return Keep(example)
    answers = answers_learnt(example)
    refusing = [n for n, answer in enumerate(answers, 1) if refuses(answer)]
    if not refusing or is_given_text(asked(example)):
        return Keep(example)
    meant = isinstance(example, Labelled) or bool(example.tools) or refusing[-1] != len(answers)
    detail = f"answer {refusing[-1]} of {len(answers)} refuses"
    return _met("refusal", "note" if meant else step, example, detail)


def _copied(example: Example, step: Step) -> Outcome:
    answer = _last_answer(example)
    if answer and copies(last_question(example), answer):
        return _met("copied_question", step, example, "the last answer says what was asked, and nothing else")
    return Keep(example)


def _unfilled(example: Example, step: Step) -> Outcome:
    if any(unfilled("", answer) for answer in answers_learnt(example)):
        question = asked(example)
        if any(unfilled(question, answer) for answer in answers_learnt(example)):
            return _met("unfilled_template", step, example, "a slot of a form stands in an answer")
    return Keep(example)


def _truncated(example: Example, step: Step) -> Outcome:
    answer = _last_answer(example)
    if answer and breaks_off(answer) and not looks_like_code(answer):
        return _met(
            "truncated", step, example, f"the last answer breaks off after {len(answer):,} characters"
        )
    return Keep(example)


def _ignoring(example: Example, step: Step) -> Outcome:
    answer = _last_answer(example)
    if answer and shares_nothing(last_question(example), answer):
        return _met("ignores_input", step, example, "the last answer shares no word with its long question")
    return Keep(example)


def _last_answer(example: Example) -> str:
    if not isinstance(example, (Conversation, Preference)):
        return ""
    answers = answers_learnt(example)
    return answers[-1] if answers else ""


FILTERS: tuple[Filter, ...] = (
    _mending("mojibake", (EVERYWHERE, mend_mojibake)),
    _mending("invisible_chars", (EVERYWHERE, without_invisible)),
    _mending("unicode_form", (EVERYWHERE, nfc)),
    _mending("html", (TALK, html_to_text), unless=is_about_markup),
    _mending(
        "template_residue", (WRITTEN, without_residue), (READ, without_edge_tokens), unless=is_about_turns
    ),
    _mending("white_space", (TALK, tidy)),
    Filter("repeated_text", REPAIRS, _repeated),
    Filter("refusal", DROPS, _refusal),
    Filter("copied_question", DROPS, _copied),
    Filter("unfilled_template", NOTES, _unfilled),
    Filter("truncated", NOTES, _truncated),
    Filter("ignores_input", NOTES, _ignoring),
)
