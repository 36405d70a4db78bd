"""Chats of known shapes are, to the bit, what the plain path makes of them, whatever they say."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.test_render_properties import ATTACK, BENIGN, EXAMPLES, WORDS, visible
from tests.tiny import KINDS, chat_tokenizer, template_text, tiny_tokenizer
from tunewright.core.errors import RenderError
from tunewright.core.records import Conversation, Message
from tunewright.data.controls import Veil
from tunewright.data.known import DIFFERS_NOTE
from tunewright.data.render import Renderer

CHATML = template_text("chatml")
MESSAGE = "message['content']"
OWN = {
    "dated": "{{ '<|im_start|>system\n' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + CHATML,
    "timed": "{{ '<|im_start|>system\n' + strftime_now('%H') + '<|im_end|>\n' }}" + CHATML,
    "macro": "{% macro text(m) %}{{ m.content | trim }}{% endmacro %}"
    + CHATML.replace(MESSAGE, "text(message)"),
    "thinking": CHATML.replace(MESSAGE, f"{MESSAGE}.split('</think>')[-1]"),
    "conditional": CHATML.replace(MESSAGE, f"('1:' if '42' in {MESSAGE} else '') + {MESSAGE}"),
    "longest": CHATML.replace(MESSAGE, f"{MESSAGE}[:12] + {MESSAGE}[12:]"),
    "lowered": CHATML.replace(MESSAGE, f"{MESSAGE} | lower"),
    "counted": CHATML.replace(MESSAGE, f"({MESSAGE} | length) | string + ' ' + {MESSAGE}"),
}
FAMILIES = ("chatml", "llama3", "mistral", "gemma", "phi3", "qwen3", "dropsystem", "alpaca", *OWN)
PAIRS = [(name, kind) for name in FAMILIES for kind in KINDS if name not in OWN or kind == "bytelevel"]
TRAINED = ("assistant", "last", "all", "message")
MARKED = st.lists(st.one_of(WORDS, st.sampled_from(["[INST] ", "</think>", "user\n", "S", "A"])), min_size=1)
TEXTS = st.one_of(BENIGN, ATTACK, MARKED.map("".join)).map(visible)
SHAPES = ("ua", "sua", "uaua", "suaua", "uau", "uauaua")
ROLES = {"s": "system", "u": "user", "a": "assistant"}


def tokenizer_of(name, kind):
    if name in OWN:
        return tiny_tokenizer(kind, template=OWN[name])
    return chat_tokenizer(name, kind)


def chat(shape, texts, weight=None):
    messages = [Message(ROLES[role], text) for role, text in zip(shape, texts, strict=True)]
    return Conversation((*messages[:-1], Message(messages[-1].role, messages[-1].content, weight)))


@st.composite
def batches(draw):
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    return [chat(shape, [draw(TEXTS) for _ in shape], draw(st.sampled_from((None, 0.5)))) for shape in shapes]


def warm(renderer):
    """Show every shape often enough to be learnt, and to have been compared."""
    for shape in SHAPES:
        for weight in (None, 0.5):
            for _ in range(6):
                row = chat(shape, [f"so {role}" for role in shape], weight)
                try:
                    renderer.conversation(row)
                    renderer.prompt(row.messages)
                except RenderError:  # a template that refuses such roles
                    break


def result(call, *given):
    try:
        return call(*given)
    except RenderError as error:
        return str(error)


def plain(tokenizer, **how):
    renderer = Renderer(tokenizer, **how)
    renderer._known = None
    return renderer


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@pytest.mark.parametrize("train_on", TRAINED)
def test_known_chats_are_what_the_plain_path_makes(name, kind, train_on):
    tokenizer = tokenizer_of(name, kind)
    known, slow = Renderer(tokenizer, train_on=train_on), plain(tokenizer, train_on=train_on)
    warm(known)

    @EXAMPLES
    @given(batches())
    def check(rows):
        assert result(known.conversations, rows) == result(slow.conversations, rows)
        assert result(known.prompt, rows[0].messages) == result(slow.prompt, rows[0].messages)

    check()
    assert DIFFERS_NOTE not in known.notes


@pytest.mark.parametrize(
    ("name", "kind", "learnt", "planned"),
    [
        ("chatml", "bytelevel", "ua sua uaua suaua uau uauaua", "ua sua uaua suaua uau uauaua"),
        ("llama3", "bytelevel", "ua sua uaua suaua uau uauaua", "ua sua uaua suaua uau uauaua"),
        ("gemma", "bytelevel", "ua uaua uau uauaua", "ua uaua uau uauaua"),
        ("mistral", "bytelevel", "ua sua uaua suaua uau uauaua", "ua uaua uau uauaua"),
        ("phi3", "bytelevel", "ua sua uaua suaua uauaua", "ua sua uaua suaua uauaua"),
        ("qwen3", "bytelevel", "ua sua", "ua sua"),
        ("dated", "bytelevel", "ua uaua uau uauaua", "ua uaua uau uauaua"),
        ("macro", "bytelevel", "ua sua uaua suaua uau uauaua", "ua sua uaua suaua uau uauaua"),
        ("thinking", "bytelevel", "ua sua uaua suaua uau uauaua", "ua sua uaua suaua uau uauaua"),
        ("conditional", "bytelevel", "ua sua uaua suaua uau uauaua", "ua sua uaua suaua uau uauaua"),
        ("chatml", "metaspace", "ua sua uaua suaua uau uauaua", ""),
        ("llama3", "unigram", "ua sua uaua suaua uau uauaua", ""),
        *((name, "bytelevel", "", "") for name in ("timed", "longest", "lowered", "counted")),
    ],
)
def test_what_is_learnt_of_which_template(name, kind, learnt, planned):
    """Without it everything is right and slow, which no other test would show."""
    renderer = Renderer(tokenizer_of(name, kind))
    warm(renderer)
    found = {
        "".join(role[0] for role in key[::2]): shape
        for (how, key), shape in renderer._known._shapes._shapes.items()
        if how == "drafts" and key[-1] is None
    }
    assert {key for key, shape in found.items() if shape.form} == set(learnt.split())
    assert {key for key, shape in found.items() if shape.plan} == set(planned.split())


def test_what_was_learnt_with_a_date_is_not_used_on_the_next_day(monkeypatch):
    renderer = Renderer(tokenizer_of("dated", "bytelevel"))
    warm(renderer)
    asked = chat("uau", ("why", "so", "ok")).messages
    before, runs, render = renderer.prompt(asked), [], renderer._template.render
    monkeypatch.setattr(renderer._template, "render", lambda *a, **k: runs.append(1) or render(*a, **k))
    assert renderer.prompt(asked) == before and not runs

    class Tomorrow(date):
        @classmethod
        def today(cls):
            return date(2099, 1, 1)

    monkeypatch.setattr("tunewright.data.shapes.date", Tomorrow)
    assert renderer.prompt(asked) == before and runs


@EXAMPLES
@given(st.one_of(ATTACK, BENIGN, st.text(max_size=6)))
def test_a_text_that_is_spared_is_one_that_nothing_is_covered_in(text):
    for name in ("chatml", "mistral", "qwen3", "dropsystem"):
        controls = Renderer(tokenizer_of(name, "bytelevel")).controls
        assert controls.spares(text) == (Veil(controls).cover(text) == text)
        assert not controls.unmarked(text) or controls.spares(text)
