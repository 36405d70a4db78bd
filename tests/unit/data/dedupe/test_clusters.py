"""Groups of equal rows and clusters of near ones."""

import random

import numpy as np
import pytest

from tunewright.data.dedupe.clusters import InMemory, clusters, groups, numbered
from tunewright.data.dedupe.ordered import Space
from tunewright.data.dedupe.sketch import ANSWER, sketch
from tunewright.data.dedupe.union import alone

DRAW = random.Random(0)
VOCABULARY = [f"w{i}" for i in range(5000)]


def drawn(count):
    return [DRAW.choice(VOCABULARY) for _ in range(count)]


def found(texts, **settings):
    return clusters(InMemory(sketch(texts)), texts.__getitem__, **settings)


def edited(words, *places):
    return " ".join("edit" if i in places else word for i, word in enumerate(words))


def test_near_rows_are_joined_to_the_first_of_them():
    words, others = drawn(100), drawn(100)
    texts = [edited(others), edited(words), "alone", edited(words, 50), edited(words, 10), "alone too"]
    result = found(texts)
    assert result.leaders.tolist() == [0, 1, 2, 1, 1, 5]
    assert result.members.tolist() == [1, 3, 4]
    near, further = 97 / 103, 94 / 106
    assert result.similarity[[0, 1, 2, 5]].tolist() == pytest.approx([0, near, 0, 0])
    assert min(abs(result.similarity[3:5].max() - near), abs(result.similarity[4] - further)) < 1e-6


def test_the_threshold_decides():
    words = drawn(100)
    texts = [edited(words), edited(words, 20, 40, 60)]  # 91 / 109 = 0.835
    assert found(texts, threshold=0.83).leaders.tolist() == [0, 0]
    assert found(texts, threshold=0.84).leaders.tolist() == [0, 1]


def test_a_chain_of_near_rows_is_one_cluster():
    words = drawn(100)
    texts = [edited(words, *range(2, 2 + 9 * n, 9)) for n in range(7)]
    result = found(texts)
    assert result.leaders.tolist() == [0] * 7
    assert result.similarity.min() >= 0.8


def test_different_answers_keep_rows_apart():
    question = " ".join(drawn(200))
    texts = [f"user: {question}{ANSWER}assistant: {answer}" for answer in ("yes", "no", "maybe", "Yes!")]
    assert found(texts).leaders.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows(count):
    result = found(["a"] * count)
    assert result.leaders.tolist() == list(range(count))
    assert result.members.tolist() == [] and result.comparisons == 0


def test_empty_texts_are_equal():
    assert found(["", "a", "", " "]).leaders.tolist() == [0, 1, 0, 0]


def test_many_equal_rows_are_compared_once_each():
    text = " ".join(drawn(20))
    result = found([text] * 20_000)
    assert (result.leaders == 0).all() and (result.similarity == 1).all()
    assert result.comparisons <= 2 * 20_000


def test_rows_that_only_share_a_band_are_not_compared_all_with_all():
    head = " ".join(drawn(30))
    texts = [f"{head} {' '.join(drawn(14))}" for _ in range(400)]
    result = found(texts)
    assert result.comparisons < 400 * 20 * 2


def test_exact_duplicates_are_represented_by_their_first_row():
    words = drawn(100)
    texts = ["x", edited(words), edited(words), edited(words, 50), "y"]
    parents = np.array([0, 1, 1, 3, 4])
    read = []

    def text_of(row):
        read.append(row)
        return texts[row]

    result = clusters(InMemory(sketch(texts)), text_of, parents=parents)
    assert result.leaders.tolist() == [0, 1, 1, 1, 4] and 2 not in read
    assert result.similarity[2] == 1.0


def test_groups_join_rows_with_a_key_in_common():
    keys = np.array([[1, 1], [1, 2], [1, 1], [0, 2], [1, 2], [7, 7]], np.uint64)
    parents = alone(6)
    groups(numbered([keys[:2], keys[2:]]), parents)
    assert parents.tolist() == [0, 1, 0, 3, 1, 5]
    more = np.array([[9, 9], [9, 9]], np.uint64)
    groups([(np.array([3, 5]), more), (np.array([5, 0]), np.array([[8, 8], [8, 8]], np.uint64))], parents)
    assert parents.tolist() == [0, 1, 0, 0, 1, 0]


def test_groups_of_many_rows_on_disk(tmp_path):
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 50, (3000, 1)).astype(np.uint64) * np.uint64(2**57) + np.uint64([[0, 1]])
    parents = alone(3000)
    groups(numbered(iter(np.array_split(keys, 7))), parents, Space(tmp_path, 20))
    first = {key: row for row, key in reversed(list(enumerate(keys[:, 0].tolist())))}
    assert parents.tolist() == [first[key] for key in keys[:, 0].tolist()]
