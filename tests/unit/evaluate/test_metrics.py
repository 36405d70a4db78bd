"""Each metric against hand values and the libraries of reference; perfect, worst, tied and empty answers."""

import csv
import time
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import f1_score

from tunewright.core.errors import ConfigError, DataError
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.suggest import suggest

TEXT = (
    "exact_match",
    "token_f1",
    "rouge_l",
    "json_valid",
    "json_fields",
    "accuracy",
    "macro_f1",
    "bleu",
    "chrf",
)
LONG = [
    "the cat sat on the mat today",
    "a dog ran over the old bridge",
    "it rains in Spain, mostly",
    "café au lait",
]
NEAR = ["the cat sat on a mat", "the dog ran under the old bridge again", "", "cafe au lait ."]


def value(name, predictions, references):
    metric = METRICS[name]
    return metric.aggregate(metric.rows(predictions, references))


# ---- the contract that every metric keeps


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_describes_itself(name):
    metric = METRICS[name]
    assert metric.name == name
    assert len(metric.description) > 20


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].needs in ("text", "logprobs")])
def test_metrics_of_written_answers(name):
    metric = METRICS[name]
    assert metric.unit in {"share", "points", "perplexity", "reward"}
    assert metric.higher_is_better is (name != "perplexity")
    assert metric.needs == ("logprobs" if name == "perplexity" else "text")


@pytest.mark.parametrize("name", list(METRICS))
def test_no_rows_and_unequal_lengths_are_errors(name):
    metric = METRICS[name]
    with pytest.raises(DataError, match="no row"):
        metric.rows([], [])
    with pytest.raises(DataError, match="2 predictions for 1 references"):
        metric.rows(
            [1.0, 2.0] if name == "perplexity" else ["a", "b"], [1] if name == "perplexity" else ["a"]
        )
    with pytest.raises(DataError, match="no row"):
        metric.aggregate(np.zeros((0, 2)))


PERFECT = {name: (list(LONG), 1.0) for name in ("exact_match", "token_f1", "accuracy", "macro_f1")}
PERFECT |= {"rouge_l": (LONG, 1.0), "bleu": (LONG, 100.0), "chrf": (LONG, 100.0)}
PERFECT |= {name: (['{"a": 1, "b": [2]}', '{"c": null}'], 1.0) for name in ("json_valid", "json_fields")}


@pytest.mark.parametrize("name", TEXT)
def test_perfect_and_worst(name):
    references, best = PERFECT[name]
    assert value(name, references, references) == pytest.approx(best)
    assert value(name, ["§§§"] * len(references), references) == pytest.approx(0.0)
    assert value(name, [""] * len(references), references) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "bleu", "chrf", "macro_f1", "rouge_l"])
def test_weighted_rows_are_the_resampled_corpus(name):
    """Doubling, dropping and swapping rows by weight gives what the resampled texts would give."""
    metric, counts = METRICS[name], np.array([[2, 0, 1, 1], [0, 3, 0, 1], [1, 1, 1, 1]], dtype=float)
    predictions = [LONG[0], NEAR[1], LONG[1], NEAR[3]]
    references = [LONG[0], LONG[1], LONG[1], LONG[3]]
    found = metric.aggregate_weighted(metric.rows(predictions, references), counts)
    for i, weights in enumerate(counts.astype(int)):
        picked = np.repeat(np.arange(4), weights)
        again = value(name, [predictions[j] for j in picked], [references[j] for j in picked])
        assert found[i] == pytest.approx(again, abs=1e-12)


@pytest.mark.parametrize("name", TEXT)
def test_per_row_is_the_value_of_the_row_alone(name):
    references = PERFECT[name][0]
    predictions = [references[0], *["x"] * (len(references) - 1)]
    metric = METRICS[name]
    alone = [value(name, [p], [r]) for p, r in zip(predictions, references, strict=True)]
    assert metric.per_row(metric.rows(predictions, references)) == pytest.approx(alone)


# ---- exact match and JSON


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        (" 42\n", "42", True),
        ("Paris", "paris", False),
        ("cafe\u0301", "caf\u00e9", True),
        ('{"b": 1.0,\n "a": "\\u00e9"}', '{"a":"é","b":1}', True),
        ('{"a": "e\\u0301"}', '{"a": "é"}', True),
        ('{"a": 1e2}', '{"a": 100}', True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": 1, "b": 2}', '{"a": 1}', False),
        ("[1, 2]", "[2, 1]", False),
        ('```json\n{"a": 1}\n```', '{"a": 1}', False),
        ('{"a": 1', '{"a": 1}', False),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}', False),
        ("", "", True),
        ("[" * 100_000, "[]", False),
    ],
)
def test_exact_match(prediction, reference, right):
    assert value("exact_match", [prediction], [reference]) == right


