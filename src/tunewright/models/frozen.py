"""A trunk that does not train runs once per text: the states that a head reads are kept on disk.

From the second epoch on a step costs the head alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tunewright.core.hashing import digest
from tunewright.models.causal import causal_lm
from tunewright.models.fingerprint import fingerprint
from tunewright.models.forward import ModelForward
from tunewright.models.score import is_head
from tunewright.models.states import StateStore, segment_keys


class FrozenForward(ModelForward):
    """A ``ModelForward`` whose pooled states are computed once and read from ``directory`` ever after.

    Right only where nothing below the head changes between two looks at a text, see ``trunk_is_fixed``.
    States are stored in the format in which they are computed, so what is read equals what was computed, to
    the last bit. A batch with any unknown text runs whole: then the state of a text depends on the batch it
    first stood in and on nothing else, and a run that was killed comes to the same bits.
    """

    def __init__(self, model: nn.Module, directory: Path, *, compute: torch.dtype = torch.float32) -> None:
        super().__init__(model, compute=compute)
        self.directory = directory
        self.trunk_runs = 0  # batches that the trunk read
        self._trunk = trunk_digest(model, compute)
        self._stores: dict[str, StateStore] = {}

    def pooled(self, batch: Any, pooling: str, hidden: Tensor | None = None) -> Tensor:
        """The state of each segment, (S, H), from the store where it has all of them."""
        if hidden is not None:
            return super().pooled(batch, pooling, hidden)
        keys, path = segment_keys(batch), self._path(pooling)
        if pooling not in self._stores and path.exists():
            self._stores[pooling] = StateStore.reopened(path)
        if pooling not in self._stores or not all(key in self._stores[pooling] for key in keys):
            self.trunk_runs += 1
            with torch.no_grad():
                states = super().pooled(batch, pooling)
            if pooling not in self._stores:
                self._stores[pooling] = StateStore(path, states.shape[1], states.dtype)
            self._stores[pooling].add(keys, states)
        return self._stores[pooling].read(keys).to(self.device)

    def _path(self, pooling: str) -> Path:
        return self.directory / f"states-{digest([self._trunk, pooling])[:24]}.bin"


def trunk_digest(model: nn.Module, compute: torch.dtype) -> str:
    """Hash of everything below the heads: weights, shape, number format, and the libraries that compute."""
    lm = causal_lm(model)
    weights = fingerprint(lm.config, lm.base_model.state_dict().values())
    return digest([weights, torch.__version__, transformers.__version__, str(compute)])


def trunk_is_fixed(model: nn.Module) -> bool:
    """Whether a text always has the same state: only heads train, and nothing is dropped at random."""
    frozen = not any(p.requires_grad and not is_head(n) for n, p in model.named_parameters())
    return frozen and not drops_at_random(model.modules())


def drops_at_random(modules: Iterable[nn.Module]) -> bool:
    """Whether any of ``modules`` has dropout, which makes each look at a text a different one."""
    return any(
        (isinstance(m, nn.Dropout) and m.p > 0) or float(getattr(m, "attention_dropout", 0.0) or 0.0) > 0
        for m in modules
    )
