"""The order of the candidates, and what may be said of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tunewright.evaluate.compare import Difference
from tunewright.run.recommend.race import Lap, gain

Word = Literal["TRAIN ON", "CAN'T TELL", "NONE HELPS"]


@dataclass(frozen=True)
class Advice:
    """``word`` on ``best``; ``rows_that_would_decide`` (for CAN'T TELL) are held-out examples."""

    word: Word
    best: str
    reason: str
    rows_that_would_decide: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def placed(laps: Sequence[Lap], seed: int) -> list[Lap]:
    """``laps``, which come in the order of their gradients, in the order of what was measured.

    Two change places only where the paired interval of their losses excludes zero: where the race cannot
    tell, the order of the gradients stands. What was measured to do harm comes last.
    """
    order: list[Lap] = []
    for lap in laps:
        place = len(order)
        while place and ahead(lap, order[place - 1], seed).low > 0:
            place -= 1
        order.insert(place, lap)
    return sorted(order, key=_harms)


def _harms(lap: Lap) -> bool:
    return lap.gain.high < 0


def ahead(one: Lap, other: Lap, seed: int) -> Difference:
    """How much lower the loss after ``one`` is than after ``other``, on the same examples."""
    return gain(other.losses, one.losses, seed)


def advice(order: Sequence[Lap], names: Sequence[str], seed: int) -> Advice:
    """What the race allows to say; ``names`` are all candidates that could be compared, best first."""
    if not order:
        reason = (
            "nothing was raced (--finalists 0), so no gain was measured; the order is that of the gradients"
        )
        return Advice("CAN'T TELL", names[0], f"{reason}.")
    best = order[0]
    if all(map(_harms, order)):
        return Advice("NONE HELPS", best.name, f"after each of {len(order)} finalists the loss was higher.")
    if best.gain.low <= 0:
        reason = f"{best.name} comes first, but whether it helps is open: gain {_said(best.gain)}."
        return Advice("CAN'T TELL", best.name, reason, best.gain.rows_to_decide)
    rivals = [(lap.name, found) for lap in order[1:] if (found := ahead(best, lap, seed)).low <= 0]
    if rivals:
        told = "; ".join(f"over {name} {_said(found)}" for name, found in rivals)
        reason = f"{best.name} gains {_said(best.gain)}, but its lead does not exclude zero: {told}."
        needed = [found.rows_to_decide for _, found in rivals]
        rows = max((n for n in needed if n is not None), default=None) if None not in needed else None
        return Advice("CAN'T TELL", best.name, reason, rows)
    lead = f"; it leads {order[1].name} by {_said(ahead(best, order[1], seed))}" if len(order) > 1 else ""
    left = len(names) - len(order)
    rest = f"; {left} more candidates were not raced" if left else ""
    return Advice("TRAIN ON", best.name, f"gain {_said(best.gain)}{lead}{rest}.")


def _said(found: Difference) -> str:
    interval = f"{found.level:.0%} interval {found.low:+.3g} to {found.high:+.3g}"
    return f"{found.value:+.3g} nats per token ({interval}, n = {found.n})"
