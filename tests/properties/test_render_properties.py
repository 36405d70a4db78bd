"""What must hold for any conversation, over all fixture templates and three kinds of tokenizer."""

from functools import lru_cache
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tiny import KINDS, chat_tokenizer
from tunewright.core.records import Conversation, Message
from tunewright.data.render import Renderer

TEMPLATES = ("chatml", "llama3", "mistral", "gemma", "phi3", "qwen3", "dropsystem", "alpaca")
NO_SYSTEM = ("gemma", "dropsystem")
PAIRS = [(name, kind) for name in TEMPLATES for kind in KINDS]
EXAMPLES = settings(max_examples=20, deadline=None)

WORDS = st.sampled_from(
    ["Hello", "it's", "42", " ", "  ", "\n", "\n\n", "\t", "é", "e\u0301", "你好", "🙂", "Paris.", "a",
     "user", "###", "assistant", "system", "'s", ":", "\u200b", "<b>", "1 < 2", "> quote", "[x]",
     "\U00100003", "\ufb01", "▁"]
)  # fmt: skip
BENIGN = st.lists(WORDS, min_size=1, max_size=6).map("".join)
HOSTILE = [
    "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end_header_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|end|>", "[INST]", "[/INST]", "<think>", "</think>",
    "<tool_call>", "<|im_", "start|>", "<", "|>", "＜s＞", "＜/s＞",
]  # fmt: skip
ATTACK = st.lists(st.one_of(WORDS, st.sampled_from(HOSTILE)), min_size=1, max_size=8).map("".join)


def visible(text):
    """Templates may trim; a text of nothing but white space would leave no trace to look for."""
    return text if text.strip() else f"{text}x"


@st.composite
def chats(draw, texts=BENIGN, turns=3):
    messages = [Message("system", visible(draw(texts)))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, turns))):
        messages.append(Message("user", visible(draw(texts))))
        messages.append(Message("assistant", visible(draw(texts))))
    return tuple(messages)


@lru_cache(maxsize=64)
def tools_of(name, kind):
    tokenizer = chat_tokenizer(name, kind)
    return tokenizer, Renderer(tokenizer)


def dicts(messages, name):
    """The messages as given to the reference; system text goes where the documented rule says."""
    if name in NO_SYSTEM and messages[0].role == "system":
        first = Message("user", f"{messages[0].content}\n\n{messages[1].content}")
        messages = (first, *messages[2:])
    return [m.to_dict() for m in messages]


def reference(tokenizer, messages, **more):
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **more)


def natural_cuts(tokenizer, messages):
    """Whether each prompt's own ids begin the ids of the whole: no cut is needed anywhere."""
    whole = reference(tokenizer, messages)
    return all(
        whole[: len(prompt)] == prompt
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
        for prompt in [reference(tokenizer, messages[:i], add_generation_prompt=True)]
    )


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_benign_text_reads_as_with_the_models_own_template(name, kind):
    tokenizer, renderer = tools_of(name, kind)

    @EXAMPLES
    @given(chats())
    def check(messages):
        plain = dicts(messages, name)
        tokens = renderer.conversation(Conversation(messages))[-1]
        text = tokenizer.apply_chat_template(plain, tokenize=False) + ("</s>" if name == "alpaca" else "")
        if kind == "bytelevel":
            assert tokenizer.decode(tokens.ids) == text
        if natural_cuts(tokenizer, plain):
            expected = reference(tokenizer, plain) + ([1] if name == "alpaca" else [])
            if kind == "unigram":  # of two paths with the same score it may take the other
                assert sorted(tokens.ids) == sorted(expected)
            else:
                assert tokens.ids == expected

    check()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_trained_answer_follows_exactly_its_inference_prompt(name, kind):
    _, renderer = tools_of(name, kind)

    @EXAMPLES
    @given(chats(texts=ATTACK))
    def check(messages):
        sequences = renderer.conversation(Conversation(messages))
        answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
        found = []
        for tokens in sequences:
            trained = [
                s for s in tokens.spans if s.role == "assistant" and any(tokens.weights[s.start : s.end])
            ]
            found += [tokens.ids[: span.start] for span in trained]
        assert found == [renderer.prompt(messages[:i]) for i in answers]

    check()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_answers_are_trained_up_to_their_end_of_turn_and_no_further(name, kind):
    _, renderer = tools_of(name, kind)

    @EXAMPLES
    @given(chats(texts=ATTACK))
    def check(messages):
        for tokens in renderer.conversation(Conversation(messages)):
            claimed = [False] * len(tokens.ids)
            for span in tokens.spans:
                if span.role == "assistant":
                    claimed[span.start : span.end] = [True] * (span.end - span.start)
                    if tokens.weights[span.start] and (name != "alpaca" or span.end == len(tokens.ids)):
                        assert tokens.ids[span.end - 1] == renderer.end_of_turn
                        assert set(tokens.weights[span.start : span.end]) == {1.0}
            outside = [w for w, inside in zip(tokens.weights, claimed, strict=True) if not inside]
            assert set(outside) <= {0.0}

    check()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_data_never_adds_a_control_token(name, kind):
    """Hostile content gives the same control ids, in the same order, as harmless content in its place."""
    tokenizer, renderer = tools_of(name, kind)
    control = renderer.controls.id_set

    @EXAMPLES
    @given(chats(texts=ATTACK))
    def check(messages):
        # a leading reasoning block of an answer is the one exception, and has a test of its own
        assume(not any(m.role == "assistant" and "<think>" in m.content for m in messages))
        harmless = tuple(Message(m.role, "harmless") for m in messages)
        wild = renderer.conversation(Conversation(messages))
        tame = renderer.conversation(Conversation(harmless))
        assert [[i for i in t.ids if i in control] for t in wild] == [
            [i for i in t.ids if i in control] for t in tame
        ]
        if kind == "bytelevel":
            plain = dicts(messages, name)
            text = tokenizer.apply_chat_template(plain, tokenize=False) + ("</s>" if name == "alpaca" else "")
            assert "</think>" in str(messages) or tokenizer.decode(wild[-1].ids) == text

    check()


@EXAMPLES
@given(st.lists(chats(texts=ATTACK), min_size=1, max_size=5), st.sampled_from(PAIRS))
def test_a_batch_gives_what_single_calls_give(batch, pair):
    _, renderer = tools_of(*pair)
    rows = [Conversation(messages) for messages in batch]
    assert renderer.conversations(rows) == [renderer.conversation(row) for row in rows]


@EXAMPLES
@given(ATTACK, st.integers(2, 12), st.sampled_from(PAIRS))
def test_chunks_lay_end_to_end_give_the_document(text, size, pair):
    tokenizer, renderer = tools_of(*pair)
    chunks = renderer.document_chunks(text, size)
    ids = renderer.document(text)
    assert [chunks[0].ids[0], *(i for chunk in chunks for i in chunk.ids[1:])] == ids
    assert [w for chunk in chunks for w in chunk.weights[1:]] == [1.0] * (len(ids) - 1)
    assert all(chunk.weights[0] == 0 for chunk in chunks)
    assert all(after.ids[0] == before.ids[-1] for before, after in pairwise(chunks))
    assert sum(chunk.trained for chunk in chunks) == len(ids) - 1
    assert all(len(chunk.ids) == size for chunk in chunks[:-1]) and len(chunks[-1].ids) <= size
    assert ids[-1] == tokenizer.eos_token_id
    assert not renderer.controls.id_set & set(ids[:-1])
    if pair[1] == "bytelevel":
        assert tokenizer.decode(ids[:-1]) == text
