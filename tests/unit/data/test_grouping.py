"""Groups by shared keys: equal to joining one by one, whatever the order on disk and the size of pieces."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.data import grouping
from tunewright.data.dedupe import ordered
from tunewright.data.grouping import KEY, first_rows, joined

ENTRIES = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 5), st.integers(0, 2)), max_size=40)


def slowly(rows, entries):
    """Leaders and openers, one entry after the other."""
    leader, owner, opened = list(range(rows)), {}, []
    for row in range(rows):
        firsts = [owner.setdefault(key, row) for at, *key_ in entries if at == row for key in [tuple(key_)]]
        if all(first == row for first in firsts):
            opened.append(row)
        for first in firsts:
            low, high = sorted((leader[first], leader[row]))
            leader = [low if at == high else at for at in leader]
    return leader, opened


@settings(deadline=None, max_examples=150)
@given(ENTRIES, st.sampled_from([2, 7, 1 << 20]), st.sampled_from([3, 1 << 21]))
def test_groups_are_those_of_joining_one_by_one(tmp_path_factory, entries, at_once, held):
    keys = np.array(sorted(entries), KEY)
    scratch = tmp_path_factory.mktemp("order")
    old = grouping.AT_ONCE, grouping.Space
    grouping.AT_ONCE = at_once
    grouping.Space = lambda folder: ordered.Space(folder, held)
    try:
        groups, opened = joined(15, keys, scratch=scratch)
    finally:
        grouping.AT_ONCE, grouping.Space = old
    leaders, openers = slowly(15, sorted(entries))
    assert groups.tolist() == leaders
    assert np.flatnonzero(opened).tolist() == openers
    assert not list(scratch.iterdir())


def test_what_was_joined_before_stays_joined():
    keys = np.array([(0, 1, 1), (3, 1, 1)], KEY)
    groups, opened = joined(5, keys, np.array([0, 1, 1, 3, 3]))
    assert groups.tolist() == [0, 1, 1, 0, 0] and opened.tolist() == [True, True, False, False, False]


def test_first_rows():
    keys = np.array([(0, 7, 1), (1, 7, 2), (2, 7, 1), (3, 7, 1)], KEY)
    assert first_rows(keys, 4).tolist() == [0, 1, 0, 0]
