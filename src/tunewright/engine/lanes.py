"""Micro-batches of an update side by side on the cores of a CPU.

Torch divides each operator among all cores, and most operators of a small model are too small. A lane
is a thread with its share of the cores that computes whole micro-batches. Gradients are added up in the order
of the micro-batches, so the sum has the same bits whichever lane was first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")
Result = TypeVar("Result")


class RandomError(Exception):
    """Lanes drew random numbers, so which of them got which depends on which came first."""


class Lanes:
    """``count`` threads, each with an equal share of the cores that torch uses in the caller's thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``work`` on every item; results in the order of the items, each once those before it are there.

        Raises what the first item that failed raised, when no lane computes any more, and ``RandomError`` at
        the end if random numbers were drawn.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="lane")
        cores, state = torch.get_num_threads(), torch.get_rng_state()
        share = max(1, cores // self.count)

        def within(item: Item) -> Result:
            torch.set_num_threads(share)
            return work(item)

        futures = [self._pool.submit(within, item) for item in items]
        try:
            while futures:
                yield futures.pop(0).result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
            torch.set_num_threads(cores)
        if not torch.equal(state, torch.get_rng_state()):
            raise RandomError


def slopes(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """The gradient of ``loss`` by each parameter; None where it does not depend on it."""
    if not loss.requires_grad:
        return [None] * len(parameters)
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def add(parameters: Sequence[nn.Parameter], found: Sequence[Tensor | None]) -> None:
    """Add ``found`` to the gradients of ``parameters``, as ``backward`` would."""
    for parameter, slope in zip(parameters, found, strict=True):
        if slope is None:
            continue
        if parameter.grad is None:
            parameter.grad = slope
        else:
            parameter.grad += slope


def even(sizes: Sequence[int], budget: int, lanes: int) -> int:
    """Tokens of a micro-batch with which every lane has as much to do, and all hold at most ``budget``."""
    rounds = max(1, -(-sum(sizes) // budget))
    return max(-(-sum(sizes) // (rounds * lanes)), max(sizes, default=1))
