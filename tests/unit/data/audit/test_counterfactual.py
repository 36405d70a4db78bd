"""Swaps are grammatical where the rule can know it and keep case; pairs that disagree are found."""

import os
from pathlib import Path

import pytest

from tunewright.core.records import Conversation, Labelled, Message, Meta, Preference, Prompt, Ranking, Text
from tunewright.data.audit.counterfactual import (
    counterfactual_pairs,
    pairs,
    swapped,
    swapped_example,
    winobias_share,
)
from tunewright.data.audit.sample import Row
from tunewright.data.audit.words_swaps import NAMES, NOUNS

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[5] / "shared" / "data")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("He gave her his book.", "She gave him her book."),
        ("I saw her.", "I saw him."),
        ("I saw her yesterday and her dog barked", "I saw him yesterday and his dog barked"),
        ("The book is his.", "The book is hers."),
        ("a friend of hers", "a friend of his"),
        ("She hurt herself, HE DID NOT", "He hurt himself, SHE DID NOT"),
        ("Mr Smith and his wife Mary", "Ms Smith and her husband John"),
        ("Her own account", "His own account"),
        ("I asked her questions", "I asked him questions"),
        ("let her go; let her enter", "let him go; let him enter"),
        ("She quickly told her the friendly truth", "He quickly told him the friendly truth"),
        ("her friendly neighbour", "his friendly neighbour"),
        ("The gentlemen and the ladies", "The ladies and the gentlemen"),
    ],
)
def test_swaps(one, other):
    assert swapped(one) == other


@pytest.mark.parametrize(
    "text", ["Will Grace be there?", "the theory of others", "it is theirs", "Chers amis", "man-made"]
)
def test_what_has_no_counterpart_stays(text):
    assert swapped(text) == text


def test_a_swap_of_the_swap_is_the_text_where_no_word_has_two_counterparts():
    for word in [*NOUNS, *NOUNS.values(), *NAMES, *NAMES.values(), "He", "SHE"]:
        assert swapped(swapped(f"say {word} now")) == f"say {word} now"
    assert len({*NAMES, *NAMES.values()}) == 2 * len(NAMES)
    assert len({*NOUNS, *NOUNS.values()}) == 2 * len(NOUNS)


def turn(text, role="user"):
    return (Message(role, text),)


def test_every_kind_of_row_has_a_counterpart_with_all_its_texts():
    meta = Meta("a", 1)
    both = turn("he") + turn("to him", "assistant")
    swap = turn("she") + turn("to her", "assistant")
    assert swapped_example(Conversation(both, meta)) == Conversation(swap, meta)
    assert swapped_example(Labelled(turn("he"), "x", meta)) == Labelled(turn("she"), "x", meta)
    assert swapped_example(Prompt(turn("he"), {"he": 1}, meta)) == Prompt(turn("she"), {"he": 1}, meta)
    assert swapped_example(Text("he", meta)) == Text("she", meta)
    pair = Preference(turn("q"), turn("he"), turn("a man"), meta)
    assert swapped_example(pair) == Preference(turn("q"), turn("she"), turn("a woman"), meta)
    ranking = Ranking(turn("he"), (turn("x"), turn("she")), (2, 1), meta)
    assert swapped_example(ranking) == Ranking(turn("she"), (turn("x"), turn("he")), (2, 1), meta)
    assert swapped_example(Text("nothing", meta)) is None
    assert len(list(pairs([Text("he"), Text("it"), Text("she")]))) == 2


def test_a_pair_with_two_labels_is_a_finding_and_one_with_one_is_not():
    def labelled(i, text, label):
        return Row(i, i, f"a:{i}", text, "", label, "labelled")

    common = [labelled(i, f"text {i}", "ab"[i % 2]) for i in range(20)]
    against = [labelled(90, "He wants a loan", "a"), labelled(91, "she wants a LOAN", "b")]
    part = counterfactual_pairs([*common, *against], 22)
    assert part.verdict == "look" and part.details["against"] == [["a:90", "a:91"]]
    assert "a:90 and a:91" in part.lines[0]
    agree = [labelled(90, "He wants a loan", "a"), labelled(91, "she wants a loan", "a")]
    part = counterfactual_pairs([*common, *agree], 22)
    assert (part.verdict, part.details["pairs"], part.details["against"]) == ("fine", 1, [])
    assert counterfactual_pairs(common, 20).verdict == "skipped"


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not at ../shared/data")
def test_most_sentences_of_winobias_become_their_partner():
    folder = DATA / "bias_winobias"
    found = [
        winobias_share(
            folder / f"{a}_stereotyped_{kind}.txt.{side}", folder / f"{b}_stereotyped_{kind}.txt.{side}"
        )
        for kind in ("type1", "type2")
        for side in ("dev", "test")
        for a, b in (("pro", "anti"), ("anti", "pro"))
    ]
    assert sum(n for _, n in found) == 3168
    assert sum(hits for hits, _ in found) / 3168 >= 0.97
