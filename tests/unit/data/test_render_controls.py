"""Text from data never becomes a control token: every control token in every field, and the tricks."""

import pytest

from tests.tiny import KINDS, chat_tokenizer, tiny_tokenizer
from tunewright.core.records import Conversation, Message
from tunewright.data.controls import Controls, Veil
from tunewright.data.lengths import tally
from tunewright.data.render import Renderer

TEMPLATES = ("chatml", "llama3", "mistral", "gemma", "phi3", "qwen3", "dropsystem", "alpaca")


def call(name="find", key="q", value="cats"):
    return {"tool_calls": [{"type": "function", "function": {"name": name, "arguments": {key: value}}}]}


def tool(name="find", text="Finds things"):
    return {"type": "function", "function": {"name": name, "description": text}}


# One chat that uses every field; each entry puts ``x`` into one of them.
FIELDS = {
    "system": lambda x: ({"system": x}),
    "user": lambda x: ({"user": x}),
    "answer": lambda x: ({"answer": x}),
    "reasoning": lambda x: ({"extra": {"reasoning_content": x}}),
    "call name": lambda x: ({"extra": call(name=x)}),
    "call key": lambda x: ({"extra": call(key=x)}),
    "call value": lambda x: ({"extra": call(value=x)}),
    "tool result": lambda x: ({"result": x}),
    "tool name": lambda x: ({"tool": tool(name=x)}),
    "tool text": lambda x: ({"tool": tool(text=x)}),
}


def tool_chat(system="Be kind", user="Find cats", answer="Found", extra=None, result="3 cats", tool=tool()):  # noqa: B008
    messages = (
        Message("system", system),
        Message("user", user),
        Message("assistant", "", extra=extra or call()),
        Message("tool", result),
        Message("assistant", answer),
    )
    return Conversation(messages, tools=(tool,))


def controls_in(renderer, example):
    return [[i for i in t.ids if i in renderer.controls.id_set] for t in renderer.conversation(example)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", FIELDS)
def test_no_control_token_through_any_field_of_a_chat_with_tools(field, kind):
    tokenizer = chat_tokenizer("qwen3", kind)
    renderer = Renderer(tokenizer)
    assert len(renderer.controls.ids) >= 11
    build = FIELDS[field]
    expected = controls_in(renderer, tool_chat(**build("harmless")))
    for control in renderer.controls.ids:
        for text in (control, f"a {control} b", f"a{control}{control}", f"{control[:-1]}{control}"):
            example = tool_chat(**build(text))
            assert controls_in(renderer, example) == expected, f"{control!r} through {field}"
            if kind == "bytelevel" and "reasoning" not in field:
                assert text in tokenizer.decode(renderer.conversation(example)[-1].ids)
            assert tally(renderer.conversation(example)).control_hits == text.count(control)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_no_control_token_through_content(name, kind):
    renderer = Renderer(chat_tokenizer(name, kind))

    def chat(*texts):
        return Conversation(tuple(map(Message, ("system", "user", "assistant"), texts)))

    expected = controls_in(renderer, chat("x", "x", "x"))
    for control in renderer.controls.ids:
        assert controls_in(renderer, chat(control, control, f"so {control}")) == expected
        assert renderer.conversation(chat(control, control, control))[0].extras == {"control_hits": 3.0}
        assert not renderer.controls.id_set & set(renderer.document(f"{control} x {control}")[:-1])


def test_words_from_two_fields_cannot_join_into_a_control_token():
    template = (
        "{% for m in messages %}<|im_start|>{{ m.name }}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    renderer = Renderer(tiny_tokenizer(template=template))

    def chat(name, content):
        return Conversation((Message("user", content, extra={"name": name}), Message("assistant", "ok")))

    for cut in range(1, len("<|im_end|>")):
        head, tail = "<|im_end|>"[:cut], "<|im_end|>"[cut:]
        assert controls_in(renderer, chat(head, f"{tail} x")) == controls_in(renderer, chat("a", "b"))


def test_a_tokenizer_that_normalises_look_alikes_into_control_tokens():
    """Unigram with NFKC turns full-width ＜s＞ into <s>, which is a piece of its vocabulary."""
    tokenizer = chat_tokenizer("chatml", "unigram")
    assert tokenizer.backend_tokenizer.model.tokenize("<s>")[0].id == 0, "the vocabulary itself holds <s>"
    renderer = Renderer(tokenizer)
    chat = Conversation((Message("user", "a ＜s＞ b ＜/s＞"), Message("assistant", "<s>")))
    assert controls_in(renderer, chat) == [[3, 4, 3, 4]]


def test_benign_text_beside_control_strings_keeps_its_tokens():
    tokenizer = chat_tokenizer("chatml")
    renderer = Renderer(tokenizer)
    start = "The capital of France is "
    with_hit = renderer.prompt([Message("user", f"{start}<|im_end|>")])
    without = renderer.prompt([Message("user", f"{start}Paris")])
    shared = len(tokenizer.encode(f"<|im_start|>user\n{start[:-1]}", add_special_tokens=False))
    assert with_hit[:shared] == without[:shared]


def test_an_answer_may_open_with_its_own_reasoning_and_nothing_else_may():
    tokenizer = chat_tokenizer("qwen3")
    opening, closing = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    renderer = Renderer(tokenizer)

    def thoughts(user, answer):
        [tokens] = renderer.conversation(Conversation((Message("user", user), Message("assistant", answer))))
        return [i for i in tokens.ids if i in (opening, closing)], tokenizer.decode(tokens.ids)

    own, text = thoughts("hi", "<think>\nHm </s>\n</think>\n\nHello")
    assert own == [opening, closing]
    assert text.endswith("<think>\nHm </s>\n</think>\n\nHello<|im_end|>\n")
    assert thoughts("<think>a</think> hi", "Hello")[0] == [opening, closing], "only what the template writes"
    assert thoughts("hi", "Hello <think>late</think>")[0] == [opening, closing]
    assert thoughts("hi", "<think>a</think>b<think>c</think>d")[0] == [opening, closing]
    assert thoughts("hi", "<think>never closed")[0] == [opening, closing]


def test_words_added_to_the_vocabulary_are_not_control_tokens():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.add_tokens(["Kubernetes", "user", "\n\n"])
    renderer = Renderer(tokenizer)
    assert not {"Kubernetes", "user", "\n\n"} & set(renderer.controls.ids)
    messages = (Message("user", "user of Kubernetes\n\nhere"), Message("assistant", "ok"))
    [tokens] = renderer.conversation(Conversation(messages))
    assert tokens.ids == tokenizer.apply_chat_template([m.to_dict() for m in messages], return_dict=False)
    assert tokens.extras == {}


def test_veil_gives_back_what_it_covered():
    veil = Veil(Controls({"<|end|>": 7, "</s>": 1}))
    for text in ("", "a", "<|end|>", "a</s>b</s>", "\U00100000 \U0010fffd", " <|end", "|> x", " </s> \n"):
        covered = veil.cover(text)
        assert "<|end|>" not in covered and "</s>" not in covered
        assert veil.reveal(covered) == text
    assert veil.hits == 4
    assert veil.cover({"</s>": ["<|end|>", 1, None, True]}) == {
        veil.cover("</s>"): [veil.cover("<|end|>"), 1, None, True]
    }
