"""What one part of the audit says: measured, what it means, what to do. One shape for the JSON and the
text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["fine", "look", "skipped"]
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Part:
    """``n`` of ``total`` rows were looked at. ``verdict`` is ``look`` where something stands out, ``skipped``
    where nothing can be said (``meaning`` says why). ``lines`` are the findings as sentences, the strongest
    first; ``details`` the numbers behind them, plain values only."""

    name: str
    verdict: Verdict
    measured: str
    meaning: str
    advice: str
    n: int
    total: int
    lines: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def skipped(name: str, why: str, n: int, total: int, advice: str = "") -> Part:
    """A part that cannot say anything about these rows."""
    return Part(name, "skipped", "nothing", why, advice, n, total)


def share_text(value: float, low: float, high: float) -> str:
    """``3.1 % [2.8, 3.5]``"""
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def shortened(lines: Sequence[str], most: int = SHOWN) -> tuple[str, ...]:
    """The first ``most`` sentences, and how many more there are."""
    more = len(lines) - most
    return (*lines[:most], *([f"… and {more} more"] if more > 0 else []))
