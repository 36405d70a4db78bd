"""Pairs with margins and rankings: what is read, and what is refused with its file and line."""

import json

import pytest

from tunewright.core.records import Message, Preference, Ranking
from tunewright.data.load import load

U, A = (lambda text, role=role: Message(role, text) for role in ("user", "assistant"))
ASK = {"role": "user", "content": "q"}
HI, NO = ({"role": "assistant", "content": text} for text in "ab")
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
GROUP = {"prompt": "q", "answers": ["a", "b", "c"]}


def read(tmp_path, *rows, name="rows.jsonl", **options):
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return load([path], **options)


def one(tmp_path, row, **options):
    loaded = read(tmp_path, row, **options)
    assert loaded.problems == []
    return loaded.examples[0]


def refused(tmp_path, good, row):
    """Reason and detail of ``row``, which stands in line 2, behind a good one."""
    loaded = read(tmp_path, good, row)
    assert len(loaded.examples) == 1
    [bad] = loaded.rejected
    assert str(bad).startswith(f"{tmp_path / 'rows.jsonl'}:2: rejected ({bad.reason}): {bad.detail}")
    return bad.reason, bad.detail


CHATS = {"chosen": [ASK, HI], "rejected": [ASK, NO]}
OPENAI = {"input": {"messages": [ASK]}, "preferred_output": [HI], "non_preferred_output": [NO]}
SHAREGPT = {"conversations": [ASK], "chosen": HI, "rejected": NO}


@pytest.mark.parametrize("row", [PAIR, CHATS, OPENAI, SHAREGPT])
@pytest.mark.parametrize(
    ("numbers", "margin"),
    [
        ({}, None),
        ({"margin": None}, None),
        ({"margin": 0}, 0.0),
        ({"margin": 1.25}, 1.25),
        ({"chosen_score": 8, "rejected_score": 5.5}, 2.5),
        ({"score_chosen": -1, "score_rejected": -4}, 3.0),
        ({"margin": 3, "chosen_score": 4, "rejected_score": 1}, 3.0),
        ({"chosen_score": None, "rejected_score": None}, None),
    ],
)
def test_margins_in_every_spelling_of_a_pair(tmp_path, row, numbers, margin):
    example = one(tmp_path, {**row, **numbers})
    assert example == Preference((U("q"),), (A("a"),), (A("b"),), example.meta, (), margin)
    assert type(example.margin) is (type(None) if margin is None else float)


@pytest.mark.parametrize(
    ("numbers", "reason", "words"),
    [
        ({"margin": -0.5}, "bad_margin", "margin is -0.5, below 0"),
        ({"margin": "wide"}, "wrong_type", "margin is 'wide', not a finite number"),
        ({"margin": True}, "wrong_type", "margin is true/false"),
        ({"margin": [1]}, "wrong_type", "margin is a list"),
        ({"margin": "inf"}, "wrong_type", "margin is 'inf'"),
        ({"chosen_score": 1, "rejected_score": 2}, "bad_margin", "chosen_score 1 is below rejected_sc"),
        ({"score_chosen": 2, "score_rejected": 2}, "bad_margin", "score_chosen 2 is equal to score_rej"),
        ({"chosen_score": 1}, "bad_margin", "chosen_score is given without rejected_score"),
        ({"rejected_score": 0}, "bad_margin", "rejected_score is given without chosen_score"),
        ({"chosen_score": "x", "rejected_score": 0}, "wrong_type", "chosen_score is 'x'"),
        ({"chosen_score": 1e308, "rejected_score": -1e308}, "wrong_type", "rejected_score is 'inf'"),
        ({"margin": 2, "chosen_score": 4, "rejected_score": 1}, "bad_margin", "is 2, but chosen_score -"),
    ],
)  # fmt: skip
def test_wrong_margins_say_why(tmp_path, numbers, reason, words):
    code, detail = refused(tmp_path, PAIR, {**PAIR, **numbers})
    assert (code, words in detail) == (reason, True), detail


