"""`data prepare` and `data review` as a user meets them: personal data, decisions, files that mean harm."""

import gzip
import json
import os

import pytest

from tests.e2e.conftest import pairs, rows_of, write_messages

MAIL, CARD, UNSURE = "jane.roe@mail.example.org", "4111 1111 1111 1111", "10.1.2.3"


@pytest.fixture(autouse=True)
def own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))


@pytest.fixture
def letters(tmp_path):
    """Rows with personal data: two values that are sure, and one in two rows that may be an IP address."""
    rows = [(f"{q} Write to {MAIL}.", f"{a} paid with card {CARD}") for q, a in pairs(20)]
    rows += [(f"{q} {UNSURE}", a) for q, a in pairs(22)[20:]]
    return write_messages(tmp_path / "letters.jsonl", rows)


def everything(directory):
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_values_are_masked_and_stand_nowhere(tw, tmp_path, letters):
    said = tw("data", "prepare", letters, "--out", tmp_path / "out")
    assert said.status == 0, said.err
    written = everything(tmp_path / "out")
    for value in (MAIL, CARD, CARD.replace(" ", "")):
        assert value.encode() not in written and value not in said.out + said.err
    assert written.count(b"[EMAIL]") == 20 and written.count(b"[CREDIT_CARD]") == 20
    first = rows_of(tmp_path / "out" / "redactions.jsonl")[0]
    raw = json.loads(letters.read_text().splitlines()[first["line"] - 1])
    assert first["field"] == "messages[0].content" and first["action"] == "mask"
    assert raw["messages"][0]["content"][first["start"] : first["end"]] == MAIL
    assert "EMAIL: 20 mask" in said.out and "1 value(s) may be personal" in said.out
    assert not (tmp_path / "out" / ".work").exists()


def test_pseudonyms_are_the_same_throughout_and_depend_on_the_key(tw, tmp_path, letters, monkeypatch):
    words = ("data", "prepare", letters, "--redact", "pseudonym", "--out")
    for name in ("one", "two"):
        assert tw(*words, tmp_path / name).status == 0
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    rows = [
        row for side in ("train", "validation", "test") for row in rows_of(tmp_path / "one" / f"{side}.jsonl")
    ]
    mails = {word for row in rows for word in row["messages"][0]["content"].split() if "@" in word}
    assert len(mails) == 1 and not any(MAIL in mail for mail in mails)
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "other"))
    assert tw(*words, tmp_path / "three").status == 0
    assert mails.pop().encode() not in everything(tmp_path / "three")


def test_what_is_uncertain_is_asked_decided_and_applied(tw, tmp_path, letters):
    out = tmp_path / "out"
    assert tw("data", "prepare", letters, "--out", out).status == 0
    assert UNSURE.encode() in b"".join(
        (out / f"{side}.jsonl").read_bytes() for side in ("train", "validation", "test")
    )
    listed = tw("data", "review", out, "--list", "--json").json
    [value] = listed["values"]
    assert listed["open"] == 1 and value["type"] == "IP_ADDRESS" and len(value["places"]) == 2
    assert UNSURE not in json.dumps(listed)
    assert "no question has the id" in tw("data", "review", out, "--decide", "x=mask").err
    assert tw("data", "review", out, "--decide", f"{value['id']}=mask").status == 0
    assert tw("data", "review", out, "--list", "--json").json["open"] == 0
    again = tw("data", "review", out, "--apply", tmp_path / "again")
    assert again.status == 0, again.err
    assert UNSURE.encode() not in everything(tmp_path / "again")
    assert (
        len([r for r in rows_of(tmp_path / "again" / "redactions.jsonl") if r["type"] == "IP_ADDRESS"]) == 2
    )
    assert not rows_of(tmp_path / "again" / "review.jsonl")
    third = tw("data", "review", tmp_path / "again", "--apply", tmp_path / "third")
    assert third.status == 0 and UNSURE.encode() not in everything(tmp_path / "third")  # still remembered
    mixed = tw("data", "review", out, "--apply", tmp_path / "mixed", "--list")
    assert mixed.status == 2 and "--apply" in mixed.err and not (tmp_path / "mixed").exists()
    lost = tw("data", "prepare", letters, "--out", tmp_path / "lost", "--decisions", tmp_path / "nowhere")
    assert lost.status == 2 and "nowhere is no directory" in lost.err
    assert tw("data", "review", tmp_path / "home").status == 2


