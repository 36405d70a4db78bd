"""The largest micro-batch of a run, tried before the first update: memory that lacks is found at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.step import Tally
from tunewright.engine.updates import Updates
from tunewright.objectives.base import Forward, Objective


def attempt(
    sequences: Sequence[Tokens],
    objective: Objective,
    forward: Forward,
    updates: Updates,
    device: torch.device,
) -> None:
    """Forward and backward of ``sequences`` in one micro-batch; the gradient is forgotten, nothing moves.

    A loss that is not finite is left to the update that meets it, which can say where it is. Random numbers
    are used up: an update begins by seeding its own.
    """
    batch = build_batch(sequences, range(len(sequences)), device)
    share = Tally(objective, [batch]).add(batch, objective.loss(forward, batch))
    with updates.trial():
        share.backward()  # type: ignore[no-untyped-call]
    updates.drop_gradient()
