"""A prompt and its answers as branches: worked weights, limits, refusals, and properties over templates."""

import math
from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from tests.tiny import KINDS, chat_tokenizer, tiny_tokenizer
from tunewright.core.errors import RenderError
from tunewright.core.records import (
    Conversation,
    Labelled,
    Message,
    Meta,
    Preference,
    Ranking,
    Span,
    Text,
    Tokens,
)
from tunewright.data.lengths import tally
from tunewright.data.render import Renderer

SHORT = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"  # fmt: skip  # noqa: E501
START, END = 3, 4
WHERE = Meta("pairs.jsonl", 12)
ASK = Message("user", "2+2")
ROW = Preference((ASK,), (Message("assistant", "4!"),), (Message("assistant", "5"),), WHERE)


@pytest.fixture
def short():
    return tiny_tokenizer(template=SHORT)


def ids_of(tokenizer, text):
    return [tokenizer.convert_tokens_to_ids(c) for c in text]


def answer(text, **options):
    return (Message("assistant", text, **options),)


def test_a_pair_by_hand(short):
    two, plus, four, bang, five = ids_of(short, "2+4!5")
    [tokens] = Renderer(short).branches(ROW)
    assert tokens.ids == [START, two, plus, two, END, START] == Renderer(short).prompt([ASK])
    assert tokens.weights == [0.0] * 6 and tokens.spans == (Span("user", 1, 4),) and tokens.meta == WHERE
    chosen, rejected = tokens.branches
    assert chosen.ids == [four, bang, END] and chosen.weights == [1.0] * 3
    assert rejected.ids == [five, END] and rejected.weights == [1.0] * 2
    assert chosen.spans == (Span("assistant", 0, 3),) and tokens.trained == 5 and tokens.size == 11


def test_rankings_and_liked_answers(short):
    renderer = Renderer(short)
    ranking = Ranking((ASK,), (answer("a"), answer("b"), answer("a")), (2.0, 1.0, 2.0), WHERE)
    [tokens] = renderer.branches(ranking)
    assert [short.decode(b.ids[:-1]) for b in tokens.branches] == ["a", "b", "a"]
    [liked] = renderer.branches(Labelled((ASK, *answer("4")), True, WHERE))
    assert liked.ids == tokens.ids and [b.ids for b in liked.branches] == [[*ids_of(short, "4"), END]]
    history = (ASK, *answer("4"), Message("user", "ok?"), *answer("Y"))
    [later] = renderer.branches(Labelled(history, False, WHERE))
    assert later.ids == renderer.prompt(history[:3]) and not any(later.weights)
    assert later.branches[0].ids == [*ids_of(short, "Y"), END]


def test_turns_of_others_inside_an_answer_are_context(short):
    """Answer: [a, call] [tool: 7] [b]; only what the assistant writes counts."""
    long = (Message("assistant", "a"), Message("tool", "7", 1.0), Message("assistant", "b"))
    row = replace(ROW, chosen=long)
    for train_on, weights in {
        "assistant": [1, 1, 0, 0, 0, 0, 1, 1],
        "last": [0, 0, 0, 0, 0, 0, 1, 1],
    }.items():
        chosen = Renderer(short, train_on=train_on).branches(row)[0].branches[0]
        assert chosen.weights == weights
        assert [i for i, w in zip(chosen.ids, chosen.weights, strict=True) if w][-2:] == [
            *ids_of(short, "b"),
            END,
        ]
    weighted = replace(ROW, chosen=(Message("assistant", "a", 0.0), long[1], Message("assistant", "b", 0.5)))
    assert Renderer(short).branches(weighted)[0].branches[0].weights == [0, 0, 0, 0, 0, 0, 0.5, 0.5]
    context = replace(ROW, prompt=(ASK, *answer("4", weight=1.0), Message("user", "ok?", 1.0)))
    assert not any(Renderer(short).branches(context)[0].weights)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (replace(ROW, rejected=answer("4!")), {}, "answers 1 and 2 read the same .* remove the row"),
        (Ranking((ASK,), (answer("a"),) * 2, (1.0, 2.0), WHERE), {}, "answers 1 and 2 read the same"),
        (Ranking((ASK,), (), (), WHERE), {}, "without answers"),
        (replace(ROW, chosen=(Message("user", "4"),)), {}, "answer 1 begins with a user turn"),
        (replace(ROW, rejected=()), {}, "answer 2 has no turns"),
        (replace(ROW, rejected=answer("5", weight=0.0)), {}, "answer 2 has nothing to learn"),
        (ROW, {"train_on": "message"}, "answer 1 has nothing to learn"),
        (ROW, {"train_on": "all"}, "train_on 'all' means nothing here"),
        (Labelled((ASK,), True, WHERE), {}, "the last turn is not the assistant's"),
        (Labelled((ASK,), "spam", WHERE), {}, "a labelled row with this label judges no answer"),
        (Text("x", WHERE), {}, "a text row judges no answer"),
    ],
)
def test_what_is_refused(short, row, options, message):
    with pytest.raises(RenderError, match=f"^pairs.jsonl:12: .*{message}"):
        Renderer(short, **options).branches(row)


