"""A sparse random projection that keeps inner products, made anew from its seed and never stored whole.

Johnson & Lindenstrauss 1984; sparse form of Kane & Nelson 2014 ("Sparser Johnson-Lindenstrauss transforms"):
each coordinate is added, with a random sign, to ``HASHES`` of the ``size`` numbers that remain, and all is
divided by sqrt(HASHES). Its cost does not depend on ``size``. The inner product of two unit vectors
is right on average, with a standard deviation of about 1 / sqrt(size).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tunewright.core.hashing import seed_from

SIZE = 4096
HASHES = 4


class Projection:
    """Projects vectors block by block: a block has a name, and always the same number of coordinates."""

    def __init__(self, seed: int, size: int = SIZE) -> None:
        self.seed, self.size = seed, size
        self._places: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, sums: Tensor, name: str, block: Tensor) -> None:
        """Add what the coordinates ``block`` (n, D), called ``name``, contribute to ``sums`` (n, size)."""
        places, signs = self._block(name, block.shape[1])
        for place, sign in zip(places, signs, strict=True):
            sums.index_add_(1, place, block * sign)

    def _block(self, name: str, width: int) -> tuple[Tensor, Tensor]:
        """Where each coordinate of a block goes, and its sign, already divided: (HASHES, width) each."""
        if name not in self._places:
            draw = torch.Generator().manual_seed(seed_from(self.seed, "projection", name))
            places = torch.randint(self.size, (HASHES, width), generator=draw, dtype=torch.int32)
            signs = torch.randint(2, (HASHES, width), generator=draw, dtype=torch.int8).float()
            self._places[name] = places, (2 * signs - 1) / math.sqrt(HASHES)
        places, signs = self._places[name]
        assert places.shape[1] == width, f"block {name!r} had {places.shape[1]} coordinates, now {width}"
        return places, signs
