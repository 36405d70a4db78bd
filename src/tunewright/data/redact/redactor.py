"""Rows without personal data, and the account of what was found.

    redactor = Redactor(RedactSettings(), redaction_key())
    done = redactor.row({"instruction": "Write to ann@firm.org"}, lambda key: True)
    done.row["instruction"]        # "Write to [EMAIL]"

Everything depends on the row, the settings, the key and the decisions alone, so rows may be treated in any
order and in any process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.data.redact.draw import Draw, keyed_id
from tunewright.data.redact.findings import ACTIONS, SECRETS, Action, Finding, Question, Redacted, Redaction
from tunewright.data.redact.library import require_packages
from tunewright.data.redact.made_up import full_name
from tunewright.data.redact.pseudonyms import made_of_words, mask, normal, pseudonym
from tunewright.data.redact.search import Searched, name_words, same_people, search
from tunewright.data.redact.settings import RedactSettings
from tunewright.data.redact.walk import Leaf, leaves, replaced

Wanted = Callable[[str], bool]
People = dict[str, tuple[str, str]]  # first and last word of a name -> made-up given and family name


@dataclass(frozen=True)
class Redactor:
    """Settings, the key of pseudonyms, and what people have decided: id of a value -> action."""

    settings: RedactSettings
    key: bytes = field(repr=False)
    decisions: Mapping[str, Action] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.decisions.values()) - set(ACTIONS)
        if unknown:
            raise ValueError(f"unknown decision {sorted(unknown)[0]!r}; known: {', '.join(ACTIONS)}")
        if self.settings.active:
            require_packages()
        allowed = frozenset(" ".join(value.casefold().split()) for value in self.settings.allow)
        object.__setattr__(self, "_allowed", allowed)

    def row(self, row: Mapping[str, Any], wanted: Wanted) -> Redacted:
        """One row; ``wanted`` says which of its top-level keys are looked at."""
        return self.rows([row], wanted)[0]

    def rows(self, rows: Sequence[Mapping[str, Any]], wanted: Wanted) -> list[Redacted]:
        """Many rows, each by itself; the language model, if it is used, reads them in batches."""
        if not self.settings.active:
            return [Redacted(dict(row), [], []) for row in rows]
        kept = [list(leaves(row, wanted)) for row in rows]
        found = iter(search([leaf for some in kept for leaf in some], self.settings))
        return [self._one(row, [next(found) for _ in some]) for row, some in zip(rows, kept, strict=True)]

    def safe_name(self, value: str) -> str:
        """An id or a group as it may be written out: itself, or a keyed digest if it holds personal data."""
        if not self.settings.active:
            return value
        found = search([Leaf("id", value, "")], self.settings)[0]
        sure = any(f.score >= self.settings.threshold and not self._is_allowed(found, f) for f in found.found)
        return f"id-{keyed_id(self.key, 'name', value)}" if sure else value

    def _one(self, row: Mapping[str, Any], searched: list[Searched]) -> Redacted:
        searched = same_people(searched) if any(s.found for s in searched) else searched
        people = self._people(searched)
        new: dict[str, Any] = {}
        redactions: list[Redaction] = []
        questions: list[Question] = []
        for s in searched:
            edits: list[tuple[int, int, str]] = []
            for finding in s.found:
                action = self._action(s, finding)
                if action is None:
                    continue
                start, end = s.folded.original(finding.start, finding.end)
                if action == "ask":
                    id_ = keyed_id(self.key, finding.type, normal(finding.type, s.value(finding)))
                    questions.append(Question(id_, s.leaf.path, finding.type, start, end, finding.score))
                    continue
                if action == "pseudonym" and finding.type in SECRETS:
                    action = "mask"  # a secret needs no form, and one that looks real would be tried
                redactions.append(Redaction(s.leaf.path, finding.type, start, end, finding.score, action))
                if action in ("mask", "pseudonym"):
                    edits.append((start, end, self._instead(action, s.value(finding), finding.type, people)))
            if edits:
                new[s.leaf.path] = _edited(s.leaf, edits)
        drop = next((f"{r.type} in {r.field}" for r in redactions if r.action == "drop"), None)
        return Redacted(dict(row) if drop else replaced(row, new), redactions, questions, drop)

    def _action(self, s: Searched, finding: Finding) -> str | None:
        """The action for a finding, ``ask`` for a question, ``None`` if it is to be passed over."""
        if self._is_allowed(s, finding):
            return None
        if self.decisions:
            id_ = keyed_id(self.key, finding.type, normal(finding.type, s.value(finding)))
            if (decided := self.decisions.get(id_)) is not None:
                return None if decided == "off" else decided
        action = self.settings.action_for(finding.type)
        if action == "off":
            return None
        if finding.score >= self.settings.threshold or self.settings.uncertain == "act":
            return action
        return "ask" if self.settings.uncertain == "ask" else None

    def _is_allowed(self, s: Searched, finding: Finding) -> bool:
        allowed: frozenset[str] = self._allowed  # type: ignore[attr-defined]
        return bool(allowed) and " ".join(s.value(finding).casefold().split()) in allowed

    def _people(self, searched: Sequence[Searched]) -> People:
        """Those who are named in full in this row, so that a part of a name stands for the same person."""
        people: People = {}
        for s in searched:
            for f in s.found:
                words = name_words(s.value(f)) if f.type == "PERSON" else []
                if len(words) > 1:
                    people[f"{words[0]} {words[-1]}"] = self._made_up(f"{words[0]} {words[-1]}")
        return people

    def _made_up(self, name: str) -> tuple[str, str]:
        return full_name(Draw(self.key, "pseudonym", "PERSON", name))

    def _instead(self, action: str, value: str, kind: str, people: People) -> str:
        if action == "mask":
            return mask(kind)
        if kind != "PERSON":
            return pseudonym(self.key, kind, value)
        words = name_words(value)
        if len(words) > 1:
            return made_of_words(value, *self._made_up(f"{words[0]} {words[-1]}"))
        word = words[0] if words else value.lower()
        for name, (given, family) in people.items():
            first, last = name.split(" ")
            if word in (first, last):
                return made_of_words(value, given if word == first else family, "")
        return made_of_words(value, self._made_up(word)[0], "")


def _edited(leaf: Leaf, edits: Sequence[tuple[int, int, str]]) -> str | int:
    """The string with its stretches replaced; an integer stays one if what replaces it is one."""
    parts: list[str] = []
    last = 0
    for start, end, text in edits:
        parts += (leaf.text[last:start], text)
        last = end
    made = "".join([*parts, leaf.text[last:]])
    return int(made) if leaf.number and made.lstrip("-").isdigit() else made