def test_json_valid_wants_one_whole_document():
    answers = ['{"a": 1}', " [1] ", "12", "null", '{"a": NaN}', '{"a": 1} and more', "{'a': 1}", "[" * 5000]
    assert METRICS["json_valid"].rows(answers, [""] * 8).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_json_fields_hand_values():
    references = ['{"queue": "a", "tags": [1, 2], "n": 3}', '{"queue": "b"}', "{}", "{}"]
    answers = ['{"n": 3.0, "queue": "x", "tags": [1, 2], "more": 0}', "none", "{}", '{"a": 1}']
    assert METRICS["json_fields"].rows(answers, references) == pytest.approx([2 / 3, 0, 1, 0])
    assert METRICS["json_field:queue"].rows(answers[:2], references[:2]).tolist() == [0, 0]
    assert METRICS["json_field:tags"].rows(answers[:2], references[:2]).tolist() == [1, 0]
    composed, escaped, decomposed = '{"caf\u00e9": 1}', r'{"cafe\u0301": 1}', '{"cafe\u0301": 1}'
    for name in ("json_fields", "json_field:caf\u00e9", "json_field:cafe\u0301"):
        assert METRICS[name].rows([composed, escaped, decomposed], [decomposed, composed, escaped]).all()


def test_an_optional_field_is_right_when_both_leave_it_out():
    references = ['{"a": 1, "b": 2}', '{"a": 1}', '{"a": 1}', '{"a": null}']
    answers = ['{"b": 2}', '{"a": 1}', '{"b": 5}', "{}"]
    assert METRICS["json_field:b"].rows(answers, references).tolist() == [1, 1, 0, 1]
    assert METRICS["json_field:a"].rows(answers, references).tolist() == [0, 1, 0, 0]  # null is not absent


def test_json_errors_name_the_row_and_the_nearest_field():
    with pytest.raises(DataError, match=r"reference 2 of 2 is not a JSON object: 'plain'"):
        METRICS["json_fields"].rows(["{}", "{}"], ["{}", "plain"])
    with pytest.raises(DataError, match="Did you mean 'queue'"):
        METRICS["json_field:quueue"].rows(["{}"], ['{"queue": 1}'])


def test_names():
    assert "json_field:anything" in METRICS
    assert "json_field:" not in METRICS and "no_such:thing" not in METRICS and "blue" not in METRICS
    assert METRICS["json_field:a:b"].name == "json_field:a:b"
    with pytest.raises(ConfigError, match=r"unknown metric 'blue'. Did you mean 'bleu'"):
        METRICS["blue"]
    with pytest.raises(ConfigError, match="unknown metric family 'jsonfield'"):
        METRICS["jsonfield:a"]
    with pytest.raises(ConfigError, match="needs a name after the colon"):
        METRICS["json_field:"]


# ---- words


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("The cat, sat!", "a cat sat", 1.0),
        ("in the year 1969", "1969", 0.5),  # precision 1/3, recall 1
        ("cat cat dog", "cat dog dog", 2 / 3),
        ("the", "a", 1.0),  # nothing is left of either
        ("", "cat", 0.0),
        ("theatre", "atre", 0.0),  # articles are whole words
    ],
)
def test_token_f1(prediction, reference, f1):
    assert value("token_f1", [prediction], [reference]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog", 10 / 17),
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin 2004, section 3.1
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("café", "caf", 1.0),  # as in rouge-score: only a-z and 0-9 are read
        ("", "", 0.0),
    ],
)
def test_rouge_l(prediction, reference, f1):
    assert value("rouge_l", [prediction], [reference]) == pytest.approx(f1)


# ---- labels


def test_labels_ignore_case_and_space_but_nothing_else():
    references = ["Card arrival", "card_arrival", "refund", "refund"]
    answers = ["card  ARRIVAL\n", "card arrival", "refund.", "Refund"]
    assert METRICS["accuracy"].rows(answers, references).tolist() == [1, 0, 0, 1]


def test_macro_f1_equals_sklearn():
    rng = np.random.default_rng(3)
    classes = [f"c{i}" for i in range(7)]
    references = [classes[i] for i in rng.choice(6, 200)]  # c6 is predicted, never true
    answers = [r if rng.random() < 0.6 else rng.choice([*classes, "other"]) for r in references]
    wanted = f1_score(references, answers, labels=sorted(set(references)), average="macro")
    assert value("macro_f1", answers, references) == pytest.approx(wanted, abs=1e-12)
    assert METRICS["macro_f1"].rows(["c6", "c0"], ["c0", "c1"]).tolist() == [[0, -1], [1, 0]]