def test_steps_can_be_switched_off_and_set(tw, tmp_path, letters):
    words = ("--redact", "off", "--no-clean", "--near", "off", "--known", "off")
    assert tw("data", "prepare", letters, "--out", tmp_path / "off", *words).status == 0
    assert MAIL.encode() in everything(tmp_path / "off")
    assert not (tmp_path / "off" / "redactions.jsonl").exists()
    kept = tw(
        "data", "prepare", letters, "--out", tmp_path / "set", "--set", "redact.types={EMAIL: keep}", "--json"
    )
    assert kept.json["personal_data"]["found"]["EMAIL"] == {"keep": 20}
    wrong = tw("data", "prepare", letters, "--out", tmp_path / "no", "--set", "compare.treshold=0.9")
    assert wrong.status == 2 and "threshold" in wrong.err
    for word, said in (
        (("--near", "maybe"), "near"),
        (("--benchmark", "x"), "NAME=FILE"),
        (("--names", "all"), "names"),
    ):
        bad = tw("data", "prepare", letters, "--out", tmp_path / "no", *word)
        assert bad.status == 2 and said in bad.err


def test_ids_and_groups_that_name_people_are_not_written(tw, tmp_path):
    rows = [
        {"prompt": q, "completion": a, "who": f"{'ab'[i % 2]}.roe@mail.example.org", "id": MAIL}
        for i, (q, a) in enumerate(pairs(24))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        tw("data", "prepare", file, "--out", tmp_path / "out", "--group", "who").status == 2
    )  # two groups, three sides
    assert (
        tw("data", "prepare", file, "--out", tmp_path / "out", "--group", "who", "--validation", 0).status
        == 0
    )
    assert b"example.org" not in everything(tmp_path / "out")
    groups = {
        row["meta"]["group"]
        for side in ("train", "test")
        for row in rows_of(tmp_path / "out" / f"{side}.jsonl")
    }
    assert len(groups) == 2


