"""What ``data check`` looks for in single rows: a table of patterns, why each matters and what to do.

The rules are few and precise; a hit is a suspicion to look at, never a reason to reject. Personal data is
only counted and located: no value is ever kept, shown or logged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

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
from tunewright.data.audit.injections import exfiltrates, has_blob, has_hidden_text, injects
from tunewright.data.clean import (
    has_html,
    has_invisible,
    has_mojibake,
    is_placeholder,
    refuses,
    repeats_itself,
)
from tunewright.data.keys import texts_of
from tunewright.data.redact.library import missing_packages
from tunewright.data.redact.search import search
from tunewright.data.redact.settings import RedactSettings
from tunewright.data.redact.walk import Leaf

PERSONAL = RedactSettings()  # what stands for sure, people by the words around them


@dataclass(frozen=True)
class RowRule:
    """``found`` says whether a text has the trait; ``scope``: ``all`` texts or ``answers``."""

    code: str
    what: str
    why: str
    advice: str
    scope: str
    found: Callable[[str], bool]


def answers_in(example: Example) -> list[str]:
    """Every text that a model would learn to write; none for labels and prompts."""
    if isinstance(example, Text):
        return [example.text]
    return [m.content for m in _answering(example) if m.role == "assistant" and m.content]


def _answering(example: Conversation | Preference | Ranking | Prompt | Labelled) -> Iterable[Message]:
    """The turns among which a model's answers stand; none of a row that only asks, or that has a label."""
    if isinstance(example, Preference):
        return (*example.chosen, *example.rejected)
    if isinstance(example, Ranking):
        return chain.from_iterable(example.answers)
    if isinstance(example, Prompt) or (isinstance(example, Labelled) and not isinstance(example.label, bool)):
        return ()
    return example.messages


def rules_met(example: Example) -> list[RowRule]:
    """The rules of the table that a row meets."""
    everything = "\n".join(texts_of(example))
    answers = answers_in(example)
    return [
        rule
        for rule in ROW_RULES
        if (rule.found(everything) if rule.scope == "all" else any(map(rule.found, answers)))
    ]


def _searches(pattern: str, flags: int = 0) -> Callable[[str], bool]:
    compiled = re.compile(pattern, flags)
    return lambda text: compiled.search(text) is not None


ROW_RULES: tuple[RowRule, ...] = (
    RowRule(
        "placeholder_answer",
        "answers that are a placeholder (N/A, none, …)",
        "The model learns to give no answer.",
        "Write the answer or drop the row.",
        "answers",
        is_placeholder,
    ),
    RowRule(
        "refusal",
        "answers that refuse",
        "A few refusals teach a model to refuse much more.",
        "Keep only the refusals you want.",
        "answers",
        refuses,
    ),
    RowRule(
        "repeated_text",
        "texts that repeat themselves",
        "The model learns to loop.",
        "Cut the text or drop the row.",
        "answers",
        repeats_itself,
    ),
    RowRule(
        "mojibake",
        "text decoded with the wrong encoding",
        "The model learns to write broken characters.",
        "Read the source again as UTF-8.",
        "all",
        has_mojibake,
    ),
    RowRule(
        "html",
        "HTML tags or entities",
        "Markup of web pages ends up in the answers.",
        "Strip it, unless the task is HTML.",
        "all",
        has_html,
    ),
    RowRule(
        "invisible_chars",
        "zero-width or direction-changing characters",
        "What a reader sees is not what the model reads.",
        "Remove them.",
        "all",
        has_invisible,
    ),
    RowRule(
        "control_tokens",
        "strings that look like a chat template's control tokens",
        "They are read as plain text, so the template was probably applied already.",
        "Give turns, not rendered text.",
        "all",
        _searches(
            r"<\|[a-z][a-z_0-9]*\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:pad|unk|bos|eos)>"
        ),
    ),
    RowRule(
        "prompt_injection",
        "texts that command a model to set its instructions aside, reveal them, or hide something",
        "The model learns to obey such text; a row like this may have been planted.",
        "Read them and their source; keep only what teaches to refuse.",
        "all",
        injects,
    ),
    RowRule(
        "exfiltration",
        "addresses made to carry a conversation or secrets away",
        "The model learns to write them, and a program that shows its answers loads them.",
        "Drop the rows; look at where they came from.",
        "all",
        exfiltrates,
    ),
    RowRule(
        "encoded_text",
        "blocks of base64 or escaped bytes",
        "Nobody can read what they say, and they can hide instructions.",
        "Decode and read them, or drop the rows.",
        "all",
        has_blob,
    ),
    RowRule(
        "hidden_text",
        "characters that spell a message without showing it (tags, selectors, runs of zero width)",
        "What a reader sees is not what the model reads.",
        "Remove them; look at where the rows came from.",
        "all",
        has_hidden_text,
    ),
)

# Codes of personal data: the type in small letters, but for one that scripts know by a shorter name.
_SHORT = {"CREDIT_CARD": "card"}


def personal_code(kind: str) -> str:
    """The code of a finding of one of the types of ``data.redact``."""
    return f"personal_{_SHORT.get(kind, kind.lower())}"


def not_searched() -> tuple[str, str, str] | None:
    """What is to be said where personal data cannot be looked for: what, why it matters, what to do."""
    if not (missing := missing_packages()):
        return None
    what = f"rows in which no personal data was looked for, because {', '.join(missing)} is not installed"
    return what, "A model can repeat what it was trained on.", "Install it: pip install 'tunewright[pii]'."


def personal_words(kind: str) -> tuple[str, str, str]:
    """What is said of rows with one of the types: what, why it matters, what to do."""
    what = f"{kind.lower().replace('_', ' ')}: personal data or a secret"
    return what, "A model can repeat what it was trained on.", "Redact it: tunewright data prepare."


def personal_kinds(texts: Iterable[str]) -> set[str]:
    """The types of personal data and secrets of which at least one is found for sure in ``texts``.

    Where a package that the search needs is missing, nothing is; ``not_searched`` says so.
    """
    if missing_packages():
        return set()
    found = search([Leaf("", text, "") for text in texts if text], PERSONAL)
    return {f.type for one in found for f in one.found if f.score >= PERSONAL.threshold}
