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
from tunewright.data.keys import texts_of


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


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812 check digit."""
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


_CARD = re.compile(r"(?<![\d-])(?:\d[ -]?){12,18}\d(?![\d-])")
_ISSUER = re.compile(
    r"3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7]|6\d)\d{14}"
)


def has_card(text: str) -> bool:
    """A number with a card issuer's prefix and length whose Luhn check digit is right."""
    candidates = (re.sub(r"[ -]", "", match[0]) for match in _CARD.finditer(text))
    return any(_ISSUER.fullmatch(digits) and _luhn(digits) for digits in candidates)


_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")


def has_iban(text: str) -> bool:
    """An account number whose check digits are right (ISO 13616, modulo 97 = 1)."""
    return any(_iban_valid(match[0].replace(" ", "")) for match in _IBAN.finditer(text))


def _iban_valid(iban: str) -> bool:
    """True if ``iban`` or a beginning of at least 15 characters (a word may follow the number) is valid."""
    for end in range(min(len(iban), 34), 14, -1):
        moved = iban[4:end] + iban[:4]
        if int("".join(str(int(c, 36)) for c in moved)) % 97 == 1 and any(c.isdigit() for c in iban[4:end]):
            return True
    return False


_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|(?:1[ .-])?\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4})(?![\w-])"
)


def repeats_itself(text: str) -> bool:
    """More than half of the 8-word windows of a text (of 40 words or more) occur elsewhere in it."""
    words = text.split()
    if len(words) < 40:
        return False
    windows = [tuple(words[i : i + 8]) for i in range(len(words) - 7)]
    return len(set(windows)) * 2 < len(windows)


_PLACEHOLDERS = frozenset(
    ["n/a", "na", "none", "null", "nil", "nan", "todo", "tbd", "-", "--", ".", "..", "...", "…", "?"]
)
_REFUSAL = (
    r"^\W*(?:(?:i'?m|i am) (?:really |very |so )?sorry\W+(?:but )?)?(?:"
    r"as an ai\b|i (?:can ?not|can'?t|am unable to|am not able to|'?m unable to|won'?t) "
    r"(?:help|assist|answer|comply|fulfil|provide|do that|engage|support)\b|i'm (?:unable|not able) to\b)"
)
_REFUSES = re.compile(_REFUSAL, re.IGNORECASE)


def refuses(text: str) -> bool:
    """True if an answer opens with a refusal."""
    return _REFUSES.match(text[:300].replace("’", "'")) is not None


_TAGS = "a|b|br|div|em|font|h[1-6]|i|img|li|ol|p|script|span|strong|style|table|tbody|td|th|tr|ul"

ROW_RULES: tuple[RowRule, ...] = (
    RowRule(
        "placeholder_answer",
        "answers that are a placeholder (N/A, none, …)",
        "The model learns to give no answer.",
        "Write the answer or drop the row.",
        "answers",
        lambda text: text.strip().lower() in _PLACEHOLDERS,
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
        _searches("Ã[\u0080-\u00bf]|â€|Â[\u00a0-\u00bf]|ï¿½|ï»¿|\ufffd"),
    ),
    RowRule(
        "html",
        "HTML tags or entities",
        "Markup of web pages ends up in the answers.",
        "Strip it, unless the task is HTML.",
        "all",
        _searches(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|&(?:nbsp|amp|lt|gt|quot|#x?[0-9a-f]+);", re.IGNORECASE),
    ),
    RowRule(
        "invisible_chars",
        "zero-width or direction-changing characters",
        "What a reader sees is not what the model reads.",
        "Remove them.",
        "all",
        _searches("[\u200b\u2060\u202a-\u202e\u2066-\u2069\ufeff]"),
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
    RowRule(
        "personal_email",
        "e-mail addresses",
        "A model can repeat personal data it was trained on.",
        "Redact them before training.",
        "all",
        _searches(r"\b[\w.+-]+@(?:[a-z0-9-]+\.)+[a-z]{2,}\b", re.IGNORECASE),
    ),
    RowRule(
        "personal_card",
        "payment card numbers (Luhn-valid)",
        "A model can repeat personal data it was trained on.",
        "Redact them before training.",
        "all",
        has_card,
    ),
    RowRule(
        "personal_iban",
        "bank account numbers (IBAN, check digits right)",
        "A model can repeat personal data it was trained on.",
        "Redact them before training.",
        "all",
        has_iban,
    ),
    RowRule(
        "personal_phone",
        "numbers that look like telephone numbers",
        "A model can repeat personal data it was trained on.",
        "Redact them before training.",
        "all",
        lambda text: _PHONE.search(text) is not None,
    ),
)
