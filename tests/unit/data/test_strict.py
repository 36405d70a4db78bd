"""Strict JSON: every rule has a line that breaks it, and the fast path agrees with the slow one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data import strict
from tunewright.data.problems import BadRow
from tunewright.data.strict import MAX_DEPTH, elements, nesting, parse_json, without_controls


@pytest.mark.parametrize(
    ("raw", "reason", "detail"),
    [
        (b'{"a": "\xff"}', "invalid_utf8", "0xff at offset 7"),
        (b'{"a": 1, "a": 2}', "duplicate_key", "'a'"),
        (b'{"a" : 1, "a" : 2}', "duplicate_key", "'a'"),
        (b'{"x": {"b\\\\": 1, "b\\\\": 2}}', "duplicate_key", "b"),
        (b'{"a": 1, "b": "\\":", "a": 3}', "duplicate_key", "'a'"),
        (b'{"a" :1,"a":"x\\":"}', "duplicate_key", "'a'"),
        (b'{"a": NaN}', "not_finite", "NaN"),
        (b'{"a": -Infinity}', "not_finite", "-Infinity"),
        (b'{"a": 1e999}', "not_finite", "too large"),
        (b'{"a": 18446744073709551616}', "big_number", "20 digits"),
        (b'{"a": -9223372036854775809}', "big_number", "19 digits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "big_number", "5000 digits"),
        (b'{"a": "\\ud800"}', "lone_surrogate", ""),
        (b'{"\\udc00": 1}', "lone_surrogate", ""),
        (b'{"a": "unterm', "broken_json", "Unterminated string"),
        (b"{'a': 1}", "broken_json", "column 2"),
        (b'{"a": 1,}', "broken_json", ""),
        (b'{"a": 1} {"b": 2}', "broken_json", "Extra data"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "too_deep", "65 levels"),
        (b"[" * 200_000, "too_deep", "200000 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep", "100000 levels"),
    ],
)
def test_rejected(raw, reason, detail):
    with pytest.raises(BadRow) as caught:
        parse_json(raw)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": "x\\":1", "b": "say \\"hi\\": now"}',
        b'{"b\\\\": 1, "c" : 2}',
        b'{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1e300}',
        b'{"a": "\\ud83d\\ude00 \\u00e9"}',
        b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}",
        b'  {"a": [1, {"b": null}]} \r\n',
    ],
)
def test_clean_json_is_read_as_the_standard_library_reads_it(raw):
    assert parse_json(raw) == json.loads(raw)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES, st.booleans(), st.sampled_from([(", ", ": "), (",", ":"), (" ,", " :")]))
def test_any_value_survives(value, ascii_only, separators):
    raw = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    assert parse_json(raw.encode()) == value


KEYS = st.sampled_from(["a", 'a"', "a\\", 'a":', "b"])


@given(st.lists(st.tuples(KEYS, st.sampled_from([1, '":', '\\":', 'x":y', "\\"])), min_size=2, max_size=6))
def test_a_duplicate_key_is_found_whatever_stands_around_it(pairs):
    """The counting argument of the fast path, attacked with quotes, colons and backslashes."""
    raw = "{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in pairs) + "}"
    keys = [k for k, _ in pairs]
    if len(set(keys)) == len(keys):
        assert parse_json(raw.encode()) == dict(pairs)
    else:
        with pytest.raises(BadRow) as caught:
            parse_json(raw.encode())
        assert caught.value.reason == "duplicate_key"


def test_plain_rows_take_the_fast_path(monkeypatch):
    monkeypatch.setattr(strict, "_exact", lambda raw: pytest.fail("slow path"))
    row = {"messages": [{"role": "user", "content": 'He said "hi": then\n left'}], "n": 1.5, "k": [1, 2]}
    assert parse_json(json.dumps(row).encode()) == row


def test_depth_limit_is_exact():
    assert MAX_DEPTH == 64
    assert nesting(b'{"a": "[[[[", "b": [[1]]}') == 3


def test_elements_are_cut_at_top_level_commas_only():
    raw = b'[{"a": "1,]"}, [2, 3], 4]  '
    found = [(raw[b:e].strip(), state) for b, e, state in elements(raw, 0)]
    assert found == [(b'{"a": "1,]"}', "row"), (b"[2, 3]", "row"), (b"4", "row"), (b"", "end")]


@pytest.mark.parametrize("raw", [b'[{"a": 1}, {"b": ', b'[{"a": 1}, {"b": "x', b'[{"a": 1}, '])
def test_a_cut_array_is_noticed(raw):
    assert [state for *_, state in elements(raw, 0)] == ["row", "cut"]


def test_control_characters_are_removed_at_any_depth():
    value, count = without_controls({"a": "x\x00y\tz\n", "b": [{"c": "\x1b[0m\x7f"}], "d": 3})
    assert value == {"a": "xy\tz\n", "b": [{"c": "[0m"}], "d": 3}
    assert count == 3
