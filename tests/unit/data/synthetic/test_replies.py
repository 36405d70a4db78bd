"""Replies are read strictly, and a reply of another form says why."""

import json

import pytest

from tunewright.data.synthetic.replies import Malformed, near_miss_of, negative_of, pairs_of, paraphrases_of

PAIR = {"question": "Q?", "answer": " A. "}
GOOD = json.dumps({"pairs": [PAIR, PAIR]})


@pytest.mark.parametrize(
    "reply",
    [GOOD, f"\n{GOOD}  ", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```", f"<think>hm {{}}\n</think>\n{GOOD}"],
)
def test_good_replies(reply):
    assert pairs_of(reply, 3) == [("Q?", "A.")] * 2


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "it is empty"),
        ("Here you are: " + GOOD, "it is no JSON"),
        (GOOD + " Enjoy!", "it is no JSON"),
        (GOOD[:-1], "it is no JSON"),
        ("[]", "no object with a list 'pairs'"),
        ("{}", "no object with a list 'pairs'"),
        (json.dumps({"pairs": PAIR}), "no object with a list 'pairs'"),
        (json.dumps({"pairs": [PAIR], "note": 1}), "no object with a list 'pairs'"),
        (json.dumps({"pairs": []}), "it has 0 pairs, from 1 to 3"),
        (json.dumps({"pairs": [PAIR] * 4}), "it has 4 pairs, from 1 to 3"),
        (json.dumps({"pairs": ["Q"]}), "no object with question and answer"),
        (json.dumps({"pairs": [{**PAIR, "why": "x"}]}), "no object with question and answer"),
        (json.dumps({"pairs": [{"question": "Q?", "answer": 3}]}), "answer is no text, or empty"),
        (json.dumps({"pairs": [{"question": " ", "answer": "a"}]}), "question is no text, or empty"),
        ("[" * 5000, "it is no JSON"),
        ('{"pairs": NaN}', "it is no JSON"),
    ],
)
def test_malformed_replies(reply, why):
    with pytest.raises(Malformed) as caught:
        pairs_of(reply, 3)
    assert why in str(caught.value)


def test_the_other_forms():
    assert paraphrases_of('{"paraphrases": ["a", "b"]}', 2) == ["a", "b"]
    assert negative_of('{"answer": "a", "flaw": "f"}') == "a"
    assert near_miss_of('{"text": "t"}') == "t"
    for read, reply in (
        (negative_of, '{"answer": "a"}'),
        (near_miss_of, '{"text": ["t"]}'),
        (near_miss_of, '"t"'),
    ):
        with pytest.raises(Malformed):
            read(reply)
