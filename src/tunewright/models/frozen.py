"""A trunk that does not train runs once per text: the states that a head reads are kept on disk.

From the second epoch on a step costs the head alone. Records are appended as they are computed, each with a
checksum; a file that was cut off anywhere holds whole records and at most one broken one, which is left out.

    states-DIGEST.bin     header: magic, width, number format; then records: key | checksum | state
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from tunewright.core.hashing import digest
from tunewright.core.paths import written_atomically
from tunewright.models.causal import causal_lm
from tunewright.models.fingerprint import fingerprint
from tunewright.models.forward import ModelForward
from tunewright.models.score import is_head

MAGIC = b"tunewright-states-1\n"
HEADER = struct.Struct("<20sI16s")  # magic, width of a state, its number format
RECORD_HEAD = struct.Struct("<16sI")  # key, crc32 of key and state
DTYPES = {str(d): d for d in (torch.float32, torch.bfloat16, torch.float16)}


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


class StateStore:
    """States by key in one file; what is already known is never written again."""

    def __init__(self, path: Path, width: int, dtype: torch.dtype) -> None:
        """A new, empty file; its first bytes appear together with its name."""
        self.path, self.width, self.dtype = path, width, dtype
        self.record = RECORD_HEAD.size + width * dtype.itemsize
        self.places: dict[bytes, int] = {}
        self._view: np.ndarray | None = None
        if not path.exists():
            with written_atomically(path) as temporary:
                temporary.write_bytes(HEADER.pack(MAGIC, width, str(dtype).encode()))

    @classmethod
    def reopened(cls, path: Path) -> StateStore:
        """The whole records of a file that was written before; what comes after them is cut off."""
        with path.open("rb") as f:
            magic, width, dtype = HEADER.unpack(f.read(HEADER.size))
        assert magic.startswith(MAGIC), f"{path} holds no states"
        store = cls(path, width, DTYPES[dtype.rstrip(b"\0").decode()])
        store._index()
        return store

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """(len(keys), width), a copy; every key must be known."""
        rows = self._records()[[self.places[key] for key in keys], RECORD_HEAD.size :]
        return torch.from_numpy(np.ascontiguousarray(rows)).view(self.dtype)

    def add(self, keys: Sequence[bytes], states: Tensor) -> None:
        """Append the states of those ``keys`` that are not known yet."""
        raw = states.detach().cpu().contiguous().view(torch.uint8).numpy()
        pieces = []
        for key, row in zip(keys, raw, strict=True):
            if key not in self.places:
                self.places[key] = len(self.places)
                body = row.tobytes()
                pieces.append(RECORD_HEAD.pack(key, zlib.crc32(key + body)) + body)
        with self.path.open("ab") as f:
            f.write(b"".join(pieces))
        self._view = None

    def _records(self) -> np.ndarray:
        if self._view is None:
            shape = (len(self.places), self.record)
            self._view = np.memmap(self.path, np.uint8, "r", HEADER.size, shape)
        return self._view

    def _index(self) -> None:
        """Find the whole records; the file ends before the first that is not."""
        count = (self.path.stat().st_size - HEADER.size) // self.record
        with self.path.open("rb") as f:
            f.seek(HEADER.size)
            for place in range(count):
                key, check = RECORD_HEAD.unpack(f.read(RECORD_HEAD.size))
                if zlib.crc32(key + f.read(self.record - RECORD_HEAD.size)) != check:
                    break
                self.places[key] = place
        os.truncate(self.path, HEADER.size + len(self.places) * self.record)


def segment_keys(batch: Any) -> list[bytes]:
    """A hash of what each segment's state depends on: its tokens and those of its prefix."""
    ids = batch.ids.cpu().numpy()
    own = [ids[start : start + length].tobytes() for start, length, _ in batch.segments]
    before = [b"" if parent is None else own[parent] for _, _, parent in batch.segments]
    return [
        hashlib.blake2b(len(b).to_bytes(8, "little") + b + o, digest_size=16).digest()
        for b, o in zip(before, own, strict=True)
    ]


def trunk_digest(model: nn.Module, compute: torch.dtype) -> str:
    """Hash of everything below the heads: weights, shape, number format, and the libraries that compute."""
    lm = causal_lm(model)
    weights = fingerprint(lm.config, lm.base_model.state_dict().values())
    return digest([weights, torch.__version__, transformers.__version__, str(compute)])


def trunk_is_fixed(model: nn.Module) -> bool:
    """Whether a text always has the same state: only heads train, and nothing is dropped at random."""
    frozen = not any(p.requires_grad and not is_head(n) for n, p in model.named_parameters())
    drops = any(
        (isinstance(m, nn.Dropout) and m.p > 0) or float(getattr(m, "attention_dropout", 0.0) or 0.0) > 0
        for m in model.modules()
    )
    return frozen and not drops
