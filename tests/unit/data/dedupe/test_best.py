"""Which row of a cluster stays."""

import numpy as np
import pytest

from tunewright.data.dedupe.best import DROPPED, FACTS, LONGEST, best_first, dropped
from tunewright.data.dedupe.clusters import InMemory, clusters
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.sketch import ANSWER, sketch

WORDS = [f"w{'abcdefghij'[i // 10]}{'abcdefghij'[i % 10]}" for i in range(100)]


def answer(*places, word="edit"):
    said = " ".join(word if i in places else known for i, known in enumerate(WORDS))
    return f"user: why{ANSWER}assistant: {said}"


def facts(count, **fields):
    made = np.zeros(count, FACTS)
    made["words"] = 100
    for name, values in fields.items():
        made[name] = values
    return made


def lost(texts, exact=None, **fields):
    found = clusters(InMemory(sketch(texts)), texts.__getitem__)
    result = dropped(found, facts(len(texts), **fields), Comparer(texts.__getitem__), exact)
    return [(int(r["row"]), int(r["kept"]), int(r["reason"])) for r in result]


def test_the_first_stays_where_nothing_tells_rows_apart():
    assert lost([answer(), answer(50), answer(20), "user: other"]) == [(1, 0, 1), (2, 0, 1)]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"repairs": [2, 0, 1]}, 1),
        ({"synthetic": [1, 1, 0], "repairs": [0, 0, 70_000]}, 2),
        ({"redactions": [2, 1, 0]}, 2),
        ({"words": [100, 100, 120]}, 2),
        ({"repairs": [1, 0, 1], "redactions": [0, 9, 0]}, 1),
        ({"redactions": [1, 0, 1], "words": [200, 100, 300]}, 1),
        ({"words": [LONGEST + 5, LONGEST + 900, 10]}, 0),
    ],
)
def test_the_rule_in_its_order(fields, kept):
    texts = [answer(), answer(50), answer(20)]
    assert lost(texts, **fields) == [(row, kept, 1) for row in range(3) if row != kept]


def test_rows_of_given_files_stay_and_the_others_of_their_cluster_go():
    texts = [answer(), answer(50), answer(20), answer(70)]
    assert lost(texts, given=[0, 2, 2, 1], repairs=[0, 9, 9, 0]) == [(0, 1, 3), (3, 1, 3)]
    assert lost(texts, given=[0, 0, 1, 1]) == [(0, 2, 2), (1, 2, 2)]


def test_a_row_near_a_test_row_only_by_a_chain_goes_too():
    texts = [answer(*range(2, 2 + 9 * n, 9)) for n in range(8)]
    result = lost(texts, given=[2, 0, 0, 0, 0, 0, 0, 0])
    assert result == [(row, 0, 3) for row in range(1, 8)]


def test_no_row_goes_for_one_that_it_does_not_resemble():
    texts = [answer(*range(2, 2 + 9 * n, 9)) for n in range(8)]
    result = lost(texts)
    kept = {0, *range(8)} - {row for row, _, _ in result}
    assert len(kept) >= 2 and all(other in kept for _, other, _ in result)
    comparer = Comparer(texts.__getitem__)
    assert all(comparer.similarity(row, other) >= 0.8 for row, other, _ in result)


def test_rows_that_say_something_else_stay():
    assert lost([answer(), answer(50, word="not")]) == []
    assert lost([answer(), answer(50, word="12")]) == []
    labelled = [f"user: {' '.join(WORDS)}{ANSWER}", f"user: {' '.join(WORDS)} more{ANSWER}"]
    assert lost(labelled, says=[1, 2]) == []
    assert lost(labelled, says=[1, 1]) == [(1, 0, 1)]


def test_exact_duplicates_go_everywhere_and_are_called_so():
    texts = [answer(), answer(), answer(50), answer(50)]
    exact = np.array([0, 0, 2, 2])
    assert lost(texts, exact) == [(1, 0, 0), (2, 0, 1), (3, 0, 1)]
    assert lost(texts, exact, given=[0, 0, 2, 2]) == [(0, 2, 3), (1, 2, 3), (3, 2, 0)]


def test_the_best_of_each_cluster_comes_first():
    leaders = np.array([0, 1, 0, 1, 0])
    own = facts(5, repairs=[1, 0, 0, 0, 0], words=[9, 1, 5, 2, 7])
    assert best_first(np.array([0, 2, 4, 1, 3]), leaders, own).tolist() == [4, 2, 0, 3, 1]


def test_nothing_goes_of_nothing():
    assert lost(["a", "b"]) == []
    found = clusters(InMemory(sketch([])), [].__getitem__)
    assert dropped(found, facts(0), Comparer([].__getitem__)).dtype == DROPPED


def test_a_large_cluster_of_rows_that_all_stay_takes_no_square_of_comparisons():
    texts = [answer(50, word=str(n)) for n in range(400)]
    made = []

    class Counting(Comparer):
        def similarity(self, a, b):
            made.append(1)
            return super().similarity(a, b)

    found = clusters(InMemory(sketch(texts)), texts.__getitem__)
    assert (found.leaders == 0).all()
    result = dropped(found, facts(400), Counting(texts.__getitem__))
    assert len(result) == 0 and len(made) <= 400 * 16
