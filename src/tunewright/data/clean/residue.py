"""What a chat template, a prompt format or an unfilled form left in a text."""

from __future__ import annotations

import re

from tunewright.data.clean.code import code_spans, outside_code

TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>",
    "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end|>", "<|end_of_turn|>",
    "<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>",
    "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<s>", "</s>",
)  # fmt: skip
_ANSWER_HEADS = ("### Response:", "### Assistant:", "### Answer:", "ASSISTANT:", "Assistant:")
_ROLES_AFTER_HEAD = ("assistant", "user", "system", "model")
_HEAD_TOKENS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>")
# Another turn begins: the model that wrote the answer went on to speak for its user.
_NEXT_TURN = re.compile(
    r"\n[ \t]{0,8}(?:<\|im_start\|>\s{0,2}(?:user|system)|<\|user\|>|\[INST\]|<start_of_turn>\s{0,2}user"
    r"|<\|start_header_id\|>\s{0,2}user|### ?(?:Instruction|Human|User|Input):|Human:|HUMAN:|USER:)"
)
_SPEAKER = re.compile(r"^[ \t]{0,8}(?:[A-Z][\w .]{0,20}|[A-Z]{2,12}): ", re.MULTILINE)
_HEAD_ENDS = ("man:", "MAN:", "SER:", "ssistant:", "TANT:")
_ABOUT_TURNS = re.compile(
    r"chat ?template|special tokens?|tokeni[sz]er|im_start|\[INST|dialog|conversation|transcript|script"
    r"|interview|human:|user:",
    re.IGNORECASE,
)
_UNFILLED = re.compile(r"\{\{\s{0,4}[A-Za-z_][\w. ]{0,40}\}\}|\[INSERT [^\]\n]{1,60}\]|<INSERT [^>\n]{1,60}>")
_ABOUT_FORMS = re.compile(
    r"\{\{|\[INSERT|template|jinja|mustache|handlebars|placeholder|angular|vue|helm|ansible", re.I
)


def is_about_turns(question: str) -> bool:
    """Whether a question speaks of chat formats or asks for a dialogue, so that turns are meant."""
    return _ABOUT_TURNS.search(question) is not None


def without_edge_tokens(text: str) -> str:
    """Without control tokens of chat templates at its ends, and the role that such a token announces."""
    return outside_code(text, _without_edges) if _may_hold_tokens(text) else text


def _without_edges(text: str, heads: tuple[str, ...] = ()) -> str:
    """``text`` between the tokens at its ends; ``heads`` count as tokens at its start.

    What is taken off one end may show that a ``<s>`` at the other is a token, so both are looked at again.
    """
    while True:
        end = _end_before_tokens(text)
        start = _start_after_tokens(text, end, (*TOKENS, *heads))
        if end == len(text) and start == 0:
            return text
        text = text[start:end]


def _end_before_tokens(text: str) -> int:
    end, struck = len(text), text.find("<s>")  # the HTML tag for text that is struck out
    while True:
        bare = _without_space_at_end(text, end)
        token = next((t for t in TOKENS if text.endswith(t, 0, bare)), None)
        if token is None or (token in ("<s>", "</s>") and 0 <= struck < bare - len(token)):
            return end
        end = _without_space_at_end(text, bare - len(token))


def _without_space_at_end(text: str, end: int) -> int:
    while end and text[end - 1].isspace():
        end -= 1
    return end


def _start_after_tokens(text: str, end: int, tokens: tuple[str, ...]) -> int:
    start, struck = 0, text.rfind("</s>", 0, end)
    while True:
        bare = _without_space_at_start(text, start, end)
        token = next((t for t in tokens if text.startswith(t, bare, end)), None)
        if token is None or (token == "<s>" and struck > bare):
            return start
        start = _without_space_at_start(text, bare + len(token), end)
        if token in _HEAD_TOKENS:
            role = next((r for r in _ROLES_AFTER_HEAD if text.startswith(r, start, end)), "")
            start = _without_space_at_start(text, start + len(role), end)


def _without_space_at_start(text: str, start: int, end: int) -> int:
    while start < end and text[start].isspace():
        start += 1
    return start


def without_residue(text: str) -> str:
    """An answer without tokens and headings of a prompt format, cut off where another turn begins.

    Lines of several speakers are a dialogue, and stay.
    """
    heads = ":" in text and any(mark in text for mark in _HEAD_ENDS)
    return outside_code(text, _answer_alone) if heads or _may_hold_tokens(text) else text


def _may_hold_tokens(text: str) -> bool:
    return "<" in text or "INST]" in text or "###" in text


def _answer_alone(text: str) -> str:
    cut = _NEXT_TURN.search(text)
    if cut is not None and text[: cut.start()].strip() and not _SPEAKER.search(text, 0, cut.start()):
        text = text[: cut.start()].rstrip()
    speakers = 0 if ":" not in text else len(_SPEAKER.findall(text))
    return _without_edges(text, _ANSWER_HEADS if speakers < 2 else ())


def unfilled(question: str, answer: str) -> bool:
    """Whether an answer holds a slot that nobody filled (``{{name}}``, ``[INSERT DATE]``), outside code."""
    if "{{" not in answer and "INSERT " not in answer:
        return False
    found = [match.start() for match in _UNFILLED.finditer(answer)]
    if not found or _ABOUT_FORMS.search(question):
        return False
    spans = code_spans(answer)
    return any(not any(start <= at < end for start, end in spans) for at in found)
