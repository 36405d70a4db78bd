"""Clusters of near-duplicates against all pairs in plain Python, and what they must not depend on."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.second_look import recheck
from tunewright.data.dedupe.clusters import InMemory, clusters, groups
from tunewright.data.dedupe.crossing import crossing
from tunewright.data.dedupe.ordered import Space
from tunewright.data.dedupe.similar import similarity_of
from tunewright.data.dedupe.sketch import sketch
from tunewright.data.dedupe.union import alone

WORDS = st.text("abcdefghij", min_size=1, max_size=2)
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)


def reference(a, b):
    """Jaccard similarity of words with their neighbours."""
    one, other = (shingles(text.split()) for text in (a, b))
    return len(one & other) / len(one | other)


def shingles(words):
    padded = ["", *words, ""]
    return set(zip(padded, padded[1:], padded[2:], strict=False)) or {()}


def brute(texts, threshold):
    """The first row of each row's cluster, by all pairs."""
    leaders = list(range(len(texts)))
    for a, b in itertools.combinations(range(len(texts)), 2):
        if reference(texts[a], texts[b]) >= threshold:
            low, high = sorted((leaders[a], leaders[b]))
            leaders = [low if leader == high else leader for leader in leaders]
    return leaders


class Chunked:
    """Sketches that come in chunks of some size."""

    def __init__(self, sketches, size):
        self.sketches, self.size = sketches, size
        self.rows, self.bands = sketches.shape

    def column(self, band):
        for start in range(0, self.rows, self.size):
            yield self.sketches[start : start + self.size, band]


@st.composite
def families(draw):
    """Rows that repeat a few texts of 60 to 80 words, with one word replaced, moved to the end, or none."""
    bases = [
        [f"{name}{i}" for i in range(draw(st.integers(60, 80)))] for name in "abcd"[: draw(st.integers(1, 4))]
    ]
    rows = []
    for _ in range(draw(st.integers(0, 25))):
        words = list(draw(st.sampled_from(bases)))
        if draw(st.booleans()):
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(["x", "y"]))
        rows.append(" ".join(words))
    return rows


@given(TEXTS, TEXTS)
def test_similarity_is_that_of_plain_python(a, b):
    assert abs(similarity_of(a, b) - reference(a, b)) < 1e-12


@settings(deadline=None, max_examples=150)
@given(families())
def test_clusters_are_those_of_all_pairs(texts):
    # An edit and its base have a similarity of at least 57 / 63: above 0.9, where a sketch misses one pair in
    # three million. Two edits at different places are below it.
    found = clusters(InMemory(sketch(texts)), texts.__getitem__, threshold=0.9)
    assert found.leaders.tolist() == brute(texts, 0.9)


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, max_size=30), st.integers(1, 30), st.integers(1, 40), st.sampled_from([0.5, 0.8]))
def test_clusters_depend_neither_on_chunks_nor_on_memory(texts, size, limit, threshold):
    sketches = sketch(texts)
    whole = clusters(InMemory(sketches), texts.__getitem__, threshold)
    pieces = clusters(Chunked(sketches, size), texts.__getitem__, threshold, space=Space(None, limit))
    assert np.array_equal(whole.leaders, pieces.leaders)
    assert np.array_equal(whole.similarity, pieces.similarity)
    assert whole.comparisons == pieces.comparisons


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, max_size=20), st.integers(1, 20))
def test_a_sketch_does_not_depend_on_its_batch(texts, size):
    parts = [sketch(texts[start : start + size]) for start in range(0, len(texts), size)]
    assert np.array_equal(np.concatenate([sketch([]), *parts]), sketch(texts))


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, max_size=20))
def test_every_row_points_at_the_first_of_its_cluster_and_is_similar_to_one_of_it(texts):
    found = clusters(InMemory(sketch(texts)), texts.__getitem__)
    for row, leader in enumerate(found.leaders.tolist()):
        assert leader <= row and found.leaders[leader] == leader
    for row in found.members.tolist():
        same = [
            other for other in np.flatnonzero(found.leaders == found.leaders[row]).tolist() if other != row
        ]
        assert max(reference(texts[row], texts[other]) for other in same) >= 0.8


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40), st.integers(1, 50))
def test_groups_are_those_of_a_dictionary(keys, limit):
    parents = alone(len(keys))
    array = np.array(keys, np.uint64).reshape(-1, 2)
    groups([(np.arange(len(keys)), array)], parents, Space(None, limit))
    first: dict = {}
    assert parents.tolist() == [first.setdefault(key, row) for row, key in enumerate(keys)]


@settings(deadline=None, max_examples=60)
@given(families(), st.lists(st.integers(0, 2), min_size=25, max_size=25))
def test_a_split_by_clusters_crosses_none_and_any_other_is_found(texts, drawn):
    found = clusters(InMemory(sketch(texts)), texts.__getitem__)
    sides = np.array(drawn[: len(texts)], np.uint8)
    by_cluster = sides[found.leaders] if len(texts) else sides
    assert crossing(found.leaders, by_cluster) == []
    held = [(row, text) for row, text in enumerate(texts) if by_cluster[row] == 2]
    train = [(row, text) for row, text in enumerate(texts) if by_cluster[row] != 2]
    assert all(pair.similarity < 0.9 for pair in recheck(held, train))
    crossed = {found.leaders[pair.first] for pair in crossing(found.leaders, sides)}
    assert crossed == {
        leader for leader in found.leaders.tolist() if len(set(sides[found.leaders == leader].tolist())) > 1
    }
