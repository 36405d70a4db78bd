"""The guarantees of the split, as properties over random data."""

from collections import Counter
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import (
    Conversation,
    Labelled,
    Message,
    Meta,
    Preference,
    Prompt,
    Ranking,
    Text,
)
from tunewright.data.split import SIDES, Split, groups_of, leaks, split


def chat(prompt, answer, line=0, group=None, system=None):
    start = (Message("system", system),) if system else ()
    messages = (*start, Message("user", prompt), Message("assistant", answer))
    return Conversation(messages, Meta("a.jsonl", line, None, group))


def labelled(text, label, line=0, group=None):
    return Labelled((Message("user", text),), label, Meta("a.jsonl", line, None, group))


def sides_of(result):
    return {example.meta.line: side for side in SIDES for example in getattr(result, side)}


ROWS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.none() | st.integers(0, 12), st.booleans()),
    min_size=8,
)


def build(rows):
    """Rows with repeated prompts (in changing case), answers and groups."""
    return [
        chat(f"Prompt  {p}" if upper else f"prompt {p}", f"answer {a}", line, None if g is None else f"g{g}")
        for line, (p, a, g, upper) in enumerate(rows)
    ]


def cut(examples, seed=0, validation=0.2, test=0.2):
    try:
        return split(examples, validation=validation, test=test, seed=seed)
    except DataError:
        return None


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(0, 5))
def test_every_row_is_on_one_side_in_order_and_no_group_crosses(rows, seed):
    examples = build(rows)
    result = cut(examples, seed)
    if result is None:
        assert len(set(groups_of(examples))) < 3
        return
    lines = [example.meta.line for side in SIDES for example in getattr(result, side)]
    assert sorted(lines) == list(range(len(rows)))
    for side in SIDES:
        assert [e.meta.line for e in getattr(result, side)] == sorted(
            e.meta.line for e in getattr(result, side)
        )
    assert leaks(result) == []
    sides = sides_of(result)
    for same in (lambda e: e.meta.group or e.meta.line, lambda e: e.messages[0].content.lower().split()[1]):
        for key in {same(e) for e in examples}:
            assert len({sides[e.meta.line] for e in examples if same(e) == key}) == 1


@settings(deadline=None, max_examples=60)
@given(ROWS, ROWS, st.integers(0, 5))
def test_appended_rows_move_nothing_unless_they_join_groups(rows, more, seed):
    old = build(rows)
    everything = build(rows + more)
    before, after = cut(old, seed), cut(everything, seed)
    if before is None or after is None or before.notes or after.notes:
        return
    leaders = groups_of(old)
    joined = dict(zip(leaders, groups_of(everything)[: len(old)], strict=True))
    moved = {line for line, side in sides_of(before).items() if sides_of(after)[line] != side}
    assert all(joined[leaders[line]] != leaders[line] for line in moved)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**9), st.integers(1, 400))
def test_appended_labelled_rows_move_nothing(seed, size):
    examples = [labelled(f"text {i}", f"class {i % 7}", i) for i in range(size + 100)]
    before, after = (split(rows, validation=0.2, test=0.2, seed=seed) for rows in (examples[:100], examples))
    assert not before.notes
    assert sides_of(before).items() <= sides_of(after).items()


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_within_binomial_bounds_in_total_and_per_class(seed):
    examples = [labelled(f"text {i}", f"class {i % 10}", i) for i in range(20_000)]
    result = split(examples, validation=0.1, test=0.2, seed=seed)
    for side, share in (("validation", 0.1), ("test", 0.2)):
        counts = Counter(e.label for e in getattr(result, side))
        assert abs(sum(counts.values()) - 20_000 * share) < 4.5 * sqrt(20_000 * share * (1 - share))
        for n in counts.values():
            assert abs(n - 2_000 * share) < 4.5 * sqrt(2_000 * share * (1 - share))


@pytest.mark.parametrize("seed", range(10))
def test_every_class_of_banking_like_data_has_its_shares(seed):
    examples = [labelled(f"text {i}", f"class {i % 20}", i) for i in range(1000)]
    result = split(examples, validation=0.1, test=0.1, seed=seed)
    for side in (result.validation, result.test):
        counts = Counter(e.label for e in side)
        assert len(counts) == 20 and min(counts.values()) >= 4 and max(counts.values()) <= 6


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**9), st.floats(0, 0.45), st.floats(0, 0.45), st.booleans())
def test_a_class_is_less_than_one_group_from_its_shares_at_any_length(seed, validation, test, chats):
    if chats:
        examples = [chat(f"text {i}", "yes", i) for i in range(300)]
    else:
        examples = [labelled(f"text {i}", "yes", i) for i in range(300)]
    result = split(examples, validation=validation, test=test, seed=seed)
    if result.notes:
        return
    sides = sides_of(result)
    given, shares = Counter(), {"validation": validation, "test": test, "train": 1 - validation - test}
    for line in range(300):
        given[sides[line]] += 1
        for side, share in shares.items():
            assert abs(given[side] - (line + 1) * share) < 1 + 1e-9
    assert chats or sides[0] == "train"


