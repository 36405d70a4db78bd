"""What must hold for any rows: order, identity and symmetry of differences, and sound bounds."""

import json
import unicodedata

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.compare import paired
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.metrics_json import canonical, parse_container
from tunewright.evaluate.metrics_text import common_length
from tunewright.evaluate.verdict import verdict

TEXT = ("exact_match", "token_f1", "rouge_l", "accuracy", "macro_f1", "bleu", "chrf")
words = st.lists(st.sampled_from(["the", "cat", "dog", "sat", "é", "5", "."]), max_size=6).map(" ".join)
corpora = st.lists(st.tuples(words, words, words), min_size=2, max_size=12)
names = st.sampled_from(TEXT)
plain = (
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

# the machine may be busy, and the first example imports sacrebleu
relaxed = settings(deadline=None)


def quick(metric, a, b, seed=0):
    return paired(metric, a, b, resamples=60, seed=seed)


@relaxed
@given(names, corpora)
def test_values_and_intervals_stay_within_bounds(name, corpus):
    metric = METRICS[name]
    a, _, references = zip(*corpus, strict=True)
    found = interval(metric, metric.rows(a, references), resamples=60)
    worst, best = metric.bounds
    assert worst <= found.low <= found.high <= best + 1e-9
    assert worst <= found.value <= best + 1e-9


@relaxed
@given(names, corpora)
def test_swapping_the_systems_mirrors_the_difference(name, corpus):
    metric = METRICS[name]
    a, b, references = zip(*corpus, strict=True)
    rows_a, rows_b = metric.rows(a, references), metric.rows(b, references)
    there, back = quick(metric, rows_a, rows_b), quick(metric, rows_b, rows_a)
    assert np.isclose(there.value, -back.value)
    assert np.allclose([there.low, there.high], [-back.high, -back.low], atol=1e-7)
    assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
    assert there.wins + there.losses + there.ties == there.n == len(corpus)
    assert there.rows_to_decide == back.rows_to_decide
    assert 0 < there.p <= 1


@relaxed
@given(names, corpora)
def test_interval_and_test_agree_and_an_open_case_wants_more_rows(name, corpus):
    metric = METRICS[name]
    a, b, references = zip(*corpus, strict=True)
    found = quick(metric, metric.rows(a, references), metric.rows(b, references))
    if found.low > 0 or found.high < 0:
        assert found.p <= 0.05
    decision = verdict({"base": found}, metric)
    if decision.word == "CAN'T TELL" and found.value:
        assert decision.rows_that_would_decide > found.n


@relaxed
@given(names, corpora, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_to_the_value(name, corpus, random):
    metric = METRICS[name]
    a, _, references = zip(*corpus, strict=True)
    rows = metric.rows(a, references)
    order = list(range(len(corpus)))
    random.shuffle(order)
    assert np.isclose(metric.aggregate(rows), metric.aggregate(rows[order]))


@relaxed
@given(names, corpora, st.data())
def test_weights_are_repetition(name, corpus, data):
    metric = METRICS[name]
    a, _, references = zip(*corpus, strict=True)
    size = len(corpus)
    counts = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size).filter(any))
    rows = metric.rows(a, references)
    picked = np.repeat(np.arange(size), counts)
    again = metric.aggregate(metric.rows([a[i] for i in picked], [references[i] for i in picked]))
    assert np.isclose(metric.aggregate_weighted(rows, np.array([counts], dtype=float))[0], again)


@relaxed
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_macro_f1_is_sklearns(pairs):
    true, given_labels = (list(map(str, column)) for column in zip(*pairs, strict=True))
    metric = METRICS["macro_f1"]
    wanted = f1_score(true, given_labels, labels=sorted(set(true)), average="macro", zero_division=0)
    assert np.isclose(metric.aggregate(metric.rows(given_labels, true)), wanted)


@relaxed
@given(st.lists(st.integers(0, 4), max_size=20), st.lists(st.integers(0, 4), max_size=20))
def test_common_length_is_the_textbook_recursion(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    assert common_length(first, second) == table[-1, -1]


@relaxed
@given(st.dictionaries(st.text(), json_values, max_size=4), st.data())
def test_json_compares_by_value(value, data):
    assume(len({unicodedata.normalize("NFC", key) for key in value}) == len(value))
    order = data.draw(st.permutations(list(value)))
    spelt = json.dumps({k: value[k] for k in order}, indent=data.draw(st.none() | st.integers(0, 3)))
    other = json.dumps(value, ensure_ascii=False)
    assert METRICS["exact_match"].rows([spelt], [other])[0] == 1
    assert canonical(parse_container(spelt)) == canonical(parse_container(other))
    if value:
        changed = {**value, order[0]: [value[order[0]]]}
        assert METRICS["exact_match"].rows([json.dumps(changed)], [other])[0] == 0
        assert METRICS["json_fields"].rows([json.dumps(changed)], [other])[0] == (len(value) - 1) / len(value)


@relaxed
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_can_be_scored(prediction, reference):
    for name in (*TEXT, "json_valid"):
        metric = METRICS[name]
        score = metric.aggregate(metric.rows([prediction], [reference]))
        assert metric.bounds[0] <= score <= metric.bounds[1] + 1e-9
