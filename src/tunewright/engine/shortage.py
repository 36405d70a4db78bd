"""Memory that runs out within an update: what it looks like, and the smaller pieces that may do."""

from __future__ import annotations

import torch

from tunewright.core.errors import TrainError

# What torch says where memory runs out and it raises no error of its own for that: on a CPU, and with Metal.
REFUSED = ("can't allocate memory", "MPS backend out of memory")


def is_shortage(error: BaseException) -> bool:
    """Whether ``error`` says that there was not enough memory, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in REFUSED)


def smaller(budget: int, largest: int, where: str, started: bool) -> int:
    """Half the tokens at a time. ``largest`` is the size of the largest row of the update, ``started`` says
    that some weights have moved already.

    Raises ``TrainError`` where the update cannot be computed again, or every row stands by itself already.
    """
    if started:
        raise TrainError(
            f"memory ran out at {where} while weights were already being updated; `tunewright resume` goes on"
            " from the last checkpoint, and train.memory.update=after can compute an update again"
        )
    if budget <= largest:
        raise TrainError(
            f"memory ran out at {where}, and every row is computed by itself already: the largest has"
            f" {largest} tokens. `tunewright plan` names what needs less; for one, shorter rows"
            " (data.max_length) or train.memory.checkpoint_layers"
        )
    return budget // 2