def test_margins_of_a_table_and_by_mapping(tmp_path):
    loaded = read(tmp_path, "prompt,chosen,rejected,margin", "q,a,b,1.5", "q,a,b,", "q,a,b,?", name="a.csv")
    assert [e.margin for e in loaded.examples] == [1.5, None]
    assert [(p.line, p.reason) for p in loaded.rejected] == [(4, "wrong_type")]
    columns = {"prompt": "p", "chosen": "a.text", "rejected": "b.text"}
    row = {"p": "q", "a": {"text": "a", "s": 3}, "b": {"text": "b", "s": 1}, "m": 2}
    assert one(tmp_path, row, columns={**columns, "margin": "m"}).margin == 2.0
    scores = {"chosen_score": "a.s", "rejected_score": "b.s"}
    loaded = read(tmp_path, row, {**row, "a": {"text": "a"}}, columns={**columns, **scores})
    assert [e.margin for e in loaded.examples] == [2.0]
    assert [(p.line, p.reason) for p in loaded.rejected] == [(2, "missing_column")]


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({**PAIR, "rejected": "a"}, "equal_answers", "chosen and rejected are equal"),
        ({**PAIR, "rejected": " a\n"}, "equal_answers", "chosen and rejected are equal"),
        ({**PAIR, "chosen": [HI], "rejected": " a"}, "equal_answers", "are equal"),
        ({**PAIR, "chosen": ""}, "empty_answer", "chosen has no text"),
        ({**PAIR, "rejected": " \n"}, "empty_answer", "rejected has no text"),
        ({**PAIR, "rejected": None}, "wrong_type", "rejected is null"),
        ({**PAIR, "chosen": [{**HI, "content": " "}]}, "empty_answer", "turn 1"),
    ],
)
def test_pairs_without_a_difference_are_refused(tmp_path, row, reason, words):
    code, detail = refused(tmp_path, PAIR, row)
    assert (code, words in detail) == (reason, True), detail


def test_chats_that_differ_only_in_white_space_are_equal(tmp_path):
    row = {"chosen": [ASK, HI], "rejected": [ASK, {**HI, "content": "a "}]}
    assert refused(tmp_path, CHATS, row) == ("equal_answers", "chosen and rejected are equal")
    tail = [{**ASK, "content": "r"}, {**NO, "content": " b"}]
    late = {"chosen": [ASK, HI, tail[0], NO], "rejected": [ASK, HI, *tail]}
    assert refused(tmp_path, CHATS, late)[0] == "equal_answers"


def test_the_prompt_column_is_the_prompt_even_beside_messages(tmp_path):
    row = {"prompt": "q", "messages": [ASK, HI], "chosen": [ASK, HI], "rejected": [ASK, NO]}
    loaded = read(tmp_path, row)
    assert (loaded.examples[0].prompt, loaded.examples[0].chosen) == ((U("q"),), (A("a"),))
    assert loaded.files[0].ignored_keys == {"messages": 1}


@pytest.mark.parametrize(
    ("row", "scores"),
    [
        ({**GROUP, "scores": [1, 0.5, -2]}, (1.0, 0.5, -2.0)),
        ({**GROUP, "scores": ["1", "2.5", "2.5"]}, (1.0, 2.5, 2.5)),
        ({**GROUP, "ranks": [1, 3, 2]}, (-1.0, -3.0, -2.0)),
        ({**GROUP, "ranking": [1, 1.5, 2]}, (-1.0, -1.5, -2.0)),
        ({"question": "q", "responses": ["a", "b", "c"], "scores": [3, 2, 1]}, (3.0, 2.0, 1.0)),
        ({"messages": [ASK], "completions": [[HI], NO, "c"], "scores": [3, 2, 1]}, (3.0, 2.0, 1.0)),
        ({"conversations": [ASK], "answers": [[ASK, HI], "b", "c"], "scores": [3, 2, 1]}, (3.0, 2.0, 1.0)),
        ({"instruction": "q", "input": "", "answers": ["a", "b", "c"], "scores": [3, 2, 1]}, (3.0, 2.0, 1.0)),
    ],
)  # fmt: skip
def test_rankings(tmp_path, row, scores):
    example = one(tmp_path, row)
    assert example == Ranking((U("q"),), ((A("a"),), (A("b"),), (A("c"),)), scores, example.meta)
    assert all(type(score) is float for score in example.scores)


