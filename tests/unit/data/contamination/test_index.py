"""The index of benchmarks: which rows hold which item, and what counts as held."""

import json

import numpy as np
import pytest

from tunewright.core.errors import DataError
from tunewright.core.records import Conversation, Labelled, Message, Text
from tunewright.data.contamination.index import Index, Match
from tunewright.data.contamination.known import FOLDER, known, known_table
from tunewright.data.contamination.ngrams import items_of
from tunewright.data.dedupe.sketch import ANSWER, TURN, row_text

LONG = "A train leaves the old station at noon and reaches the coast when the sun goes down there"
SHORT = "Who painted the ceiling?"
ITEMS = [(0, LONG), (1, SHORT), (2, "Why?"), (3, "")]


def chat(question, answer="Nobody knows."):
    return f"user: {question}{ANSWER}assistant: {answer}"


def hits(*texts, items=ITEMS, **settings):
    return Index.build("quiz", items).hits(texts, **settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG, [(0, 1.0)]),
        (chat(LONG.upper() + "!"), [(0, 1.0)]),
        (chat(f"Here is a riddle for you. {LONG} When is that?"), [(0, 1.0)]),
        (chat("Tell me a story.", f"Well: {LONG}"), [(0, 1.0)]),
        (chat(LONG.replace("goes down there", "rises")), [(0, 8 / 11)]),
        (chat(LONG.replace("old station", "new harbour")), []),
        (chat(LONG[:60]), []),
        (chat(SHORT), [(1, 1.0)]),
        (chat("Answer in one word.\nwho painted the ceiling\n"), [(1, 1.0)]),
        (f"system: x{TURN}user: {SHORT}{ANSWER}assistant: y", [(1, 1.0)]),
        (chat("And who painted the ceiling?"), []),
        (chat("Why?"), []),
        (chat(""), []),
        ("", []),
        (chat(f"{SHORT}\n{LONG}"), [(0, 1.0), (1, 1.0)]),
    ],
)
def test_what_holds_an_item(text, expected):
    found = hits(text)
    assert [(m.item, m.coverage) for m in found] == [(i, pytest.approx(c)) for i, c in expected]


def test_an_ngram_does_not_reach_over_two_turns_or_rows():
    half = LONG.split()
    first, second = " ".join(half[:9]), " ".join(half[9:])
    assert hits(chat(first, second), first, second, covered=0.5) == []


def test_the_row_of_each_match_is_named_in_order():
    found = hits("nothing", chat(SHORT), chat("no"), chat(LONG), chat(SHORT))
    assert found == [Match(1, "quiz", 1, 1.0), Match(3, "quiz", 0, 1.0), Match(4, "quiz", 1, 1.0)]


def test_the_share_that_counts_can_be_set():
    text = LONG.replace("goes down there", "rises")
    assert hits(text, covered=0.8) == [] and len(hits(text, covered=0.7)) == 1


def test_items_of_several_texts_and_equal_items():
    items = [(7, LONG), (7, SHORT), (8, SHORT)]
    found = hits(chat(f"{SHORT}\n{LONG}"), items=items)
    assert [(m.item, m.coverage) for m in found] == [(7, 1.0), (8, 1.0)]


def test_the_template_of_a_benchmark_is_not_its_content():
    template = (
        "Read the passage below carefully and then answer the question that follows with one of the words: "
    )
    items = [(n, f"{template} word{n} other{n} third{n}") for n in range(40)]
    assert hits(f"{template} something else here", items=items) == []
    assert [m.item for m in hits(items[5][1], items=items)] == [5]


def test_items_made_of_nothing_but_a_template_are_looked_up_as_a_whole():
    items = [(n, LONG) for n in range(30)]
    assert len(hits(chat(LONG), items=items)) == 30
    assert hits(chat(LONG + " again"), items=items) == []


def test_at_most_so_many_hashes_of_an_item_are_kept():
    index = Index.build("quiz", [(0, LONG), (1, SHORT)], most=4)
    assert index.sizes.tolist() == [4, 1] and len(index.hashes) == 5
    assert [m.item for m in index.hits([chat(LONG), chat(SHORT)])] == [0, 1]


