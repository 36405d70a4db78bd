"""What can be wrong with a row, what happens to it, and what to do: one table, shown in ``docs/data.md``.

``rejected`` rows are left out, ``repaired`` rows are used after a stated change, ``noted`` changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Action = Literal["rejected", "repaired", "noted"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing the reader met: where, why (a code of ``RULES``), in which words, and what to do."""

    source: str
    line: int
    reason: str
    detail: str
    remedy: str
    action: Action

    def where(self) -> str:
        """``file:line``, the form every message uses."""
        return f"{self.source}:{self.line}"

    def __str__(self) -> str:
        stop = "" if self.detail.endswith((".", "?")) else "."
        return f"{self.where()}: {self.action} ({self.reason}): {self.detail}{stop} {self.remedy}"


class Rule(NamedTuple):
    """A row of the table: the outcome, what was met, and the remedy."""

    action: Action
    what: str
    remedy: str


RULES: dict[str, Rule] = {
    # the file
    "bom": Rule("repaired", "byte-order mark at the start of a file", "Nothing to do; it was left out."),
    "crlf": Rule("repaired", "lines that end in CRLF", "Nothing to do; read as LF."),
    "blank_lines": Rule("noted", "blank lines", "Nothing to do; they were passed over."),
    "ignored_keys": Rule("noted", "keys that the format does not use", "Map them if they matter."),
    "no_group": Rule("noted", "rows without the group key", "Add the key; now their prompt groups them."),
    # bytes and JSON
    "invalid_utf8": Rule("rejected", "bytes that are not UTF-8", "Save the file as UTF-8."),
    "over_long": Rule("rejected", "a line or row over 8 MB", "Divide it; look for a lost line end or quote."),
    "broken_json": Rule("rejected", "JSON that is cut off or malformed", "Mend the JSON of this row."),
    "too_deep": Rule("rejected", "nesting deeper than 64 levels", "Flatten the row."),
    "duplicate_key": Rule("rejected", "a key that stands twice in one object", "Keep one of the two values."),
    "not_finite": Rule("rejected", "NaN, Infinity or a number too large", "Write a finite number or null."),
    "big_number": Rule("rejected", "an integer beyond 64 bits", "Write the number as a string."),
    "lone_surrogate": Rule("rejected", "half of a surrogate pair", "Write the character as UTF-8."),
    "control_chars": Rule("repaired", "control characters (NUL …)", "Nothing to do; they were removed."),
    "bad_csv": Rule("rejected", "broken quoting or too few or many fields", "Quote fields with a delimiter."),
    # the shape of a row
    "not_object": Rule("rejected", "a row that is not a JSON object", "Write one object per row."),
    "wrong_format": Rule("rejected", "a row of another format", "One format per file, or map."),
    "wrong_type": Rule("rejected", "a value of the wrong type", "Write the type that the format asks for."),
    "missing_column": Rule("rejected", "a mapped column that the row lacks", "Mend the row or the mapping."),
    # turns
    "unknown_role": Rule("rejected", "a role that is not known", "Use user, assistant, system or tool."),
    "not_text": Rule("rejected", "a turn with an image, audio or file", "Keep text parts only."),
    "empty_turn": Rule("rejected", "no turns, or a turn without text", "Fill the turn or drop the row."),
    "empty_answer": Rule("rejected", "an answer without text", "Write the answer or drop the row."),
    "empty_text": Rule("rejected", "a text without characters", "Fill the text or drop the row."),
    "empty_label": Rule("rejected", "a row without a label", "Add the label or drop the row."),
    "empty_system": Rule("repaired", "an empty system turn", "Nothing to do; the turn was left out."),
    "merged_turns": Rule("repaired", "turns of one role in a row", "Nothing to do; joined by a blank line."),
    "cut_after_answer": Rule("repaired", "turns after the last answer", "Nothing to do; they were left out."),
    "no_answer": Rule("rejected", "a conversation without an assistant turn", "Add one, or format: prompt."),
    "bad_tool_call": Rule("rejected", "an invalid tool call or tool list", "Give a name and JSON arguments."),
    # prompts and answers
    "prompt_answered": Rule("rejected", "a prompt that ends in an answer", "End the prompt in a user turn."),
    "no_shared_prompt": Rule("rejected", "chosen and rejected that share no prompt", "Add a prompt column."),
    "no_question": Rule("rejected", "a prompt that asks nothing", "End the prompt in a user turn."),
    "equal_answers": Rule("rejected", "two equal answers in one row", "Drop one, or the row."),
    "few_answers": Rule("rejected", "a ranking of fewer than two answers", "Add answers or drop the row."),
    "bad_margin": Rule("rejected", "a margin that does not favour chosen", "Mend or drop it."),
    "bad_scores": Rule("rejected", "scores that do not rank the answers", "Give each answer its number."),
    # cleaning: texts that are mended, rows that teach nothing
    "mojibake": Rule("repaired", "text decoded with a wrong encoding", "Read the source as UTF-8."),
    "invisible_chars": Rule("repaired", "control, zero-width or bidi characters", "Nothing to do; removed."),
    "unicode_form": Rule("repaired", "characters not in Unicode NFC", "Nothing to do; now in NFC."),
    "html": Rule("repaired", "HTML tags or entities", "To keep them, set the step html: off."),
    "template_residue": Rule("repaired", "tokens or heads of a prompt format", "Give turns, not prompts."),
    "white_space": Rule("repaired", "stray white space", "To keep it, set the step white_space: off."),
    "repeated_text": Rule("repaired", "text that repeats itself", "Look at what wrote the text."),
    "refusal": Rule("rejected", "an answer that refuses", "To keep refusals, set the step refusal: off."),
    "copied_question": Rule("rejected", "an answer that copies the question", "Write the answer."),
    "unfilled_template": Rule("noted", "a slot like {{name}} in an answer", "Fill the slot."),
    "truncated": Rule("noted", "an answer that breaks off", "Raise the limit that cut it, or drop the row."),
    "ignores_input": Rule("noted", "an answer on another subject", "See if it belongs to this row."),
    "placeholder_answer": Rule("rejected", "a placeholder (N/A, none …)", "Write the answer."),
    "boilerplate_answer": Rule("noted", "one long answer in many rows", "Vary it, or drop some rows."),
    "wrong_language": Rule("noted", "a row in another language", "Set the language, or drop the row."),
    "unsettled": Rule("noted", "text that cleaning would never settle", "Look at the row; it was left."),
    # cleaning ends here

    # personal data and secrets
    "personal_data": Rule("rejected", "personal data in a row", "Mask it instead, or write another row."),
    # personal data ends here

    # duplicates, contamination, poisoning
    "near_duplicate": Rule("rejected", "a row like another", "Nothing to do; the best of them was kept."),
    "near_test": Rule("rejected", "a row like one of the test data", "Nothing to do; kept there."),
    "near_validation": Rule("rejected", "a row like one of validation", "Nothing to do; kept there."),
    "contaminated": Rule("rejected", "a row with an item of a benchmark", "Keep it out of training."),
    # duplicates end here

    # preparation
    "duplicate": Rule("rejected", "the same row again", "Nothing to do; the first was kept."),
    "no_time": Rule("rejected", "a row without the time to divide by", "Give the row a time (ISO 8601)."),
    "in_test": Rule("rejected", "a question of the test data", "Nothing to do; kept there."),
    "in_validation": Rule("rejected", "a question of validation", "Nothing to do; kept there."),
    "synthetic": Rule("rejected", "a synthetic row among those that judge", "Judge on real rows."),
}  # fmt: skip


class BadRow(Exception):
    """Raised while a row is read, caught by the reader and turned into a ``Problem``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def problem(source: str, line: int, reason: str, detail: str) -> Problem:
    """The ``Problem`` for a reason code, with the remedy and the action that ``RULES`` states."""
    rule = RULES[reason]
    return Problem(source, line, reason, detail, rule.remedy, rule.action)
