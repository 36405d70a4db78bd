"""What a search for personal data reports: where, of which type, how sure; never the value itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Action = Literal["mask", "pseudonym", "drop", "keep", "off"]
ACTIONS: tuple[Action, ...] = ("mask", "pseudonym", "drop", "keep", "off")

# The types, from the one that wins an overlap of equal scores to the one that yields.
TYPES = (
    "PRIVATE_KEY",
    "URL_CREDENTIALS",
    "API_KEY",
    "PASSWORD",
    "EMAIL",
    "IBAN",
    "CREDIT_CARD",
    "US_SSN",
    "NATIONAL_ID",
    "PASSPORT",
    "DRIVER_LICENSE",
    "MEDICAL_LICENSE",
    "BANK_ACCOUNT",
    "CRYPTO",
    "DATE_OF_BIRTH",
    "IP_ADDRESS",
    "MAC_ADDRESS",
    "PHONE",
    "STREET_ADDRESS",
    "PERSON",
    "ORGANIZATION",
)
SECRETS = frozenset({"PRIVATE_KEY", "URL_CREDENTIALS", "API_KEY", "PASSWORD"})
NAMES = frozenset({"PERSON", "ORGANIZATION"})
_RANK = {kind: number for number, kind in enumerate(TYPES)}


class Finding(NamedTuple):
    """``text[start:end]`` is of ``type``, as sure as ``score`` (0 to 1) says."""

    start: int
    end: int
    type: str
    score: float


@dataclass(frozen=True, slots=True)
class Redaction:
    """One finding that was acted on; ``start`` and ``end`` are code points of the original string."""

    field: str
    type: str
    start: int
    end: int
    score: float
    action: str

    def to_dict(self) -> dict[str, Any]:
        """The row of ``redactions.jsonl``, without source and line, which the caller knows."""
        return {name: getattr(self, name) for name in ("field", "type", "start", "end", "score", "action")}


@dataclass(frozen=True, slots=True)
class Question:
    """A finding that a person should decide on; ``id`` is the same wherever the same value stands."""

    id: str
    field: str
    type: str
    start: int
    end: int
    score: float

    def to_dict(self, source: str, line: int) -> dict[str, Any]:
        """The row of ``review.jsonl``."""
        place = {"id": self.id, "source": source, "line": line, "field": self.field}
        return {**place, "type": self.type, "start": self.start, "end": self.end, "score": self.score}


@dataclass(frozen=True, slots=True)
class Redacted:
    """A row without what was found, and the account of it; ``drop_reason`` is set if it must be left out."""

    row: dict[str, Any]
    redactions: list[Redaction]
    questions: list[Question]
    drop_reason: str | None = None


def without_overlaps(found: Iterable[Finding]) -> list[Finding]:
    """The findings in order of place; of two that overlap the surer one, then the longer one, stays.

    A name yields to everything with a shape: it is often a part of an address.
    """
    found = list(found)
    if len(found) < 2:
        return found
    best = sorted(found, key=lambda f: (f.type in NAMES, -f.score, f.start - f.end, _RANK[f.type], f.start))
    kept: list[Finding] = []
    taken: set[int] = set()  # positions, in steps: findings are short, texts may be long
    for f in best:
        span = range(f.start, f.end)
        if taken.isdisjoint(span):
            taken.update(span)
            kept.append(f)
    return sorted(kept)
