"""Wrong labels that were planted are found, right ones are left alone; order and luck do not matter."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from tunewright.core.records import Labelled
from tunewright.data.audit.label_errors import (
    FOLDS,
    confident_errors,
    folds_of,
    label_errors,
    out_of_fold,
    ranking,
)
from tunewright.data.audit.sample import Row
from tunewright.data.load import load

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[5] / "shared" / "data")
TOPICS = {
    "card": ["card", "arrive", "post", "wait", "delivery", "lost", "stolen", "pin"],
    "rate": ["exchange", "rate", "currency", "euro", "dollar", "convert", "fee"],
    "login": ["password", "login", "locked", "email", "code", "reset", "screen"],
}
FILLER = ["please", "my", "the", "is", "a", "can", "you", "help", "how", "when", "what", "today", "again"]


def rows(count=300, flips=0, seed=0):
    """Texts of three topics with their labels, ``flips`` of them wrong; and the places of these."""
    rng = random.Random(seed)
    made, wrong = [], set(rng.sample(range(count), flips))
    names = sorted(TOPICS)
    for i in range(count):
        topic = names[i % 3]
        text = " ".join(rng.choices(TOPICS[topic], k=4) + rng.choices(FILLER, k=4))
        label = names[(i + 1 + rng.randrange(2)) % 3] if i in wrong else topic
        made.append(Row(rng.getrandbits(60), i, f"a.jsonl:{i}", text, "", label, "labelled"))
    return made, {f"a.jsonl:{i}" for i in wrong}


def test_planted_errors_are_the_suspects_and_clean_rows_give_none():
    made, wrong = rows(flips=12)
    part = label_errors(made, 300)
    assert part.verdict == "look"
    assert {s["place"] for s in part.details["suspects"]} == wrong
    assert part.details["estimated"] in (11, 12)
    assert any(line.startswith(place) for place in wrong for line in part.lines)
    clean = label_errors(rows()[0], 300)
    assert (clean.verdict, clean.details["estimated"], clean.lines) == ("fine", 0, ())


def test_the_confident_joint_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.85, 0.15]])
    labels = np.array([0, 0, 1, 1, 1])
    # thresholds: 0.8 for class 0 and (0.9 + 0.8 + 0.15) / 3 = 0.617 for class 1
    assert confident_errors(probabilities, labels).tolist() == [False, False, False, False, True]
    # scores p x (1 - best other): .81, .49, .81, .64, .0225
    assert ranking(probabilities, labels, list("abcde")) == [4, 1, 3, 0, 2]


def test_copies_share_a_fold_and_the_order_of_rows_does_not_matter():
    texts = [f"text {i % 40}" for i in range(80)]
    labels = np.array([i % 4 for i in range(80)])
    folds = folds_of(texts, labels)
    assert folds[:40].tolist() == folds[40:].tolist()
    assert folds_of(texts[::-1], labels[::-1]).tolist() == folds[::-1].tolist()
    for label in range(4):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 2


def test_a_copy_with_the_same_wrong_label_does_not_hide_it():
    made, wrong = rows(flips=6)
    copies = [r for r in made if r.place in wrong]
    part = label_errors([*made, *(Row(1, 999, f"copy {r.place}", *_rest(r)) for r in copies)], 306)
    assert len(part.details["suspects"]) == 12


def _rest(row):
    return row.prompt, row.answer, row.label, row.kind


def test_answers_that_are_classes_are_audited_too():
    made, wrong = rows(flips=9)
    chats = [Row(r.order, r.arrived, r.place, r.prompt, r.label.title(), None, "conversation") for r in made]
    assert {s["place"] for s in label_errors(chats, 300).details["suspects"]} == wrong
    free = [Row(r.order, r.arrived, r.place, r.prompt, r.prompt, None, "conversation") for r in made]
    assert label_errors(free, 300).verdict == "skipped"


def test_labels_that_texts_do_not_tell_are_not_doubted():
    rng = random.Random(3)
    made = [Row(i, i, f"a:{i}", " ".join(rng.choices(FILLER, k=6)), "", rng.choice("aaab"), "labelled")
            for i in range(200)]  # fmt: skip
    assert label_errors(made, 200).verdict == "skipped"


def test_twice_gives_the_same_bits():
    made, _ = rows(flips=5)
    texts, labels = [r.prompt for r in made], np.array([sorted(TOPICS).index(r.label) for r in made])
    assert (out_of_fold(texts, labels, 1) == out_of_fold(texts, labels, 1)).all()


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not at ../shared/data")
def test_most_flips_of_banking_are_among_the_top_twentieth():
    examples = [e for e in load([DATA / "cls_banking77/train.csv"]).examples if isinstance(e, Labelled)]
    names = sorted({str(e.label) for e in examples})
    labels = np.array([names.index(str(e.label)) for e in examples])
    rng = np.random.default_rng(7)
    which = rng.choice(len(labels), round(0.03 * len(labels)), replace=False)
    labels[which] = (labels[which] + rng.integers(1, len(names), len(which))) % len(names)
    probabilities = out_of_fold([e.messages[-1].content for e in examples], labels)
    ranked = ranking(probabilities, labels, [e.meta.where() for e in examples])
    top = set(ranked[: round(0.05 * len(labels))])
    assert sum(int(i) in top for i in which) / len(which) >= 0.95
