"""The random projection: inner products survive it, within what its size promises."""

import math

import pytest
import torch

from tunewright.run.recommend.projection import Projection

WIDTHS = {"a": 3000, "b": 5000, "c": 17}


def projected(vectors, seed=0, size=1024):
    projection, start = Projection(seed, size), 0
    sums = torch.zeros(len(vectors), size)
    for name, width in WIDTHS.items():
        projection.add(sums, name, vectors[:, start : start + width])
        start += width
    return sums


def units(count, seed=1):
    draw = torch.Generator().manual_seed(seed)
    found = torch.randn(count, sum(WIDTHS.values()), generator=draw)
    return found / found.norm(dim=1, keepdim=True)


def errors(vectors, size=1024):
    sums = projected(vectors, size=size)
    return (sums @ sums.T - vectors @ vectors.T)[~torch.eye(len(vectors), dtype=torch.bool)]


def test_inner_products_are_kept_to_one_over_the_root_of_the_size():
    for size in (256, 4096):
        found = errors(units(40), size)
        assert 0.8 / math.sqrt(size) < found.std() < 1.2 / math.sqrt(size)
        assert found.mean().abs() < 0.3 / math.sqrt(size)
        assert found.abs().max() < 5 / math.sqrt(size)


def test_a_close_pair_stays_close_and_lengths_stay():
    pair = units(2)
    pair[1] = 0.8 * pair[0] + 0.6 * pair[1]
    sums = projected(pair)
    assert float(sums[0] @ sums[1]) == pytest.approx(float(pair[0] @ pair[1]), abs=0.1)
    assert sums.norm(dim=1).tolist() == pytest.approx([1.0, float(pair[1].norm())], abs=0.1)


def test_few_heavy_coordinates_do_not_collide_as_one():
    """Vectors of a single coordinate: with one hash, two that collide would become the same up to sign."""
    lone = torch.eye(sum(WIDTHS.values()))[:300]
    sums = projected(lone, size=256)
    assert sums.norm(dim=1).max() < 1.6
    off = (sums @ sums.T)[~torch.eye(300, dtype=torch.bool)]
    assert (off.abs() > 0.9).float().mean() < 1e-3


def test_the_seed_decides_and_blocks_are_told_apart_by_name():
    vectors = units(2)
    assert torch.equal(projected(vectors, 3), projected(vectors, 3))
    assert not torch.allclose(projected(vectors, 3), projected(vectors, 4))
    projection, sums = Projection(0, 64), torch.zeros(2, 2, 64)
    for at, name in enumerate("ab"):
        projection.add(sums[at], name, vectors[:, :100])
    assert not torch.allclose(sums[0], sums[1])
    with pytest.raises(AssertionError, match="had 100 coordinates, now 50"):
        projection.add(sums[0], "a", vectors[:, :50])
