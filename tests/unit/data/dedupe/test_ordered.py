"""Records in order, whatever fits into memory; and rows joined in one array."""

import numpy as np
import pytest

from tunewright.data.dedupe.ordered import RECORD, Space, in_blocks, ordered, records
from tunewright.data.dedupe.union import alone, join, roots, settle


def made(count, seed=0, high=2**64 - 1):
    draw = np.random.default_rng(seed)
    key, second = (draw.integers(0, high, count, np.uint64, endpoint=True) for _ in range(2))
    return records(key, np.arange(count), second=second, says=key ^ second)


def chunks(found, size):
    return (found[start : start + size] for start in range(0, len(found), size))


@pytest.mark.parametrize("limit", [1, 7, 100, 10_000])
@pytest.mark.parametrize("high", [2**64 - 1, 3, 0])
def test_records_come_in_order_and_all_of_them(tmp_path, limit, high):
    found = made(700, high=high)
    expected = found[np.lexsort((found["row"], found["second"], found["key"]))]
    for size in (1, 64, 1000):
        result = list(ordered(chunks(found, size), Space(tmp_path, limit)))
        assert np.array_equal(np.concatenate(result), expected)
    assert list(tmp_path.iterdir()) == []


def test_no_stretch_is_longer_than_the_limit_unless_keys_are_equal(tmp_path):
    stretches = [len(part) for part in ordered(chunks(made(3000), 10), Space(tmp_path, 50))]
    assert max(stretches) <= 50 and sum(stretches) == 3000


def test_no_records_are_no_stretches(tmp_path):
    assert list(ordered([])) == []
    assert list(ordered([np.empty(0, RECORD)], Space(tmp_path))) == []


@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_blocks_have_one_size(size):
    found = made(10)
    for given in (1, 4, 10):
        blocks = list(in_blocks(chunks(found, given), size))
        assert np.array_equal(np.concatenate(blocks), found)
        assert all(len(block) == size for block in blocks[:-1]) and 0 < len(blocks[-1]) <= size


def test_the_root_of_a_group_is_its_first_row():
    parents = alone(10)
    join(parents, np.array([9, 5, 7]), np.array([8, 9, 5]))
    assert roots(parents, np.array([5, 7, 8, 9])).tolist() == [5, 5, 5, 5]
    join(parents, np.array([2]), np.array([9]))
    join(parents, np.array([], np.int64), np.array([], np.int64))
    settle(parents)
    assert parents.tolist() == [0, 1, 2, 3, 4, 2, 6, 2, 2, 2]


def test_many_edges_of_one_row_are_all_kept():
    parents = alone(100)
    join(parents, np.full(99, 99), np.arange(99))
    settle(parents)
    assert (parents == 0).all()


def test_a_chain_in_any_order_is_one_group(tmp_path):
    parents = np.memmap(tmp_path / "parents", np.int64, "w+", shape=(5000,))
    parents[:] = alone(5000)
    order = np.random.default_rng(0).permutation(4999)
    join(parents, order, order + 1)
    settle(parents)
    assert (parents == 0).all()