def test_a_class_that_a_resample_lacks_is_no_class_of_it():
    metric = METRICS["macro_f1"]
    rows = metric.rows(["a", "b", "b"], ["a", "b", "a"])
    without_b = np.array([[1.0, 0.0, 1.0]])  # "b" is predicted once, and is then no known label
    assert metric.aggregate_weighted(rows, without_b)[0] == pytest.approx(2 / 3)


# ---- BLEU, chrF, perplexity


@pytest.mark.parametrize("predictions", [NEAR, LONG, ["", "", "", ""], ["a", "b", "cat", "x y"], NEAR[::-1]])
def test_bleu_and_chrf_equal_sacrebleu_exactly(predictions):
    assert value("bleu", predictions, LONG) == sacrebleu.corpus_bleu(predictions, [LONG]).score
    assert value("chrf", predictions, LONG) == sacrebleu.corpus_chrf(predictions, [LONG]).score


def test_bleu_and_chrf_with_empty_references():
    references = ["", "ab", "x y", ""]
    assert value("chrf", NEAR, references) == sacrebleu.corpus_chrf(NEAR, [references]).score
    assert value("bleu", NEAR, references) == sacrebleu.corpus_bleu(NEAR, [references]).score


def test_bleu_is_smoothed_where_no_long_ngram_matches():
    shuffled = [" ".join(sorted(text.split())) for text in LONG]
    wanted = sacrebleu.corpus_bleu(shuffled, [LONG]).score
    assert value("bleu", shuffled, LONG) == wanted
    assert 1 < wanted < 30


def test_signatures_make_numbers_comparable():
    assert (
        METRICS["bleu"].signature
        == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    )
    assert METRICS["chrf"].signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_perplexity_weighs_tokens_not_rows():
    metric = METRICS["perplexity"]
    rows = metric.rows([2.0, 9.0], [2, 1])
    assert metric.aggregate(rows) == pytest.approx(np.exp(11 / 3))
    assert metric.per_row(rows) == pytest.approx([np.e, np.exp(9)])
    assert metric.aggregate(metric.rows([0.0], [5])) == 1.0
    for nll, tokens in (([1.0, 1.0], [1, 0]), ([1.0, np.nan], [1, 1]), ([1.0, np.inf], [1, 3])):
        with pytest.raises(DataError, match="row 2 of 2"):
            metric.rows(nll, tokens)


# ---- speed


@pytest.mark.parametrize(("name", "seconds"), [("token_f1", 1), ("macro_f1", 10), ("bleu", 10), ("chrf", 10)])
def test_two_thousand_resamples_of_a_thousand_rows_are_quick(name, seconds):
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(77)])
    length = 1 if name == "macro_f1" else 12
    references = [" ".join(rng.choice(words, length)) for _ in range(1000)]
    answers = [r if rng.random() < 0.7 else " ".join(rng.choice(words, length)) for r in references]
    rows = METRICS[name].rows(answers, references)
    start = time.process_time()
    interval(METRICS[name], rows)
    assert time.process_time() - start < seconds


# ---- which metrics fit


def test_suggestions():
    tickets = [
        '{"queue": "a", "urgent": true}',
        '{"urgent": false, "queue": "b", "note": ""}',
        '{"queue": "a"}',
    ]
    found = suggest(tickets)
    assert found.metrics == (
        "exact_match",
        "json_valid",
        "json_fields",
        "json_field:queue",
        "json_field:urgent",
    )
    assert found.primary == "exact_match" and "3 fields" in found.reason and "2 most common" in found.reason
    assert suggest(["[1]", "{}"]).metrics == ("exact_match", "json_valid")
    assert suggest(["spam", "ham", "Spam", "spam", "ham", "ham"]).metrics == ("accuracy", "macro_f1")
    assert suggest([str(i) for i in range(50)]).metrics == ("exact_match", "token_f1")
    assert suggest(["one two three four five six seven eight nine"] * 9).metrics[0] == "rouge_l"
    assert suggest(["да нет да нет да нет да нет да нет", "кот"] * 5 + ["да " * 9] * 2).primary == "chrf"
    assert all(name in METRICS for name in (*found.metrics, *suggest(["да " * 9]).metrics))
    with pytest.raises(DataError, match="no reference"):
        suggest([])


@pytest.mark.realdata
def test_majority_class_on_banking77():
    folder = Path(__file__).parents[4] / "shared" / "data" / "cls_banking77"
    if not folder.exists():
        pytest.skip("shared data not present")
    with (folder / "test.csv").open(encoding="utf-8", newline="") as f:
        references = [row["category"] for row in csv.DictReader(f)]
    answers = ["card_arrival"] * len(references)
    assert len(references) == 3080
    assert suggest(references).metrics == ("accuracy", "macro_f1")
    assert value("accuracy", answers, references) == pytest.approx(1 / 77)
    assert value("macro_f1", answers, references) == pytest.approx(
        f1_score(references, answers, average="macro", zero_division=0)
    )
