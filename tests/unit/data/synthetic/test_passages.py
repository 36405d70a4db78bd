"""Passages are pieces of their document, and nothing of it is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.core.errors import DataError
from tunewright.data.synthetic.passages import Document, documents_of, passages_of

PARAGRAPHS = "\ufeffFirst part.\r\nStill first.\r\n\r\nSecond part is here.\n \nThird. With two sentences!\n"


def test_passages_are_literal_and_know_their_line(tmp_path):
    file = tmp_path / "manual.md"
    file.write_bytes(PARAGRAPHS.encode())
    [document] = documents_of(str(file))
    found = list(passages_of(document, 40))
    text = file.read_bytes().decode("utf-8")
    assert [p.text for p in found] == [
        "First part.\r\nStill first.",
        "Second part is here.",
        "Third. With two sentences!",
    ]
    assert [text[p.start : p.end] for p in found] == [p.text for p in found]
    assert [p.line for p in found] == [1, 4, 6]
    assert found[0].start == 1  # the byte-order mark counts as a character


@given(st.text(alphabet="ab .\n\r\té中🙂", max_size=400), st.integers(5, 60))
def test_every_character_but_white_space_stands_in_one_passage(text, size):
    found = list(passages_of(Document("x", 1, text, lines=True), size))
    at = 0
    for passage in found:
        assert passage.text == text[passage.start : passage.end] == passage.text.strip()
        assert 0 < len(passage.text) <= size and passage.start >= at
        assert not text[at : passage.start].strip()
        assert passage.line == 1 + text[: passage.start].count("\n")
        at = passage.end
    assert not text[at:].strip()


def test_a_cut_falls_where_a_sentence_ends():
    text = "One sentence is here. " * 10
    assert all(p.text.endswith(".") for p in passages_of(Document("x", 1, text), 50))


def test_rows_with_a_text_are_documents(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"Text {i}.\n\nMore {i}."}) + "\n" for i in range(3)))
    documents = documents_of(str(file))
    assert [d.line for d in documents] == [1, 2, 3]
    assert [p.line for p in passages_of(documents[2], 12)] == [3, 3]  # the row's, not the text's


def test_what_is_no_document(tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"prompt": "a?", "completion": "b"}) + "\n")
    with pytest.raises(DataError, match=r"chats\.jsonl:1: questions are made from documents"):
        documents_of(str(chats))
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9 and more")
    with pytest.raises(DataError, match="byte 3 is not UTF-8"):
        documents_of(str(latin))
