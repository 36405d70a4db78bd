"""Duplicates, contradictions and contamination in published data, against what is known about them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.second_look import recheck
from tunewright.core.records import Labelled
from tunewright.data.contamination.index import Index
from tunewright.data.contamination.known import known
from tunewright.data.contamination.ngrams import items_of
from tunewright.data.dedupe.best import FACTS, dropped
from tunewright.data.dedupe.clusters import InMemory, clusters, groups, numbered
from tunewright.data.dedupe.contradictions import contradictions, label_hash, said
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.sketch import row_text, sketch
from tunewright.data.dedupe.union import alone
from tunewright.data.keys import normalise, row_key
from tunewright.data.load import load

DATA = Path(__file__).parents[5] / "shared" / "data"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not at ../shared/data"),
]


def looked_at(examples):
    """The texts, the exact groups, the clusters, and the rows that go."""
    texts = [row_text(example) for example in examples]
    keys = np.frombuffer(b"".join(row_key(example) for example in examples), "<u8").reshape(-1, 2)
    exact = alone(len(texts))
    groups(numbered([keys]), exact)
    found = clusters(InMemory(sketch(texts)), texts.__getitem__, parents=exact.copy())
    facts = np.zeros(len(texts), FACTS)
    facts["words"] = [len(text.split()) for text in texts]
    facts["says"] = [label_hash(example) for example in examples]
    return texts, exact, found, dropped(found, facts, Comparer(texts.__getitem__), exact)


@pytest.fixture(scope="module")
def messy():
    examples = load([DATA / "messy_raw" / "messy.jsonl"]).examples
    truth = [json.loads(line) for line in (DATA / "messy_raw" / "truth.jsonl").read_bytes().splitlines()]
    lines = {t["id"]: t["line"] for t in truth if "id" in t}
    rows = {example.meta.line: row for row, example in enumerate(examples)}
    planted = {
        kind: [(rows[t["line"]], rows[lines[t["of"]]]) for t in truth if t["kind"] == kind]
        for kind in ("exact_dup", "near_dup", "contradictory_dup_prompt")
    }
    clean = {rows[t["line"]] for t in truth if t["kind"] == "clean" and t["line"] in rows}
    return examples, planted, clean


def test_all_duplicates_of_the_messy_file_go_and_nothing_else(messy):
    examples, planted, clean = messy
    _, _, found, lost = looked_at(examples)
    gone = set(lost["row"].tolist())
    assert [len(pairs) for pairs in planted.values()] == [59, 54, 26]
    for kind in ("exact_dup", "near_dup"):
        assert all(found.leaders[row] == found.leaders[of] for row, of in planted[kind])
        assert {row for row, _ in planted[kind]} | {of for _, of in planted[kind]} >= gone & set(
            np.ravel(planted[kind]).tolist()
        )
        assert all(len({row, of} & gone) == 1 for row, of in planted[kind])
    assert not gone & {row for pair in planted["contradictory_dup_prompt"] for row in pair[:1]}
    sources = {of for kind in ("exact_dup", "near_dup") for _, of in planted[kind]}
    assert len((gone & clean) - sources) <= 0.01 * len(clean)
    assert len(gone) == 59 + 54


def test_all_contradictions_of_the_messy_file_are_found_and_both_rows_stay(messy):
    examples, planted, _ = messy
    texts, _, _, lost = looked_at(examples)
    parts = [(np.arange(len(texts)), said(examples))]
    labelled = np.array([isinstance(example, Labelled) for example in examples])
    found = contradictions(parts, Comparer(texts.__getitem__), labelled)
    together = [set(one.rows) for one in found.found]
    assert all(any({row, of} <= rows for rows in together) for row, of in planted["contradictory_dup_prompt"])
    assert not found.on_purpose
    gone = set(lost["row"].tolist())
    assert all(row not in gone for row, _ in planted["contradictory_dup_prompt"])


def test_the_seven_banking_texts_of_both_files_are_found_and_every_other_hit_is_nearly_equal():
    train, test = (load([DATA / "cls_banking77" / f"{side}.csv"]).examples for side in ("train", "test"))
    texts = [row_text(example) for example in train]
    hits = Index.build("test", items_of(test)).hits(texts)
    judged = {normalise(example.messages[0].content) for example in test}
    both = {row for row, example in enumerate(train) if normalise(example.messages[0].content) in judged}
    assert len({normalise(train[row].messages[0].content) for row in both}) == 7
    assert both <= {hit.row for hit in hits}
    assert len(hits) <= 0.01 * len(train)
    bundled = {hit.row for hit in known().hits(texts) if hit.benchmark == "banking77-test"}
    assert both <= bundled and len(bundled) <= 0.01 * len(train)


def test_near_rows_of_train_and_test_are_found_by_looking_again():
    train, test = (load([DATA / "cls_banking77" / f"{side}.csv"]).examples for side in ("train", "test"))
    found = recheck(
        list(enumerate(map(row_text, test))),
        [(10_003 + i, row_text(example)) for i, example in enumerate(train)],
    )
    assert len({pair.second for pair in found}) >= 7 and all(pair.similarity >= 0.8 for pair in found)


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("reward_gsm8k_train/train.jsonl", 0.001),
        ("reward_countdown/dev_train_3num.jsonl", 0.0),
        ("sft_chat_tinker/conversations.jsonl", 0.0),
    ],
)
def test_few_rows_of_good_data_go(path, most):
    examples = load([DATA / path]).examples
    lost = looked_at(examples)[-1]
    assert len(lost) <= most * len(examples)


@pytest.mark.parametrize(
    "path", ["reward_gsm8k_train/train.jsonl", "domainqa_medquad/medquad_dev.jsonl", "messy_raw/messy.jsonl"]
)
def test_good_data_holds_no_item_of_a_bundled_test_set(path):
    assert known().hits([row_text(example) for example in load([DATA / path]).examples]) == []
