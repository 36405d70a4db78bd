"""States on disk: read as they were written, in several files, and not trusted where one was cut off."""

import errno
import os

import pytest
import torch

from tunewright.core.errors import RunError
from tunewright.models import states as module
from tunewright.models.states import HEADER, StateStore, bytes_needed


@pytest.mark.parametrize("cut", ["inside a record", "inside its key", "after a record", "a changed byte"])
def test_a_broken_end_is_not_trusted(tmp_path, cut):
    path, states = tmp_path / "states.bin", torch.randn(5, 8)
    keys = [bytes([i]) * 16 for i in range(5)]
    store = StateStore(path, 8, torch.float32)
    store.add(keys, states)
    whole = path.read_bytes()
    record = (len(whole) - HEADER.size) // 5
    if cut == "a changed byte":
        place = len(whole) - record - 3  # in the record before the last
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        kept = 3
    else:
        path.write_bytes(
            whole[: -{"inside a record": 5, "inside its key": record - 7, "after a record": record}[cut]]
        )
        kept = 4
    again = StateStore.reopened(path)
    assert [key in again for key in keys] == [i < kept for i in range(5)]
    again.add(keys, states + 1)  # only what is missing is written
    found = StateStore.reopened(path).read(keys)
    assert torch.equal(found[:kept], states[:kept]) and torch.equal(found[kept:], states[kept:] + 1)
    assert path.stat().st_size == len(whole)


def test_reading_in_any_order_and_twice(tmp_path):
    store = StateStore(tmp_path / "s.bin", 4, torch.bfloat16)
    states = torch.arange(12.0).view(3, 4).bfloat16()
    keys = [bytes([i]) * 16 for i in range(3)]
    store.add([*keys, keys[0]], torch.cat([states, states[:1] + 1]))  # the first of a text counts
    assert torch.equal(store.read([keys[2], keys[0], keys[2]]), states[[2, 0, 2]])


def texts(lengths, width=4, dtype=torch.float32):
    keys = [bytes([i]) * 16 for i in range(len(lengths))]
    return keys, torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_texts_of_any_length(tmp_path, dtype):
    lengths = [3, 1, 5]
    keys, states = texts(lengths, dtype=dtype)
    store = StateStore(tmp_path / "s.bin", 4, dtype)
    store.add(keys, states, lengths)
    a, b, c = states.split(lengths)
    for found in (store, StateStore.reopened(tmp_path / "s.bin")):
        assert torch.equal(found.read([keys[2], keys[0], keys[2]]), torch.cat([c, a, c]))
        assert torch.equal(found.read([keys[1]]), b) and found.dtype == dtype
    assert (tmp_path / "s.bin").stat().st_size == HEADER.size + bytes_needed(3, 9, 4, dtype)


def test_a_full_file_is_followed_by_another(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 300)
    lengths = [4] * 12
    keys, states = texts(lengths)
    store = StateStore(tmp_path / "s.bin", 4, torch.float32)
    for i in range(0, 12, 2):
        store.add(keys[i : i + 2], states[4 * i : 4 * i + 8], lengths[:2])
        assert torch.equal(store.read(keys[: i + 2]), states[: 4 * i + 8])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s-1.bin", "s-2.bin", "s.bin"]
    with (tmp_path / "s-1.bin").open("r+b") as f:  # of the four texts in it the last two are lost
        f.truncate(HEADER.size + 3 * 88 - 1)
    again = StateStore.reopened(tmp_path / "s.bin")
    assert [key in again for key in keys] == [i not in (6, 7) for i in range(12)]
    again.add(keys, states, lengths)
    for found in (again, StateStore.reopened(tmp_path / "s.bin")):
        assert torch.equal(found.read(keys), states)


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    store = StateStore(tmp_path / "s.bin", 4, torch.float32)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    keys, states = texts([2, 3])
    with pytest.raises(RunError, match=r"make room and resume, or start anew with train\.layer_cache=off"):
        store.add(keys, states, [2, 3])