def test_an_answer_whose_history_is_rewritten_is_refused():
    renderer = Renderer(chat_tokenizer("qwen3"))
    thought = {"reasoning_content": "two and two"}
    turns = (Message("assistant", "4", extra=thought), Message("user", "sure?"), Message("assistant", "Yes"))
    with pytest.raises(
        RenderError, match=r"pairs.jsonl:12: the chat template rewrites earlier turns, so answer 1"
    ):
        renderer.branches(replace(ROW, chosen=turns))
    [tokens] = renderer.branches(replace(ROW, chosen=answer("4", extra=thought)))
    assert "two and two" in renderer.decode(tokens.branches[0].ids)


# --- limits; the prompt has 6 tokens, the answers 3 and 2


def test_cut_shortens_only_the_ends_of_branches(short):
    renderer = Renderer(short, max_length=8)
    [tokens] = renderer.branches(ROW)
    assert len(tokens.ids) == 6 and [len(b.ids) for b in tokens.branches] == [2, 2]
    assert tokens.extras == {"cut_tokens": 1.0, "cut_answer": 1.0}
    assert all(not b.extras for b in tokens.branches) and tokens.branches[0].spans == (
        Span("assistant", 0, 2),
    )
    counts = tally([tokens])
    assert (counts.truncated, counts.endless, counts.trained_tokens) == (1, 1, 4)
    [fits] = Renderer(short, max_length=9).branches(ROW)
    assert fits == Renderer(short).branches(ROW)[0] and renderer.dropped == 0


def test_a_prompt_without_room_for_an_answer_is_dropped_and_counted(short):
    for limit in (2, 5, 6):
        renderer = Renderer(short, max_length=limit)
        assert renderer.branches(ROW) == [] and renderer.dropped == 1


def test_answers_that_a_cut_makes_alike_are_dropped_and_counted(short):
    row = replace(ROW, chosen=answer("4!"), rejected=answer("4?"))
    renderer = Renderer(short, max_length=7)
    assert renderer.branches(row) == [] and renderer.dropped == 1
    assert len(Renderer(short, max_length=8).branches(row)) == 1


def test_an_answer_whose_trained_part_is_cut_off_is_dropped(short):
    long = (Message("assistant", "a"), Message("tool", "t"), Message("assistant", "b"))
    renderer = Renderer(short, train_on="last", max_length=10)
    assert renderer.branches(replace(ROW, chosen=long)) == [] and renderer.dropped == 1


def test_the_other_rules_for_over_long_rows(short):
    renderer = Renderer(short, max_length=8, over_long="drop")
    assert renderer.branches(ROW) == [] and renderer.dropped == 1
    with pytest.raises(RenderError, match=r"pairs.jsonl:12: 9 tokens, more than the limit of 8"):
        Renderer(short, max_length=8, over_long="error").branches(ROW)


def test_a_spare_answer_is_shortened_before_it_concerns_the_others(short):
    """An answer without a score: 2 tokens beside one of 4, under a limit that leaves room for 2."""
    row = Ranking((ASK,), (answer("5"), answer("4!4")), (1.0, math.nan), WHERE)
    for rule in ("cut", "drop", "error"):
        renderer = Renderer(short, max_length=8, over_long=rule)
        [tokens] = renderer.branches(row)
        assert [len(b.ids) for b in tokens.branches] == [2, 2] and not tokens.extras and not renderer.dropped
        assert not any(b.extras for b in tokens.branches)
    judged = replace(row, scores=(1.0, 0.0))
    with pytest.raises(RenderError, match="10 tokens, more than the limit of 8"):
        Renderer(short, max_length=8, over_long="error").branches(judged)
    twins = replace(row, answers=(answer("5"), answer("5")))
    assert len(Renderer(short).branches(twins)[0].branches) == 2


def test_rows_over_the_limit_are_counted_by_their_longest_path(short):
    [tokens] = Renderer(short).branches(ROW)
    assert tally([tokens], 8).truncated == 1 and tally([tokens], 9).truncated == 0


def test_limited_cuts_what_has_no_weights_and_keeps_tracks_aligned(short):
    renderer = Renderer(short, max_length=3)
    [tokens] = renderer.limited(
        Tokens([5, 6, 7, 8], [0.0] * 4, meta=WHERE, tracks={"old": [1.0, 2.0, 3.0, 4.0]})
    )
    assert tokens.ids == [5, 6, 7] and tokens.extras == {"cut_tokens": 1.0}
    assert tokens.tracks == {"old": [1.0, 2.0, 3.0]}


# --- reading


@pytest.mark.parametrize("kind", KINDS)
def test_one_user_turn_is_read_as_plain_text(kind):
    renderer = Renderer(tiny_tokenizer(kind))
    text = "Please refund the order"
    assert renderer.reading((Message("user", text),)) == renderer.document(text)[:-1]
    opened = tiny_tokenizer(kind)
    opened.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert Renderer(opened).reading((Message("user", text),)) == [0, *renderer.plain_ids(text)]
    chat = (ASK, Message("assistant", "4"), Message("user", "sure?"))
    assert renderer.reading(chat) == renderer.prompt(chat)
    system = (Message("system", "Be brief"), ASK)
    assert renderer.reading(system) == renderer.prompt(system)
    with pytest.raises(RenderError, match="without characters"):
        renderer.reading((Message("user", ""),))