def test_several_benchmarks_in_one_index():
    one, other = Index.build("a", [(0, LONG), (5, SHORT)]), Index.build("b", [(9, SHORT)])
    both = Index.merged([one, other, Index.build("empty", [])])
    assert both.names == ("a", "b", "empty")
    assert both.hits([chat(SHORT), LONG]) == [
        Match(0, "a", 5, 1.0),
        Match(0, "b", 9, 1.0),
        Match(1, "a", 0, 1.0),
    ]
    assert Index.merged([]).hits([LONG]) == []
    assert Index.merged([Index.build("empty", [])]).hits([LONG]) == []


def test_a_saved_index_is_the_same_and_holds_no_text(tmp_path):
    index = Index.merged([Index.build("a", ITEMS), Index.build("b", [(700, SHORT)])])
    index.save(tmp_path / "x.hashes")
    read = Index.load(tmp_path / "x.hashes")
    texts = [chat(LONG), chat(SHORT), "other"]
    assert read.hits(texts) == index.hits(texts) != []
    assert b"ceiling" not in (tmp_path / "x.hashes").read_bytes()
    index.save(tmp_path / "again.hashes")
    assert (tmp_path / "again.hashes").read_bytes() == (tmp_path / "x.hashes").read_bytes()


def _head(data, **changes):
    line, _, rest = data.partition(b"\n")
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n" + rest


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"\x80\x04N.",
        lambda data: b"[1]\n" + data,
        lambda data: _head(data, format="other"),
        lambda data: _head(data, arrays=[["|O", 3]] * 5),
        lambda data: _head(data, arrays=[["<u8", -1]] * 5),
        lambda data: _head(data, arrays=[["nonsense", 1]] * 5),
        lambda data: _head(data, arrays=[["<u8", 10**18]] * 5),
        lambda data: _head(data, names=[]),
        lambda data: data.partition(b"\n")[0] + b"\n" + data.partition(b"\n")[2][::-1],
    ],
)
def test_a_damaged_index_is_refused(tmp_path, damage):
    path = tmp_path / "x.hashes"
    Index.build("quiz", ITEMS).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.hashes: .*build it again"):
        Index.load(path)


def test_the_items_of_a_file_are_its_questions_and_documents():
    user, bot = Message("user", "Q1"), Message("assistant", "A1")
    examples = [
        Conversation((Message("system", "S"), user, bot, Message("user", "Q2"), bot)),
        Labelled((user,), "x"),
        Text("document"),
    ]
    assert items_of(examples) == [(0, "Q1"), (0, "Q2"), (1, "Q1"), (2, "document")]
    assert [row_text(e) for e in examples][2] == "document"


def test_the_bundled_test_sets_have_a_source_a_licence_and_their_size():
    table = known_table()
    assert {entry["name"] for entry in table} == set(known().names) and len(table) >= 5
    for entry in table:
        assert entry["source"].startswith("https://") and entry["licence"] and len(entry["sha256"]) == 64
        assert 0 < entry["indexed"] <= entry["items"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 400_000


def test_a_question_of_a_bundled_test_set_is_found():
    question = "What happens to you if you eat watermelon seeds?"
    [match] = known().hits([chat(question)])
    assert match == Match(0, "truthfulqa", 0, 1.0)
    prompt = "Compose an engaging travel blog post about a recent trip to Hawaii, highlighting cultural"
    prompt += " experiences and must-see attractions."
    assert known().hits([chat(prompt)]) == [Match(0, "mt_bench", 0, 1.0)]
    assert known().hits([chat("What happens to the seeds of an apple in autumn?")]) == []


def test_the_same_index_in_any_order_of_hits():
    index = Index.build("quiz", ITEMS)
    texts = [chat(LONG), "x", chat(SHORT)] * 10
    one_by_one = [m._replace(row=i) for i, text in enumerate(texts) for m in index.hits([text])]
    assert index.hits(texts) == one_by_one
    assert np.all(index.hashes[1:] >= index.hashes[:-1])