def test_answers_that_repeat_are_dealt_out_like_labels():
    examples = [chat(f"text {i}", ("yes", "no", "Maybe")[i % 3], i) for i in range(150)]
    for seed in range(10):
        result = split(examples, validation=0.1, test=0.1, seed=seed)
        for side in (result.validation, result.test):
            counts = Counter(e.messages[-1].content for e in side)
            assert len(counts) == 3 and {*counts.values()} <= {4, 5, 6}


def test_rows_with_several_labels_reach_every_side_and_each_label_is_trained():
    examples = [labelled(f"text {i}", (f"a{i}", f"b{i % 9}"), i) for i in range(9)]
    examples += [labelled(f"text {i}", (f"a{i % 9}", f"b{i % 7}"), i) for i in range(9, 200)]
    result = split(examples, validation=0.1, test=0.1, seed=0)
    assert 15 <= len(result.validation) <= 20 and 15 <= len(result.test) <= 20
    assert {x for e in result.train for x in e.label} == {x for e in examples for x in e.label}


def test_seed_decides_and_repeats():
    examples = [chat(f"p{i}", "a", i) for i in range(300)]
    first, again, other = (
        split(examples, validation=0.2, test=0.2, seed=s, stratify=False) for s in (0, 0, 1)
    )
    assert first == again
    assert sides_of(first) != sides_of(other)


def test_order_of_rows_does_not_matter_for_rows_of_one_key():
    examples = [chat(f"p{i}", "a", i) for i in range(300)]
    first, second = (
        split(x, validation=0.2, test=0.2, seed=0, stratify=False) for x in (examples, examples[::-1])
    )
    assert sides_of(first) == sides_of(second)


def test_every_class_is_in_train_only_if_stratified():
    examples = [labelled(f"text {i}", f"class {i // 2}", i) for i in range(400)]
    result = split(examples, validation=0.3, test=0.3, seed=0)
    assert {e.label for e in result.train} == {e.label for e in examples}
    plain = split(examples, validation=0.3, test=0.3, seed=0, stratify=False)
    assert {e.label for e in plain.train} != {e.label for e in examples}


def test_numbers_on_a_scale_are_not_classes():
    examples = [labelled(f"text {i}", i / 7, i) for i in range(200)]
    options = {"validation": 0.3, "test": 0.3, "seed": 0}
    assert split(examples, **options) == split(examples, stratify=False, **options)


def test_text_that_is_a_number_on_a_scale_is_no_class_either():
    for spelled in ("{:.6f}", "{:.3e}", "-{:.4f}", " {:.5f} "):
        examples = [labelled(f"text {i}", spelled.format(i / 7), i) for i in range(200)]
        options = {"validation": 0.3, "test": 0.3, "seed": 0}
        assert split(examples, **options) == split(examples, stratify=False, **options)


@pytest.mark.parametrize("label", [int, str])
def test_quantities_that_never_repeat_do_not_all_go_to_train(label):
    examples = [labelled(f"text {i}", label(1000 + 7 * i), i) for i in range(1000)]
    result = split(examples, validation=0.1, test=0.1, seed=0)
    assert {e.meta.line for e in result.train} >= set(range(20))
    assert 70 <= len(result.validation) <= 130 and 70 <= len(result.test) <= 130
    longer = [*examples, *(labelled(f"new {i}", label(i), 1000 + i) for i in range(200))]
    assert sides_of(result).items() <= sides_of(split(longer, validation=0.1, test=0.1, seed=0)).items()
    names = [labelled(f"text {i}", f"class {i}", i) for i in range(1000)]
    assert len(split(names, validation=0.1, test=0.1, seed=0).train) == 998


@pytest.mark.parametrize("label", [int, str])
def test_whole_numbers_are_dealt_out_as_classes(label):
    examples = [labelled(f"text {i}", label(i % 5), i) for i in range(500)]
    result = split(examples, validation=0.1, test=0.1, seed=0)
    for side in (result.validation, result.test):
        counts = Counter(e.label for e in side)
        assert len(counts) == 5 and {*counts.values()} <= {9, 10, 11}


