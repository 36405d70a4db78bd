"""The other commands: chat, plan, init, runs, data prepare and check; and what goes to stdout."""

import io
import json
import subprocess
import sys

import pytest
import yaml

from tests.e2e.conftest import QUICK, pairs, rows_of, write_messages
from tunewright.cli import commands


@pytest.fixture
def says(monkeypatch):
    """Put lines on stdin."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))


def test_chat_answers_base_adapter_and_run(tw, tiny, lora, says):
    answers = []
    for model in (tiny, lora.path / "adapter", lora.path):
        says("red box?", "and blue car?")
        said = tw("chat", model, "--max-new-tokens", 6)
        assert said.status == 0, said.err
        answers.append(said.out)
    assert answers[1] == answers[2] != answers[0]
    assert all(answer.count("\n") >= 2 for answer in answers)


def test_ctrl_c_ends_an_answer_not_the_chat(tw, tiny, says, monkeypatch):
    real = commands.stream

    def interrupted(*args):
        pieces = real(*args)
        yield next(pieces, "x")
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "stream", interrupted)
    says("one?", "two?")
    said = tw("chat", tiny, "--max-new-tokens", 4)
    assert said.status == 0
    assert said.err.count("(interrupted)") == 2


def test_the_last_line_of_train_is_the_run_directory(tw, tiny, data, tmp_path):
    out = tmp_path / "run"
    words = (*QUICK, "train.max_steps=1")
    said = tw("train", "--model", tiny, "--data", data, "--out", out, *words)
    assert said.out.splitlines()[-1] == str(out)
    assert "step 1/1" in said.err and "step 1/1" not in said.out
    assert [r["verdict"] for r in tw("runs", tmp_path, "--json").json] == ["CAN'T TELL"]


def test_json_is_one_document_in_a_process_of_its_own(tiny, data, tmp_path):
    words = [*QUICK, "train.max_steps=1", "evaluate.baselines=[]"]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from tunewright.cli.main import main; main()",
            *("train", "--model", tiny, "--data", data, "--out", tmp_path / "run", "--json"),
            *words,
        ],
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["status"] == "finished"
    assert b"Traceback" not in done.stderr


def test_plan_writes_nothing_and_trains_nothing(tw, tiny, data, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {tiny}\ndata: {{train: {data}}}\noutput: {tmp_path / 'run'}\n")
    said = tw("plan", recipe, "train.tokens_per_step=256", "--json")
    assert said.status == 0, said.err
    assert not (tmp_path / "run").exists()
    plan = said.json
    assert sum(plan["rows"].values()) == 40
    sources = {s["name"]: s["source"] for s in plan["settings"]}
    assert sources["train.tokens_per_step"] == "command line" and sources["model.name"] == "recipe"
    assert sources["train.learning_rate"].startswith("auto: ")
    left = {s["name"] for s in plan["settings"] if s["value"] == "auto"}
    assert left == {"evaluate.batch_size"}  # by the memory that is free whenever answers are written
    assert f"run directory   {tmp_path / 'run'}" in tw("plan", recipe).out
    counts = tw("train", recipe, "train.tokens_per_step=256", "train.stop.patience=0", "--json").json[
        "counts"
    ]
    assert (plan["steps"], plan["tokens"]) == (counts["steps"], counts["tokens_trained"])
    assert plan["rows"] == {name: counts[name] for name in plan["rows"]}


def test_init_writes_a_recipe_that_can_be_read(tw, tmp_path):
    said = tw("init", tmp_path / "new")
    assert said.status == 0
    assert yaml.safe_load((tmp_path / "new" / "recipe.yaml").read_text())["data"]["train"] == "tickets.jsonl"
    assert tw("init", tmp_path / "new").status == 2


def test_data_prepare_accounts_for_every_row(tw, tmp_path):
    file, out = tmp_path / "rows.jsonl", tmp_path / "prepared"
    write_messages(file, [*pairs(30), pairs(1)[0]])
    with file.open("a") as f:
        f.write("not json\n")
    said = tw("data", "prepare", file, "--out", out, "--validation", 0.2, "--test", 0.2)
    assert said.status == 0, said.err
    sides = {side: len(rows_of(out / f"{side}.jsonl")) for side in ("train", "validation", "test")}
    assert sum(sides.values()) == 30 and min(sides.values()) > 0
    assert said.out.splitlines()[0] == "32 rows read, 30 kept, 2 left out"
    for side, count in sides.items():
        assert f"{count} {out / side}.jsonl" in said.out
    assert {row["reason"] for row in rows_of(out / "rejected.jsonl")} == {"duplicate", "broken_json"}
    assert tw("data", "prepare", file, "--out", out).status == 2
    again = tw("data", "prepare", file, "--out", tmp_path / "again", "--test", 0.2, "--json", "--seed", 1)
    assert again.json["splits"]["test"]["rows"] > 0
    bad = tw("data", "prepare", file, "--out", tmp_path / "bad", "--test", 0.95)
    assert bad.status == 2 and "leave nothing to train on" in bad.err


def test_data_prepare_keeps_groups_together(tw, tmp_path):
    file, out = tmp_path / "rows.jsonl", tmp_path / "prepared"
    rows = [{"prompt": q, "completion": a, "who": f"w{i % 6}"} for i, (q, a) in enumerate(pairs(36))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tw("data", "prepare", file, "--out", out, "--group", "who", "--test", 0.3).status == 0
    seen = {
        side: {row["meta"]["group"] for row in rows_of(out / f"{side}.jsonl")}
        for side in ("train", "validation", "test")
    }
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
    assert set.union(*seen.values()) == {f"w{i}" for i in range(6)}


def test_data_check_takes_format_and_group(tw, tmp_path):
    file = write_messages(tmp_path / "rows.jsonl", pairs(5))
    assert tw("data", "check", file, "--format", "messages", "--group", "who", "--json").json["usable"]
    wrong = tw("data", "check", file, "--format", "alpaca")
    assert wrong.status == 1 and "5" in wrong.out
    assert "Did you mean" in tw("data", "check", file, "--format", "mesages").err


def test_data_show_says_what_it_passed_over(tw, tiny, tmp_path):
    file = write_messages(tmp_path / "rows.jsonl", pairs(2))
    file.write_text("not json\n" + file.read_text() + "[]\n")
    said = tw("data", "show", file, "--model", tiny, "-n", 3, "--json")
    assert said.status == 0 and len(said.json) == 2
    assert f"2 unusable row(s) passed over, the first at {file}:1: broken_json" in said.err
    assert "1 unusable row(s)" in tw("data", "show", file, "--model", tiny, "-n", 1).err


def test_cut_answers_and_drawn_rows_are_said(tw, tiny, data):
    said = tw("eval", tiny, "--data", data, "--rows", 5, "--metric", "exact_match")
    assert "5 of 40 rows are scored, a seeded draw" in said.err
    number = tw("eval", tiny, "--data", data, "--rows", 5, "--metric", "exact_match", "--json").json
    assert number["n"] == 5 and number["unfinished"] > 0  # a random model never stops by itself
    assert f"{number['unfinished']} answers were cut before they ended" in said.out
    assert f"{number['unfinished']} of 5 answers were cut" in said.err


def test_compare_says_whose_answers_were_cut(tw, tiny, lora, data):
    words = ("--data", data, "--rows", 5, "--metric", "exact_match")
    found = tw("compare", tiny, lora.path, *words, "--json").json["unfinished"]
    assert list(found) == [str(tiny), str(lora.path)] and found[str(tiny)] > 0
    assert (
        f"{found[str(tiny)]} answers of {tiny} were cut before they ended"
        in tw("compare", tiny, lora.path, *words).out
    )


def test_references_longer_than_an_answer_may_be_are_counted(tw, tiny, data, tmp_path):
    words = (*QUICK, "evaluate.max_new_tokens=3", "train.max_steps=1", "evaluate.metrics=[exact_match]")
    said = tw("train", "--model", tiny, "--data", data, "--out", tmp_path / "run", "--json", *words)
    total = said.json["counts"]["test"]
    [warning] = [w for w in said.json["warnings"] if "cannot be matched" in w]
    assert f" of {total} references are longer than 3 tokens" in warning
    assert 0 < int(warning.split()[0]) <= total