def test_tools_system_and_mapping_of_a_ranking(tmp_path):
    row = {"prompt": "q", "system": "s", "answers": ["a", "b"], "scores": [1, 2], "tools": [{"name": "f"}]}
    example = one(tmp_path, row)
    assert example.prompt == (Message("system", "s"), U("q"))
    assert example.tools == ({"name": "f"},)
    columns = {"prompt": "x.q", "answers": "x.out", "ranks": "r"}
    mapped = one(tmp_path, {"x": {"q": "q", "out": ["a", "b"]}, "r": [2, 1]}, columns=columns)
    assert mapped.scores == (-2.0, -1.0)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"answers": ["a"], "scores": [1]}, "few_answers", "answers has 1 answers"),
        ({"answers": [], "scores": []}, "few_answers", "answers has 0 answers"),
        ({"answers": "a"}, "wrong_type", "answers is text, not a list of answers"),
        ({"scores": [1, 2]}, "bad_scores", "2 scores for 3 answers"),
        ({"scores": [1, 2, 3, 4]}, "bad_scores", "4 scores for 3 answers"),
        ({"scores": 3}, "wrong_type", "scores is a number, not a list"),
        ({"scores": [1, None, 2]}, "wrong_type", "number 2 of scores is null, not a finite number"),
        ({"scores": [1, 2, "nan"]}, "wrong_type", "number 3 of scores is 'nan', not a finite number"),
        ({"scores": [1, True, 2]}, "wrong_type", "number 2 of scores is true/false"),
        ({"scores": [2, 2.0, 2]}, "bad_scores", "all scores are 2"),
        ({"scores": None}, "bad_scores", "neither scores nor ranks"),
        ({"ranks": [1, 2, 3]}, "bad_scores", "scores and ranks; give one list"),
        ({"scores": None, "ranks": [0, 1, 2]}, "bad_scores", "ranks has 0, but 1 is the best rank"),
        ({"answers": ["a", "b", " a "]}, "equal_answers", "answers 1 and 3 are equal"),
        ({"answers": ["a", "b", [HI]]}, "equal_answers", "answers 1 and 3 are equal"),
        ({"answers": ["a", " ", "c"]}, "empty_answer", "answer 2: answers[] has no text"),
        ({"answers": ["a", "b", None]}, "wrong_type", "answer 3: answers[] is null"),
        ({"answers": ["a", "b", [ASK]]}, "no_answer", "answer 3: answers[] does not begin with an assistant"),
        ({"prompt": [ASK, HI]}, "prompt_answered", "answer 1: the prompt ends in an assistant turn"),
        ({"prompt": ""}, "empty_turn", "prompt has no text"),
    ],
)  # fmt: skip
def test_wrong_rankings_say_why(tmp_path, change, reason, words):
    good = {**GROUP, "scores": [1, 2, 3]}
    code, detail = refused(tmp_path, good, {**good, **change})
    assert (code, words in detail) == (reason, True), detail


def test_kto_and_pairs_are_found_as_before(tmp_path):
    found = [
        ({"prompt": "q", "completion": "a", "label": True}, "kto"),
        ({**PAIR, "scores": [1, 2]}, "preference"),
        ({"messages": [ASK, HI], "scores": [1]}, "messages"),
        ({"prompt": "q", "completion": "a", "responses": ["a"]}, "prompt_completion"),
        ({"messages": [ASK], "chosen": [ASK, HI], "rejected": [ASK, NO]}, "preference_chats"),
    ]
    for row, name in found:
        assert read(tmp_path, row).files[0].format == name