def ranked(prompt, *answers, scores=(1.0, 0.0), line=0):
    return Ranking(turns(prompt), tuple((Message("assistant", a),) for a in answers), scores, Meta("a", line))


def test_rankings_and_prompts_are_divided_by_hash_and_by_their_prompt():
    groups = [
        ranked("q", "a", "b"),
        ranked("Q ", "c", "d"),
        ranked("r", "a", "b"),
        Prompt(turns("q"), {"x": 1}),
    ]
    assert groups_of(groups) == [0, 0, 2, 0]
    same = [
        Prompt(turns("q"), {"x": 1}),
        Prompt(turns("q"), {"x": 2}),
        Prompt(turns("s", "a", "q"), {"x": 1}),
    ]
    assert groups_of(same) == [0, 0, 2]
    for make in (
        lambda i: ranked(f"q{i // 2}", "a", f"b{i}", line=i),
        lambda i: Prompt(turns(f"q{i // 2}"), {"target": i}, Meta("a", i)),
    ):
        examples = [make(i) for i in range(400)]
        result = split(examples, validation=0.2, test=0.2, seed=3)
        assert leaks(result) == []
        assert 50 <= len(result.validation) <= 110 and 50 <= len(result.test) <= 110
        assert result == split(examples, validation=0.2, test=0.2, seed=3, stratify=False)
        sides = sides_of(result)
        assert all(sides[i] == sides[i + 1] for i in range(0, 400, 2))


def turns(*texts):
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


def test_what_joins_rows():
    long = Conversation(turns("q1", "a1", "q2", "a2"))
    assert groups_of([chat("Q1  ", "x"), chat("q1", "y"), chat("other", "x")]) == [0, 0, 2]
    assert groups_of([long, chat("q1", "x")]) == [0, 0]
    assert groups_of([long, Conversation(turns("q1", "a1", "q3", "a"))]) == [0, 0]
    assert groups_of([long, Conversation(turns("q0", "a1", "q3", "a")), chat("q2", "a2")]) == [0, 1, 2]
    chain = [chat("a", "x", group="g"), chat("b", "x", group="g"), chat("b", "y"), chat("c", "y")]
    assert groups_of(chain) == [0, 0, 0, 3]
    assert groups_of([chat("q", "x", system="s"), chat("q", "x")]) == [0, 1]
    assert groups_of([Text("A b"), Text("a  B"), Text("c")]) == [0, 0, 2]
    pair = Preference(turns("q"), turns("", "a")[1:], turns("", "b")[1:])
    liked = Labelled(turns("q", "z"), True)
    assert groups_of([pair, liked, chat("q", "a")]) == [0, 0, 0]


def test_leaks_finds_what_crosses():
    a, b, c = chat("q", "1", 1), chat("Q", "2", 2), chat("r", "3", 3, group="g")
    found = leaks(Split([a], [c], [b]))
    assert [(leak.kind, leak.first, leak.second, leak.sides) for leak in found] == [
        ("prompt", "a.jsonl:1", "a.jsonl:2", ("train", "test"))
    ]
    assert [leak.kind for leak in leaks(Split([c], [chat("s", "4", 4, group="g")], []))] == ["group"]


def test_an_empty_side_is_given_one_group_and_says_so():
    examples = [chat(f"p{i}", f"a{i}", i) for i in range(4)]
    results = [split(examples, validation=0.01, test=0.01, seed=s) for s in range(20)]
    assert all(len(r.validation) == len(r.test) == 1 and len(r.train) == 2 for r in results)
    assert results[0].notes == (
        "test came out empty at a share of 0.01; it was given one group",
        "validation came out empty at a share of 0.01; it was given one group",
    )
    assert split(examples, validation=0, test=0, seed=0).train == examples


def test_impossible_shares_and_too_few_groups():
    with pytest.raises(ConfigError, match="below 1"):
        split([], validation=0.5, test=0.5, seed=0)
    with pytest.raises(DataError, match="too few"):
        split([chat("q", str(i), i) for i in range(9)], validation=0.1, test=0.1, seed=0)
    with pytest.raises(DataError, match="too few"):
        split([chat("a", "x")], validation=0, test=0.999, seed=0)
    assert len(split([chat("a", "x"), chat("b", "x")], validation=0, test=0.999, seed=0).train) == 1
