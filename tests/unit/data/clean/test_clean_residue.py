"""What prompt formats leave behind, and dialogues and lessons about it, which stay."""

import pytest

from tunewright.data.clean.residue import is_about_turns, unfilled, without_edge_tokens, without_residue


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Sure.<|im_end|>\n", "Sure."),
        ("<|im_start|>assistant\nHi<|im_end|><|endoftext|>", "Hi"),
        ("### Response:\nHi", "Hi"),
        ("Assistant: Hi", "Hi"),
        ("[/INST] Hi </s>", "Hi"),
        ("Paris.\n\nHuman: And Spain?\n\nAssistant: Madrid.", "Paris."),
        ("Paris.\n### Instruction:\nNext", "Paris."),
        ("Paris.\n<|user|>\nNext", "Paris."),
        ("<|im_end|>", ""),
    ],
)
def test_residue_goes(text, clean):
    assert without_residue(text) == clean
    assert without_residue(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "User: hi\nAssistant: hello\nUser: bye",
        "Assistant: hi\nUser: hello\nAssistant: bye",
        "Bot: hi\nHuman: yes\nBot: bye",
        "The mark `<|im_end|>` ends a turn.",
        "A <|im_end|> in the middle stays.",
        "<s>old</s>",
        "### Steps\n1. Go",
        "Human: all too human",
        "#### 72",
    ],
)
def test_what_is_meant_stays(text):
    assert without_residue(text) == text


def test_questions_lose_tokens_only():
    assert without_edge_tokens("[INST] Why? [/INST]") == "Why?"
    assert without_edge_tokens("Why?\n### Response:") == "Why?\n### Response:"
    assert is_about_turns("Write a dialogue of two people.") and not is_about_turns("What is love?")


def test_unfilled_slots():
    assert unfilled("Write a letter.", "Dear {{name}}, hello.")
    assert unfilled("Write a letter.", "See you on [INSERT DATE].")
    assert not unfilled("Fill in {{name}}.", "Dear {{name}}, hello.")
    assert not unfilled("How?", "Write `{{name}}` there.")
    assert not unfilled("Write a letter.", "Dear [Name], {x} {{ }} {{'a': 1}}")