HOSTILE = {
    "utf16.jsonl": '{"prompt": "a", "completion": "b"}\n'.encode("utf-16"),
    "binary.jsonl": bytes(range(256)) * 40,
    "empty.jsonl": b"",
    "zeros.txt": b"\0" * 100_000,
    "bomb.jsonl.gz": gzip.compress(b'{"prompt": "a", "completion": "b"}' + b" " * 200_000_000),
    "cut.jsonl.gz": gzip.compress(os.urandom(5000))[:3000],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_cannot_be_read_are_refused_in_words(tw, tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    said = tw("data", "prepare", tmp_path / name, "--out", tmp_path / "out")
    assert said.status == 2 and name in said.err and len(said.err) < 600
    assert not (tmp_path / "out" / "receipt.json").exists()


def test_rows_that_mean_harm_cost_only_themselves(tw, tmp_path):
    bad = {
        "broken_json": b'{"prompt": "a", "completion": "b"',
        "too_deep": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "over_long": b'{"prompt": "' + b"x" * 100_000_000 + b'", "completion": "b"}',
        "invalid_utf8": '{"prompt": "é", "completion": "b"}'.encode("latin-1"),
        "duplicate_key": b'{"prompt": "a", "prompt": "c", "completion": "b"}',
        "big_number": b'{"prompt": ' + b"9" * 5000 + b', "completion": "b"}',
        "lone_surrogate": b'{"prompt": "\\ud800", "completion": "b"}',
    }
    good = [json.dumps({"prompt": q, "completion": a}).encode() for q, a in pairs(20)]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*good, *bad.values()]) + b"\n")
    said = tw("data", "prepare", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    assert said.status == 0, said.err
    rejected = {row["line"]: row["reason"] for row in rows_of(tmp_path / "out" / "rejected.jsonl")}
    assert rejected == {21 + i: reason for i, reason in enumerate(bad)}


def test_a_run_prepares_its_rows_as_its_recipe_asks(tw, tiny, tmp_path, letters):
    words = (
        *("data.prepare.clean={}", "data.prepare.redact={action: mask}", "data.prepare.compare.near=group"),
        *(
            "train.max_steps=2",
            "evaluate.max_new_tokens=4",
            "data.split.validation=0.2",
            "data.split.test=0.2",
        ),
    )
    out = tmp_path / "run"
    said = tw("train", "--model", tiny, "--data", letters, "--out", out, *words)
    assert said.status == 0, said.err
    written = everything(out)
    assert MAIL.encode() not in written and b"[EMAIL]" in written
    receipt = json.loads((out / "data" / "receipt.json").read_text())
    assert [step["step"] for step in receipt["steps"]][:3] == ["read", "redact", "clean"]
    assert receipt["split_proof"]["near_duplicate_pairs_on_two_sides"] == 0
    assert len(rows_of(out / "data" / "redactions.jsonl")) == 40
    assert "data.prepare" not in tw("plan", out / "recipe.yaml").err
    (out / "result.json").unlink()
    assert tw("resume", out).status == 0


def test_a_preparation_that_stopped_while_it_wrote_goes_on(tw, tmp_path, letters):
    out = tmp_path / "out"
    assert tw("data", "prepare", letters, "--out", out).status == 0
    whole = everything(out)
    (out / "receipt.json").unlink()
    assert tw("data", "prepare", letters, "--out", out).status == 2  # somebody's files
    (out / ".work").mkdir()
    assert tw("data", "prepare", letters, "--out", out).status == 0
    assert everything(out) == whole


def test_what_would_be_looked_for_in_vain_is_refused(tw, tmp_path, letters):
    (tmp_path / "noise.bin").write_bytes(bytes(range(128, 256)) * 20)
    words = ("--benchmark", f"exam={tmp_path / 'noise.bin'}", "--out", tmp_path / "out")
    told = tw("data", "prepare", letters, *words)
    assert told.status == 2 and "noise.bin" in told.err
    (tmp_path / "old").mkdir()
    for text in ("{", "[]", '{"settings": {}, "files": [{"used_for": "x", "path": "y"}]}'):
        (tmp_path / "old" / "receipt.json").write_text(text)
        told = tw("data", "review", tmp_path / "old", "--apply", tmp_path / "new")
        assert told.status == 2 and "damaged" in told.err


def test_decisions_are_applied_to_the_same_files_alone(tw, tmp_path, letters, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tw("data", "prepare", letters.name, "--out", "out").status == 0
    monkeypatch.chdir(tmp_path / "out")
    moved = tw("data", "review", ".", "--apply", "../again")
    assert moved.status == 2 and "where the command was given" in moved.err
    monkeypatch.chdir(tmp_path)
    letters.write_text(letters.read_text() + "\n")
    changed = tw("data", "review", "out", "--apply", "again")
    assert changed.status == 2 and "has changed since out was prepared" in changed.err


def test_a_key_that_is_named_must_be_there(tw, tmp_path, letters):
    words = (
        "data",
        "prepare",
        letters,
        "--out",
        tmp_path / "out",
        "--set",
        f"redact.key_file={tmp_path / 'k'}",
    )
    said = tw(*words)
    assert said.status == 2 and "no such key" in said.err and not (tmp_path / "k").exists()


def test_a_row_cannot_say_a_name_where_it_comes_from(tw, tmp_path):
    rows = [
        {"prompt": q, "completion": a, "meta": {"source": f"from {MAIL}", "line": 7}} for q, a in pairs(20)
    ]
    rows[3]["meta"]["line"] = -5  # not what preparing writes: no meta of ours
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tw("data", "prepare", tmp_path / "rows.jsonl", "--out", tmp_path / "out").status == 0
    assert MAIL.encode() not in everything(tmp_path / "out")
    lines = [
        row["meta"]["line"]
        for side in ("train", "validation", "test")
        for row in rows_of(tmp_path / "out" / f"{side}.jsonl")
    ]
    assert sorted(lines) == [4, *[7] * 19]
