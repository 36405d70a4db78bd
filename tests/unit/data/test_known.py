"""Chats of known shapes: that the fast way is taken, in blocks and threads, and left where it must be."""

import gc
from dataclasses import replace

import pytest
from tokenizers import processors

from tests.tiny import chat_tokenizer, template_text, tiny_tokenizer
from tunewright.core.errors import RenderError
from tunewright.core.records import Conversation, Labelled, Message, Meta
from tunewright.data import known
from tunewright.data.known import DIFFERS_NOTE, PLAIN_NOTE
from tunewright.data.render import Renderer

SLICED = template_text("chatml").replace("message['content']", "message['content'][:]")


def rows_of(count, shapes=("ua", "uaua")):
    roles = {"u": "user", "a": "assistant"}
    return [
        Conversation(
            tuple(
                Message(roles[r], f"{i} is\n{r} {n}, no é" + " x" * (i % 7))
                for n, r in enumerate(shapes[i % len(shapes)])
            ),
            Meta("rows.jsonl", i + 1),
        )
        for i in range(count)
    ]


def plainly(tokenizer, rows, **how):
    renderer = Renderer(tokenizer, **how)
    renderer._known = None
    return renderer.conversations(rows)


def test_known_chats_take_neither_the_template_nor_offsets(monkeypatch):
    tokenizer = chat_tokenizer("chatml")
    renderer, rows = Renderer(tokenizer), rows_of(60)
    renderer.conversations(rows)
    monkeypatch.setattr(tokenizer, "apply_chat_template", None)
    monkeypatch.setattr(renderer._encoder, "encode", None)
    assert renderer.conversations(rows) == plainly(chat_tokenizer("chatml"), rows)


@pytest.mark.embedded
def test_the_embedded_model_is_among_the_fast_ones():
    from tunewright.models.load import load_tokenizer

    tokenizer, _ = load_tokenizer("smollm2-135m-instruct")
    renderer, rows = Renderer(tokenizer), rows_of(60)
    assert renderer.conversations(rows) == plainly(tokenizer, rows)
    assert all(shape.plan for shape in renderer._known._shapes._shapes.values())


@pytest.mark.parametrize("name", ["chatml", "phi3", "mistral"])
@pytest.mark.parametrize("kind", ["bytelevel", "metaspace"])
def test_blocks_that_are_encoded_ahead_keep_their_order(name, kind, monkeypatch):
    monkeypatch.setattr(known, "_BLOCK", 7)
    monkeypatch.setattr("tunewright.data.sections._CHARACTERS", 100)
    tokenizer, rows = chat_tokenizer(name, kind), rows_of(100)
    for how in ({}, {"max_length": 30}, {"max_length": 30, "over_long": "drop"}, {"train_on": "last"}):
        assert Renderer(tokenizer, **how).conversations(rows) == plainly(tokenizer, rows, **how)
    assert gc.isenabled()


def test_a_bad_row_among_many_is_named():
    rows = rows_of(50)
    rows[31] = Conversation((Message("user", "why \ud800"), *rows[31].messages[1:]), rows[31].meta)
    with pytest.raises(RenderError, match=r"rows.jsonl:32: .*surrogate"):
        Renderer(chat_tokenizer("chatml")).conversations(rows)
    rows[31] = Conversation((Message("user", "a"), Message("user", "b")), rows[31].meta)
    with pytest.raises(RenderError, match=r"rows.jsonl:32: .*must alternate"):
        Renderer(chat_tokenizer("mistral")).conversations(rows)


def test_control_strings_are_counted_as_ever():
    rows = [Conversation((Message("user", f"{i} <|im_end|>"), Message("assistant", "ok"))) for i in range(9)]
    found = Renderer(chat_tokenizer("chatml")).conversations(rows)
    assert [t.extras for [t] in found] == [{"control_hits": 1.0}] * 9


def test_labelled_chats_and_tools_among_others():
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    rows = rows_of(12, ("ua",))
    mixed = [Labelled(rows[0].messages, True, rows[0].meta), Conversation(rows[1].messages, tools=(tool,))]
    assert Renderer(chat_tokenizer("qwen3")).conversations([*rows, *mixed]) == plainly(
        chat_tokenizer("qwen3"), [*rows, *mixed]
    )


def test_system_text_that_is_folded_is_known_and_noted():
    tokenizer = chat_tokenizer("gemma")
    rows = [
        Conversation((Message("system", f"Be {i}"), Message("user", "why"), Message("assistant", "so")))
        for i in range(40)
    ]
    renderer = Renderer(tokenizer)
    assert renderer.conversations(rows) == plainly(tokenizer, rows)
    assert renderer.notes == [
        "the chat template has no system role; system text is put before the first user turn"
    ]
    assert [key[0::2] for (_, key), s in renderer._known._shapes._shapes.items() if s.plan] == [
        ("user", "assistant")
    ]


def test_a_template_that_must_run_for_each_chat_is_said_once(monkeypatch):
    monkeypatch.setattr(known, "_WORTH_SAYING", 20)
    renderer = Renderer(tiny_tokenizer(template=SLICED))
    renderer.conversations(rows_of(15))
    assert renderer.notes == []
    for _ in range(3):
        renderer.conversations(rows_of(15))
    assert renderer.notes == [PLAIN_NOTE]


def test_a_wrong_form_is_found_and_not_used():
    """The comparison with the plain path, which nothing should ever need."""
    tokenizer, rows = chat_tokenizer("chatml"), rows_of(20, ("ua",))
    renderer = Renderer(tokenizer)
    renderer.conversations(rows)
    [shape] = renderer._known._shapes._shapes.values()
    shape.plan.units[-1].append(7)
    shape.checked = 0
    assert renderer.conversations(rows) == plainly(tokenizer, rows)
    assert renderer.notes == [DIFFERS_NOTE] and shape.form is None
    assert renderer.conversations(rows) == plainly(tokenizer, rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chatml", "\n\nwhy"),  # melts with the line break before it
        ("chatml", "why "),  # some tokenizers leave white space out of their offsets
        ("chatml", " why"),
        ("chatml", "why\n"),
        ("mistral", "[INST]"),  # stands in the constant text before it as well
        ("mistral", "INST"),
        ("mistral", "why\n "),
        ("qwen3", "\n why"),
    ],
)
def test_contents_with_a_border_of_their_own(name, content):
    for trims in (False, True):
        tokenizer = chat_tokenizer(name)
        if trims:
            tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        rows = rows_of(12, ("uaua",))
        texts = ("why", content, content, content)
        messages = tuple(replace(m, content=t) for m, t in zip(rows[0].messages, texts, strict=True))
        row = Conversation(messages, rows[0].meta)
        renderer = Renderer(tokenizer, train_on="all")
        assert renderer.conversations([*rows, row]) == plainly(tokenizer, [*rows, row], train_on="all")
        renderer = Renderer(tokenizer)
        renderer.conversations(rows)
        assert renderer.conversations([row]) == plainly(tokenizer, [row])
