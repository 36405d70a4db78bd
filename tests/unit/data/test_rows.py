"""Containers: recognised by content, streamed, and one bad row costs only itself."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunewright.core.errors import DataError
from tunewright.core.records import Labelled, Text
from tunewright.data import container, rows
from tunewright.data.load import load, read_examples
from tunewright.data.strict import MAX_BYTES

ROW = {"prompt": "2+2?", "completion": "4"}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def reasons(loaded):
    return [(p.line, p.reason) for p in loaded.problems]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": "x"}\n', "jsonl"),
        ("a.json", '{"text": "x"}\n{"text": "y"}\n', "jsonl"),
        ("a.txt", '{"text": "x"}\n{"text": "y"}\n', "jsonl"),
        ("a.csv", '{"text": "x"}\n{"text": "y"}\n', "jsonl"),
        ("a.json", '[{"text": "x"}]', "json"),
        ("a", '\n\n [\n{"text": "x"}]', "json"),
        ("a.json", '[\n{"text": "x"}\n]', "json"),
        ("a.json", '[]\n{"text": "x"}\n', "jsonl"),
        ("a.json", '{\n "data": [{"text": "x"}]}', "json"),
        ("a.json", '{"data": [{"text": "x"}]}', "json"),
        ("a.json", '{"messages": [{"role": "user", "content": "x"}]}', "jsonl"),
        ("a.jsonl", '{"broken\n{"text": "x"}', "jsonl"),
        ("a.json", '{"broken\n{"text": "x"}', "jsonl"),
        ("a.csv", "text,label\nx,y\n", "csv"),
        ("a.data", "text\tlabel\nx\ty\n", "csv"),
        ("a.txt", "Hello, world.\nMore, text.\n", "text"),
        ("a.txt", "[1] A list of things\n", "text"),
        ("README", "Just prose, with a comma.\nAnd more.\n", "text"),
    ],
)
def test_container_is_told_from_content(tmp_path, name, content, expected):
    assert container.container_of(write(tmp_path / name, content)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\xef\xbb\xbf \n\n", "empty"),
        ("a.jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("a.bin", bytes(range(256)) * 40 + bytes(2000), "binary"),
        ("a.json", b"hello", "starts with neither"),
        ("a.parquet", b"PAR1 is not enough", "Parquet"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99)[:-9], "gzip data is damaged"),
        ("a.csv", b"text,text\nx,y\n", "stands twice in the header"),
    ],
)
def test_unreadable_files_are_data_errors(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        load([write(tmp_path / name, content)])


def test_a_header_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,réponse\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv:1: the header is not UTF-8 \(byte 0xe9\)"):
        load([tmp_path / "a.csv"])


def test_missing_file_and_folder_are_data_errors(tmp_path):
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            load([path])


def test_bom_crlf_and_blank_lines(tmp_path):
    line = json.dumps(ROW)
    loaded = load([write(tmp_path / "a.jsonl", f"\ufeff{line}\r\n\n  \n{line}\r\n")])
    assert [e.meta.line for e in loaded.examples] == [1, 4]
    assert [(p.reason, p.action, p.line) for p in loaded.problems] == [
        ("bom", "repaired", 1),
        ("crlf", "repaired", 1),
        ("blank_lines", "noted", 2),
    ]
    assert loaded.problems[1].detail.startswith("2 in all")
    assert loaded.files[0].rows == 2


@pytest.mark.parametrize("mark", ["\\u0000", "\\u001b", "\\b", "\\f", "\\u007f", "\x7f"])
def test_control_characters_in_json_are_removed_and_reported(tmp_path, mark):
    row = '{"text": "a' + mark + 'b\\tc\\n\\u00e9 C:\\\\bin"}\n'
    loaded = load([write(tmp_path / "a.jsonl", row)])
    assert [e.text for e in loaded.examples] == ["ab\tc\n\u00e9 C:\\bin"]
    assert [(p.reason, p.action, p.detail) for p in loaded.problems] == [
        ("control_chars", "repaired", "1 removed")
    ]


def test_an_escape_that_only_looks_like_a_control_character_is_kept(tmp_path):
    loaded = load([write(tmp_path / "a.jsonl", '{"text": "\\\\u0000 \\u0041 \\\\f"}\n')])
    assert [e.text for e in loaded.examples] == ["\\u0000 A \\f"]
    assert loaded.problems == []


def test_a_problem_reads_as_one_sentence_with_a_remedy(tmp_path):
    row = {"messages": [{"role": "usr", "content": "x"}]}
    problem = load([write(tmp_path / "a.jsonl", json.dumps(row))]).problems[0]
    assert str(problem) == (
        f"{tmp_path}/a.jsonl:1: rejected (unknown_role): turn 1 has the role 'usr'. Did you mean 'user'? "
        "Use user, assistant, system or tool."
    )


def test_over_long_line_is_rejected_without_being_read_into_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as f:
        f.write(json.dumps(ROW).encode() + b'\n{"prompt": "')
        for _ in range(12):
            f.write(b"x" * MAX_BYTES)
        f.write(b'"}\n' + json.dumps(ROW).encode() + b"\n")
    tracemalloc.start()
    loaded = load([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons(loaded) == [(2, "over_long")]
    assert [e.meta.line for e in loaded.examples] == [1, 3]
    assert peak < 5 * MAX_BYTES


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = write(tmp_path / "a.jsonl", (json.dumps({"text": "word " * 200}) + "\n") * 20_000)
    tracemalloc.start()
    assert sum(1 for _ in read_examples(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert peak < 6e6


def test_gzip_is_read_and_a_bomb_is_refused(tmp_path, monkeypatch):
    line = json.dumps(ROW).encode() + b"\n"
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(line * 5))
    assert len(load([path]).examples) == 5
    monkeypatch.setattr(container, "FREE_BYTES", 1000)
    bomb = write(tmp_path / "b.jsonl.gz", gzip.compress(line * 30_000))
    with pytest.raises(DataError, match="decompression bomb"):
        load([bomb])


def test_json_array_lines_and_one_bad_element(tmp_path):
    text = """[
  {"prompt": "a", "completion": "b"},
  {"prompt": "c", "prompt": "d"},
  7,

  {"prompt": "e",
   "completion": "f"}
]"""
    loaded = load([write(tmp_path / "a.json", text)])
    assert [e.meta.line for e in loaded.examples] == [2, 6]
    assert reasons(loaded) == [(3, "duplicate_key"), (4, "not_object")]


@pytest.mark.parametrize(
    ("tail", "kept"),
    [(', {"prompt": "c', 2), ("", 1), (",]", 2), (", ,", 2), ("] trailing", 2), (',{"a": 1 ]', 2)],
)
def test_broken_array_is_reported_and_earlier_rows_stay(tmp_path, tail, kept):
    text = '[{"prompt": "a", "completion": "b"},\n{"prompt": "c", "completion": "d"}' + tail
    loaded = load([write(tmp_path / "a.json", text)])
    assert len(loaded.examples) == kept
    assert reasons(loaded)[0] == (2, "broken_json")


def test_object_around_an_array(tmp_path):
    inner = json.dumps([ROW, ROW])
    loaded = load([write(tmp_path / "a.json", '{"version": "1 \\" {[",\n "rows": ' + inner + ', "n": 2}')])
    assert [e.meta.line for e in loaded.examples] == [2, 2]
    assert loaded.files[0].ignored_keys == {"version": 1, "n": 1}


def test_csv_rules(tmp_path):
    content = b'text,label\r\nfine,a\r\n"two\r\nlines",b\r\n\r\nextra,c,d\r\nfew\r\n'
    content += b'bad \xff byte,e\r\nnul\x00,f\r\n"x"y,g\r\n'
    loaded = load([write(tmp_path / "a.csv", content)])
    assert [(e.meta.line, e.messages[0].content, e.label) for e in loaded.examples] == [
        (2, "fine", "a"),
        (3, "two\r\nlines", "b"),
        (9, "nul", "f"),
    ]
    assert reasons(loaded) == [
        (6, "bad_csv"), (7, "bad_csv"), (8, "invalid_utf8"), (9, "control_chars"), (10, "bad_csv"),
        (1, "crlf"), (5, "blank_lines"),
    ]  # fmt: skip
    assert "3 fields, but the header has 2" in loaded.problems[0].detail
    assert "0xff" in loaded.problems[2].detail


def test_csv_quote_that_never_closes(tmp_path):
    loaded = load([write(tmp_path / "a.csv", 'text,label\nfine,a\n"open,b\nc,d\ne,f\n')])
    assert len(loaded.examples) == 1
    assert reasons(loaded) == [(3, "bad_csv")]
    assert "lines 3 to 5" in loaded.problems[0].detail


@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
def test_csv_delimiters_and_long_fields(tmp_path, mark):
    content = f"text{mark}label\n{'x' * 300_000}{mark}y\n"
    example = load([write(tmp_path / "a.csv", content)]).examples[0]
    assert isinstance(example, Labelled)
    assert len(example.messages[0].content) == 300_000


def test_parquet_rows_nulls_and_nan(tmp_path):
    messages = [
        [
            {"role": "user", "content": "a", "weight": None},
            {"role": "assistant", "content": "b", "weight": 0.0},
        ],
        None,
    ]
    pq.write_table(pa.table({"messages": messages, "score": [float("nan"), 1.0]}), tmp_path / "a.parquet")
    loaded = load([tmp_path / "a.parquet"])
    assert [m.weight for m in loaded.examples[0].messages] == [None, 0.0]
    assert reasons(loaded)[0] == (2, "wrong_type")
    pq.write_table(pa.table({"text": ["x", "y\x00z"], "score": [float("nan"), 1.0]}), tmp_path / "b.parquet")
    loaded = load([tmp_path / "b.parquet"])
    assert [(e.messages[0].content, e.label) for e in loaded.examples] == [("yz", 1.0)]
    assert reasons(loaded) == [(1, "wrong_type"), (2, "control_chars")]


def test_text_is_cut_at_blank_lines(tmp_path):
    paragraph = "word " * 150
    content = f"{paragraph}\n\n{paragraph}\n\n{paragraph}\n\n\n{paragraph}\n\fnew page\n"
    loaded = load([write(tmp_path / "a.txt", content)])
    assert all(isinstance(e, Text) for e in loaded.examples)
    assert [(e.meta.line, len(e.text.split())) for e in loaded.examples] == [(1, 450), (8, 150), (9, 2)]


def test_text_with_a_bad_line(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "TEXT_LIMIT", 10)
    loaded = load([write(tmp_path / "a.txt", b"one line here\ntwo\n\xfe\nthree\n")])
    assert [(e.meta.line, e.text) for e in loaded.examples] == [
        (1, "one line here"),
        (2, "two"),
        (4, "three"),
    ]
    assert reasons(loaded) == [(3, "invalid_utf8")]
