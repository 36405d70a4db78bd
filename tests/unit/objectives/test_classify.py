"""Classification: labels and weights from the rows, worked losses, refusals, and rules that are learnt."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.heads import Given, Numbers, encoded, labelled, learned, objective, said, scores_of
from tests.tiny import tiny_tokenizer
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Conversation, Labelled, Message, Meta
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import HeadSpec, Objective
from tunewright.objectives.options.supervised import ClassifyOptions
from tunewright.objectives.options.table import options_of
from tunewright.objectives.predict import predict

LN = math.log
ROWS = [labelled("1 2 3", "spam", 1), labelled("4 5", "ham", 2), labelled("6", "ham", 3)]
GRADES = ["bad", "fair", "good"]
GRADED = [
    labelled("1", "good", 1),
    labelled("2", "bad", 2),
    labelled("3", "fair", 3),
    labelled("4", "bad", 4),
]
TAGGED = [
    labelled("1", ("hot", "new"), 1),
    labelled("2", (), 2),
    labelled("3", ("new",), 3),
    labelled("4", ("new",), 4),
]


def fitted(rows=ROWS, **options):
    return objective("classify", **options).fitted(rows)


def out(what, rows, scores):
    batch = build_batch(encoded(what, rows))
    return what.loss(Given(scores), batch), float(what.count(batch))


# --- what is known of the training rows


def test_labels_are_those_of_the_training_rows_in_order():
    before = objective("classify")
    after = before.fitted(ROWS)
    assert after.labels == ("ham", "spam") and before.labels == () and isinstance(after, Objective)
    assert fitted(labels=["spam", "ham"]).labels == ("spam", "ham")
    assert fitted(TAGGED, kind="multi").labels == ("hot", "new")
    assert fitted([labelled("1", 0), labelled("2", 1)]).labels == ("0", "1")


@pytest.mark.parametrize(
    ("options", "rows", "weights"),
    [
        ({}, ROWS, (1.0, 1.0)),
        ({"class_weights": "balanced"}, ROWS, (3 / 4, 3 / 2)),  # n / (K n_k): 3 / (2 * 2), 3 / (2 * 1)
        ({"class_weights": {"spam": 5}}, ROWS, (1.0, 5.0)),
        ({"kind": "multi", "class_weights": "balanced"}, TAGGED, (3.0, 1 / 3)),  # (4 - 1) / 1, (4 - 3) / 3
        ({"kind": "ordinal", "labels": GRADES, "class_weights": "balanced"}, GRADED, (2 / 3, 4 / 3, 4 / 3)),
    ],
)
def test_class_weights(options, rows, weights):
    assert fitted(rows, **options).weights == pytest.approx(weights)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    names = ["a"] * 5 + ["b"] * 20 + ["c"] * 3
    theirs = compute_class_weight("balanced", classes=np.array([*"abc"]), y=names)
    ours = fitted([labelled("1", name) for name in names], class_weights="balanced").weights
    assert ours == pytest.approx(theirs.tolist())


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({}, HeadSpec(2, "last", False, 1.0)),
        ({"pooling": "mean", "head_rate": 3.0}, HeadSpec(2, "mean", True, 3.0)),
        ({"kind": "ordinal", "labels": ["spam", "ham"]}, HeadSpec(1, "last", True, 1.0)),
    ],
)
def test_the_head(options, spec):
    what = fitted(**options)
    head = what.heads["score"]
    assert (head.outputs, head.pooling, head.bias, head.rate) == (
        spec.outputs,
        spec.pooling,
        spec.bias,
        spec.rate,
    )
    assert head.facts == {
        "task": "classify",
        "kind": options.get("kind", "single"),
        "labels": list(what.labels),
        "threshold": 0.5,
    }
    assert objective("classify", **options).heads.keys() == {"score"}  # known before the rows are


def test_the_threshold_is_kept_in_the_facts():
    assert fitted(TAGGED, kind="multi", threshold=0.8).heads["score"].facts["threshold"] == 0.8


# --- sequences


def test_a_row_is_read_as_context_with_the_index_of_its_label():
    [tokens] = fitted().encode(ROWS[0], Numbers())
    assert (tokens.ids, tokens.weights, tokens.extras) == ([1, 2, 3], [0.0] * 3, {"label": 1.0})
    assert tokens.meta == ROWS[0].meta
    assert fitted().encode(ROWS[0], Numbers(longest=2)) == []  # the renderer's limit holds


def test_the_renderer_of_a_model_cuts_a_text_and_keeps_its_label():
    renderer = Renderer(tiny_tokenizer(), max_length=4)
    [tokens] = fitted().encode(labelled("The quick brown fox jumps over the lazy dog", "spam"), renderer)
    assert len(tokens.ids) == 4 and tokens.extras["label"] == 1.0 and tokens.trained == 0
    assert tokens.ids == renderer.reading(said("The quick brown fox"))[:4]


@pytest.mark.parametrize(
    ("label", "extras"),
    [
        (("new",), {"label_0": 0.0, "label_1": 1.0}),
        ((), {"label_0": 0.0, "label_1": 0.0}),
        (("new", "hot"), {"label_0": 1.0, "label_1": 1.0}),
    ],
)
def test_several_labels_are_a_number_each(label, extras):
    assert fitted(TAGGED, kind="multi").encode(labelled("1", label), Numbers())[0].extras == extras


# --- the loss


@pytest.mark.parametrize(
    ("options", "rows", "scores", "total", "count", "accuracy"),
    [
        # p(spam) = 1/4, p(ham) = 1/2; weights 3/4 for ham, 3/2 for spam
        (
            {"class_weights": "balanced"},
            ROWS[:2],
            [[LN(3), 0.0], [0.0, 0.0]],
            3 / 2 * LN(4) + 3 / 4 * LN(2),
            9 / 4,
            1 / 2,
        ),
        ({"label_smoothing": 0.5}, ROWS[:1], [[LN(3), 0.0]], 0.75 * LN(4) + 0.25 * LN(4 / 3), 1.0, 0.0),
        # hot with 3/4, new with 1/4: the first row is half right, the second wrong
        (
            {"kind": "multi", "labels": ["hot", "new"]},
            TAGGED[:1] + TAGGED[1:2],
            [[LN(3), -LN(3)], [LN(3), -LN(3)]],
            (LN(4 / 3) + LN(4)) / 2 + (LN(4) + LN(4 / 3)) / 2,
            2.0,
            0.0,
        ),
        # good: sigmoid(0) * sigmoid(ln 3) = 3/8; bad: 1/2
        (
            {"kind": "ordinal", "labels": GRADES},
            GRADED[:2],
            [[0.0, LN(3)], [0.0, LN(3)]],
            LN(8 / 3) + LN(2),
            2.0,
            1 / 2,
        ),
    ],
)
def test_worked_losses(options, rows, scores, total, count, accuracy):
    everything = {"multi": TAGGED, "ordinal": GRADED}.get(options.get("kind"), ROWS)
    found, counted = out(fitted(everything, **options), rows, scores)
    assert float(found.total.detach()) == pytest.approx(total, rel=1e-6) and counted == pytest.approx(count)
    hits = found.metrics["accuracy"]
    assert float(hits.total / hits.weight) == accuracy and float(hits.weight) == len(rows)


def test_an_ordinal_loss_reports_how_many_ranks_it_is_off():
    found, _ = out(fitted(GRADED, kind="ordinal", labels=GRADES), GRADED, [[-9.0, 9.0]] * 4)  # all bad
    assert [float(v) for v in found.metrics["rank_error"]] == [3.0, 4.0]


def test_the_mean_is_that_of_torch():
    what = fitted(class_weights={"spam": 3.0, "ham": 0.5}, label_smoothing=0.1)
    scores = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, count = out(what, ROWS, scores.tolist())
    weights = torch.tensor([0.5, 3.0], dtype=torch.float64)
    theirs = F.cross_entropy(scores, torch.tensor([1, 0, 0]), weights, label_smoothing=0.1)
    assert float(found.total.detach()) / count == pytest.approx(float(theirs))


def test_each_option_changes_the_loss():
    scores = [[0.4, -0.2], [1.0, 0.1], [-0.3, 0.6]]
    variants = ({}, {"class_weights": "balanced"}, {"class_weights": {"ham": 2.0}}, {"label_smoothing": 0.2})
    values = {round(float(out(fitted(**v), ROWS, scores)[0].total.detach()), 6) for v in variants}
    assert len(values) == 4


# --- what is refused


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        ("single", 0.5, "label is 0.5, which kind 'single'.*objective regress"),
        ("single", True, "label is True.*objective kto"),
        ("single", ("a", "b"), "needs kind multi"),
        ("multi", "a", "as a list, or set kind to single"),
        ("multi", 3, "as a list of texts"),
        ("ordinal", ("bad",), "needs kind multi"),
    ],
)
def test_a_label_of_the_wrong_type(kind, label, message):
    what = objective("classify", kind=kind, labels=GRADES if kind == "ordinal" else None)
    with pytest.raises(DataError, match=rf"rows.jsonl:7: .*{message}"):
        what.fitted([labelled("1", label, 7)])


def test_a_label_never_seen_in_training():
    with pytest.raises(DataError, match=r"rows.jsonl:9: the label 'spma' is none.*Did you mean 'spam'"):
        fitted().encode(labelled("1", "spma", 9), Numbers())
    with pytest.raises(DataError, match=r"rows.jsonl:9: the label 'cold'"):
        fitted(TAGGED, kind="multi").encode(labelled("1", ("new", "cold"), 9), Numbers())


def test_labels_that_do_not_fit_the_list():
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: the label 'spam' is none of the 2 labels of the option"
    ):
        fitted(labels=["ham", "eggs"])
    with pytest.raises(ConfigError, match="names 'eggs', but none of 3 training rows has it"):
        fitted(labels=["ham", "spam", "eggs"])


def test_nothing_to_tell_apart():
    with pytest.raises(DataError, match="2 training rows have only the label 'ham'"):
        fitted(ROWS[1:])
    with pytest.raises(DataError, match="have no label"):
        fitted([labelled("1", ())], kind="multi")
    assert fitted([labelled("1", ()), labelled("2", ("hot",))], kind="multi").labels == ("hot",)


def test_weights_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"class_weights names 'spma'. Did you mean 'spam'"):
        fitted(class_weights={"spma": 2.0})
    always = [labelled("1", ("new",)), labelled("2", ("new", "hot"))]
    with pytest.raises(DataError, match="all 2 training rows have the label 'new'"):
        fitted(always, kind="multi", class_weights="balanced")


def test_a_row_of_another_kind():
    chat = Conversation((Message("user", "1"), Message("assistant", "2")), Meta("chat.jsonl", 4))
    with pytest.raises(ConfigError, match=r"chat.jsonl:4 is a conversation row"):
        objective("classify").fitted([chat])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ordinal"}, "needs labels"),
        ({"labels": ["a"]}, "at least two labels"),
        ({"labels": ["a", "b", "a"]}, "'a' stands in the list twice"),
        ({"labels": []}, "the list is empty"),
        ({"threshold": 0.7}, "threshold is read with kind 'multi' only"),
        ({"class_weights": {"a": 0.0}}, "the weight of 'a' must be a number above 0"),
        ({"class_weights": {"a": math.inf}}, "the weight of 'a' must be a number above 0"),
        ({"class_weights": "balnced"}, "class_weights"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        options_of("classify", options)


def test_whole_numbers_may_name_classes_and_options_survive_a_round_trip():
    stars = options_of("classify", {"kind": "ordinal", "labels": [1, 2, 3], "class_weights": {1: 2.0}})
    assert stars.labels == ["1", "2", "3"] and stars.class_weights == {"1": 2.0}
    assert ClassifyOptions.model_validate(stars.model_dump()) == stars


# --- learning


def texts(rng, count, marks):
    """``count`` (text, number of marks), where token 1 stands in for a mark at random places among others."""
    for _ in range(count):
        n = rng.randrange(marks + 1)
        ids = [1] * n + [rng.randrange(5, 40) for _ in range(8 - n)]
        rng.shuffle(ids)
        yield " ".join(map(str, ids)), n


def split(rows, test=120):
    return rows[test:], rows[:test]


def accuracy(forward, what, rows):
    found = predict(scores_of(forward, what, rows), what.heads["score"].facts)
    return sum(p.value in (row.label, str(row.label)) for p, row in zip(found, rows, strict=True)) / len(rows)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, lambda n: ("none", "one", "two")[n]),
        ({"kind": "multi"}, lambda n: ("any",) * (n > 0) + ("many",) * (n > 1)),
        ({"kind": "ordinal", "labels": [0, 1, 2]}, lambda n: n),
        ({"pooling": "mean", "class_weights": "balanced"}, lambda n: ("none", None, "two")[n]),
    ],
    ids=["single", "multi", "ordinal", "mean"],
)
def test_a_rule_is_learnt(tmp_path, options, label):
    torch.set_num_threads(1)
    rows = [labelled(text, label(n)) for text, n in texts(random.Random(0), 700, 2)]
    train, test = split([row for row in rows if row.label is not None])
    what = fitted(train, **options)
    assert accuracy(learned(what, train, tmp_path, steps=90), what, test) > 0.95


def test_the_layer_is_that_of_a_sequence_classifier(tmp_path):
    """transformers' own classifier with this trunk and this head gives the same scores."""
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(1)
    rows = [labelled(text, "abc"[n]) for text, n in texts(random.Random(1), 40, 2)]
    what = fitted(rows)
    forward = learned(what, rows, tmp_path, steps=4)
    config = forward.model.config.__class__(**forward.model.config.to_dict())
    config.num_labels = 3
    theirs = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    theirs.model.load_state_dict(forward.model.model.state_dict())
    theirs.score.load_state_dict({"weight": forward.model.score.weight})
    ids = torch.tensor([t.ids for t in encoded(what, rows)])
    ours = scores_of(forward, what, rows)
    assert ours.abs().max() > 0.01
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours, rtol=1e-4, atol=1e-5)


def test_labelled_rows_only():
    assert objective("classify").accepts == {"labelled"}
    assert isinstance(ROWS[0], Labelled) and objective("classify").judged == "labels"