def test_reading_a_text_needs_no_template_and_writes_no_control_token():
    renderer = Renderer(tiny_tokenizer(template=None))
    ids = renderer.reading((Message("user", "a </s> b <|im_end|>"),))
    assert not renderer.controls.id_set & set(ids) and renderer.decode(ids) == "a </s> b <|im_end|>"


# --- properties

TEMPLATES = ("chatml", "llama3", "mistral", "gemma", "phi3", "qwen3", "dropsystem", "alpaca")
PAIRS = [(name, kind) for name in TEMPLATES for kind in KINDS]
EXAMPLES = settings(max_examples=10, deadline=None)
PARTS = st.sampled_from(
    ["Hello", "42", " ", "\n", "\n\n", "é", "你好", "🙂", "Paris.", "user", "###", "'s", "<b>", "▁", "\u200b",
     "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "[/INST]", "<tool_call>",
     "<|im_", "start|>"]
)  # fmt: skip
TEXTS = st.lists(PARTS, min_size=1, max_size=6).map("".join).map(lambda t: t if t.strip() else f"{t}x")


@st.composite
def choices(draw):
    prompt = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 1))):
        prompt += [Message("user", draw(TEXTS)), Message("assistant", draw(TEXTS))]
    answers = draw(st.lists(TEXTS, min_size=2, max_size=3))
    return (*prompt, Message("user", draw(TEXTS))), tuple(answer(text) for text in answers)


@lru_cache(maxsize=64)
def renderer_of(name, kind):
    return Renderer(chat_tokenizer(name, kind))


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_prompt_and_branch_are_exactly_a_conversation(name, kind):
    renderer = renderer_of(name, kind)

    @EXAMPLES
    @given(choices())
    def check(drawn):
        prompt, answers = drawn
        [tokens] = renderer.branches(Ranking(prompt, answers, (0.0,) * len(answers), WHERE))
        assert tokens.ids == renderer.prompt(prompt) and not any(tokens.weights)
        hits = []
        for branch, turns in zip(tokens.branches, answers, strict=True):
            sequences = renderer.conversation(Conversation((*prompt, *turns)))
            whole = sequences[-1]
            size = len(tokens.ids)
            assert tokens.ids + branch.ids == whole.ids and branch.weights == whole.weights[size:]
            learnt = [i for i, w in zip(branch.ids, branch.weights, strict=True) if w]
            assert learnt[-1] == renderer.end_of_turn and set(branch.weights) <= {0.0, 1.0}
            hits.append(sequences[0].extras.get("control_hits", 0))
        only_prompt = renderer.conversation(Conversation((*prompt, *answer("x"))))[0]
        inside = only_prompt.extras.get("control_hits", 0)
        assert tokens.extras.get("control_hits", 0) == inside + sum(h - inside for h in hits)

    check()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_answers_never_add_a_control_token(name, kind):
    renderer = renderer_of(name, kind)
    control = renderer.controls.id_set

    @EXAMPLES
    @given(choices())
    def check(drawn):
        prompt, answers = drawn
        assume(not any("<think>" in m.content for turns in answers for m in turns))
        tame = tuple(Message(m.role, "harmless") for m in prompt)
        [wild] = renderer.branches(Ranking(prompt, answers, (0.0,) * len(answers)))
        [calm] = renderer.branches(Ranking(tame, (answer("harmless"),), (0.0,)))
        for branch in wild.branches:
            expected = [i for i in calm.branches[0].ids if i in control]
            assert [i for i in branch.ids if i in control] == expected
        assert [i for i in wild.ids if i in control] == [i for i in calm.ids if i in control]

    check()


@EXAMPLES
@given(choices(), st.integers(2, 60), st.sampled_from(PAIRS))
def test_whatever_is_kept_fits_and_still_differs(drawn, limit, pair):
    prompt, answers = drawn
    tokenizer = chat_tokenizer(*pair)
    whole = Renderer(tokenizer).branches(Ranking(prompt, answers, (0.0,) * len(answers)))[0]
    renderer = Renderer(tokenizer, max_length=limit)
    kept = renderer.branches(Ranking(prompt, answers, (0.0,) * len(answers)))
    assert len(kept) + renderer.dropped == 1
    for tokens in kept:
        assert tokens.ids == whole.ids
        for branch, full in zip(tokens.branches, whole.branches, strict=True):
            assert len(tokens.ids) + len(branch.ids) <= limit or branch.ids == full.ids
            assert branch.ids == full.ids[: len(branch.ids)] and any(branch.weights)
        distinct = [len({tuple(b.ids) for b in t.branches}) for t in (tokens, whole)]
        assert distinct[0] == distinct[1]
        longest = max(len(b.ids) for b in tokens.branches)
        assert len(tokens.ids) + longest <= limit
