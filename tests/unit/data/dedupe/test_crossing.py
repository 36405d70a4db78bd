"""The proof of a split, and the report."""

import numpy as np
import pytest

from tests.second_look import recheck
from tunewright.data.dedupe.clusters import Clusters, InMemory, clusters
from tunewright.data.dedupe.contradictions import Contradiction, Contradictions
from tunewright.data.dedupe.crossing import UNUSED, Crossing, crossing
from tunewright.data.dedupe.report import (
    cluster_report,
    contradiction_report,
    dropped_counts,
    label_report,
    large_clusters,
)
from tunewright.data.dedupe.sketch import sketch

WORDS = [f"w{i}" for i in range(100)]


def edited(*places):
    return " ".join("edit" if i in places else word for i, word in enumerate(WORDS))


@pytest.mark.parametrize(
    ("leaders", "sides", "expected"),
    [
        ([0, 1, 0, 1], [0, 2, 0, 2], []),
        ([0, 1, 0, 1], [0, 2, 2, 2], [(0, 2)]),
        ([0, 0, 0], [2, UNUSED, 0], [(0, 2)]),
        ([0, 0, 0], [2, UNUSED, 2], []),
        ([0, 0, 0], [UNUSED, 1, 2], [(1, 2)]),
        ([0, 1, 0, 0, 1], [0, 0, 1, 2, 2], [(0, 2), (1, 4)]),
        ([], [], []),
    ],
)
def test_clusters_on_several_sides(leaders, sides, expected):
    found = crossing(np.array(leaders, np.int64), np.array(sides, np.uint8))
    assert found == [Crossing(one, other, -1.0) for one, other in expected]


def test_looking_again_finds_what_crosses_without_knowing_the_clusters():
    train = [(0, edited(50)), (1, "something else"), (4, edited(10, 90)), (9, "")]
    held = [(2, edited()), (3, "nothing like it")]
    found = recheck(held, train)
    assert [pair[:2] for pair in found] == [(0, 2), (4, 2)]
    assert [pair.similarity for pair in found] == pytest.approx([97 / 103, 94 / 106])
    assert recheck(held, train, threshold=0.95) == []
    assert recheck([], train) == [] and recheck(held, []) == []


def test_many_equal_rows_on_both_sides_are_not_all_paired():
    found = recheck([(n, "same words here") for n in range(300)], [(1000, "same words here")])
    assert 1 <= len(found) < 300


def test_the_report_names_places_and_no_text():
    texts = [edited(), "alone", edited(50), edited(20), "pair of rows", "pair of rows"]
    found = clusters(InMemory(sketch(texts)), texts.__getitem__)
    report = cluster_report(found, lambda row: f"a.jsonl:{row + 1}")
    assert report["clusters"] == 2 and report["rows_in_clusters"] == 5
    assert report["sizes"] == {"2": 1, "3-5": 1, "6-20": 0, "21-100": 0, "101+": 0}
    assert report["largest"] == [
        {"rows": 3, "least_similarity": 0.9417, "places": ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4"]},
        {"rows": 2, "least_similarity": 1.0, "places": ["a.jsonl:5", "a.jsonl:6"]},
    ]
    assert "w1" not in str(report)


def test_a_cluster_that_is_most_of_the_data_is_said_aloud():
    leaders = np.array([0] * 30 + list(range(30, 100)))
    [note] = large_clusters(Clusters(leaders, np.zeros(100, np.float32), 0))
    assert note.startswith("30 of 100 rows")
    assert large_clusters(Clusters(np.arange(100), np.zeros(100, np.float32), 0)) == []


def test_reports_of_contradictions_and_of_what_went():
    one = Contradiction((3, 8), 2, 2)
    told = contradiction_report(Contradictions([one], 50), str)
    assert told == {
        "questions": 1,
        "rows": 2,
        "on_purpose": False,
        "first": [{"rows": 2, "answers": 2, "places": ["3", "8"]}],
    }
    assert label_report([one], str)["clusters"] == 1
    lost = np.zeros(3, [("reason", "u1")])
    lost["reason"] = [1, 1, 3]
    assert dropped_counts(lost) == {"near_duplicate": 2, "near_test": 1}
