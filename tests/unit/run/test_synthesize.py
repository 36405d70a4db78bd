"""Rows from a model: nothing asked twice, nothing lost, every reply accounted for, no key anywhere."""

import json
import re
from pathlib import Path

import pytest

from tests.serving import Server
from tunewright.core import endpoint
from tunewright.core.config import build
from tunewright.core.endpoint import Endpoint
from tunewright.core.errors import ConfigError, DataError, RunError
from tunewright.core.events import Warned
from tunewright.data.canonical import to_jsonl
from tunewright.data.load import load
from tunewright.data.synthetic.mark import read_mark
from tunewright.run.synthesize import Budget, Inputs, SynthesisSettings, synthesize
from tunewright.run.writers import ServerWriter

PLACES = ("harbour", "tower", "mill", "bridge", "market", "chapel", "quarry", "orchard", "library", "station")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.answer = answers
    yield server
    server.stop()


@pytest.fixture
def manual(tmp_path):
    """Ten paragraphs, each a passage."""
    file = tmp_path / "manual.md"
    paragraphs = [
        f"The lamp of the {place} shines for {i + 2} hours every night. Its keeper lights it at the sound"
        f" of the bell, and the {place} stays open to all guests until the lamp is put out by the keeper."
        for i, place in enumerate(PLACES)
    ]
    file.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    return str(file)


def material(body):
    return body["messages"][1]["content"].split("\n", 1)[1].rpartition("\n")[0]


def pairs(text):
    place, hours = re.search(r"lamp of the (\w+) shines for (\d+)", text).groups()
    good = {
        "question": f"How long does the lamp of the {place} shine?",
        "answer": f"It shines for {hours} hours.",
    }
    wrong = {"question": f"Is the {place} locked?", "answer": "Nobody knows whether gates were welded shut."}
    return json.dumps({"pairs": [good, wrong]})


def answers(body):
    return 200, pairs(material(body))


def settings(making="questions", **more):
    return build(SynthesisSettings, {"making": making, "model": "m", "passage": 260, **more})


def make(server, files, out, making="questions", *, key="", retries=0, inputs=None, budget=None, **more):
    writer = ServerWriter(Endpoint(server.url, key, retries=retries))
    seen = []
    receipt = synthesize(
        Inputs([files] if isinstance(files, str) else files, **(inputs or {})),
        settings(making, **more),
        writer,
        out,
        budget=build(Budget, budget or {}),
        observe=seen.append,
    )
    return receipt, [e.message for e in seen if isinstance(e, Warned)]


def test_questions_with_their_passages_and_the_account(server, manual, tmp_path):
    out = tmp_path / "out"
    receipt, _ = make(server, manual, out)
    rows = load([out / "rows.jsonl"]).examples
    text = Path(manual).read_text(encoding="utf-8")
    assert len(rows) == receipt["rows"] == 10
    for row, place in zip(rows, PLACES, strict=True):
        mark = read_mark(row.meta.synthetic)
        passage = text[mark.start : mark.end]
        assert passage.startswith(f"The lamp of the {place}") and passage.endswith("keeper.")
        assert (row.meta.source, row.meta.line) == (manual, 1 + text[: mark.start].count("\n"))
        assert place in row.messages[0].content and mark.model == "m"
    assert receipt["left_out"] == {"unsupported": 10}
    assert (receipt["asks"], receipt["answered"], receipt["replies"]) == (10, 10, 10)
    assert (receipt["not_asked"], receipt["stopped"], receipt["malformed_replies"]) == (0, None, 0)
    assert receipt["replies_whose_tokens_are_estimated"] == 10 and receipt["tokens"] > 100
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_bytes().splitlines()]
    assert {line["reason"] for line in lines} == {"unsupported"} and len(lines) == 10
    assert json.loads((out / "receipt.json").read_text()) == receipt
    body = server.requests[0][2]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0.7, 800, 0)


def test_the_same_replies_give_the_same_bytes(server, manual, tmp_path):
    for name in ("a", "b"):
        make(server, manual, tmp_path / name)
    for name in ("rows.jsonl", "rejected.jsonl", "receipt.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_crash_loses_no_reply(server, manual, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    make(server, manual, whole)
    server.requests.clear()

    def down(body):
        return answers(body) if "library" not in str(body) else (503, b"down")

    server.answer = down
    with pytest.raises(
        RunError, match=r"fails: HTTP 503: down\. 9 replies are kept; give the same command again"
    ):
        make(server, manual, cut)
    kept = (cut / "replies.jsonl").read_bytes()
    (cut / "replies.jsonl").write_bytes(kept + b'{"request": "half')  # a line that was being written
    server.answer, server.requests[:] = answers, []
    receipt, _ = make(server, manual, cut)
    assert len(server.requests) == 1
    assert receipt == json.loads((whole / "receipt.json").read_text())
    assert (cut / "rows.jsonl").read_bytes() == (whole / "rows.jsonl").read_bytes()
    server.requests.clear()
    make(server, manual, cut)
    assert not server.requests


def test_damaged_replies_are_no_surprise(server, manual, tmp_path):
    make(server, manual, tmp_path / "out")
    (tmp_path / "out" / "replies.jsonl").write_text("nonsense\n")
    with pytest.raises(RunError, match="is damaged; delete it"):
        make(server, manual, tmp_path / "out")


def test_a_budget_of_requests(server, manual, tmp_path):
    out = tmp_path / "out"
    receipt, warned = make(server, manual, out, budget={"max_requests": 3})
    assert len(server.requests) == 3 and receipt["rows"] == 3
    assert (receipt["stopped"], receipt["not_asked"]) == ("max_requests 3", 7)
    assert warned == ["the budget is used up (max_requests 3): raise it to go on"]
    make(server, manual, out, budget={"max_requests": 3})
    assert len(server.requests) == 3  # it is one for the whole job
    receipt, warned = make(server, manual, out, budget={"max_requests": 10})
    assert len(server.requests) == 10 and receipt["rows"] == 10
    assert (receipt["stopped"], warned) == (None, [])


def test_a_budget_of_tokens(server, manual, tmp_path):
    reply = {"choices": [{"message": {"content": ""}}], "usage": {"total_tokens": 100}}

    def counted(body):
        reply["choices"][0]["message"]["content"] = pairs(material(body))
        return 200, json.dumps(reply).encode()

    server.answer = counted
    writer = ServerWriter(Endpoint(server.url), at_once=1)
    receipt = synthesize(
        Inputs([manual]), settings(), writer, tmp_path / "out", budget=Budget(max_tokens=250)
    )
    assert (receipt["tokens"], receipt["replies"], receipt["stopped"]) == (300, 3, "max_tokens 250")
    assert receipt["replies_whose_tokens_are_estimated"] == 0


def test_malformed_replies_are_asked_for_again_and_counted(server, manual, tmp_path):
    tries = []

    def moody(body):
        text = material(body)
        tries.append((text[16:22], body["seed"], body["temperature"]))
        if "tower" in text:
            return 200, "I would rather not."
        return answers(body) if "mill" not in text or body["seed"] == 6 else (200, '{"pairs": []}')

    server.answer = moody
    receipt, _ = make(server, manual, tmp_path / "out", temperature=0, seed=5)
    assert receipt["rows"] == 9 and receipt["malformed_replies"] == 4 and receipt["replies"] == 13
    assert receipt["left_out"] == {"malformed": 1, "unsupported": 9}
    lines = [json.loads(x) for x in (tmp_path / "out" / "rejected.jsonl").read_bytes().splitlines()]
    assert {"source": manual, "line": 3, "reason": "malformed", "detail": "it is no JSON"} in lines
    assert sorted(t[1:] for t in tries if t[0] == "tower ") == [(5, 0), (6, 0.7), (7, 0.7)]


def test_a_request_that_is_refused_does_not_stop_the_others(server, manual, tmp_path):
    server.answer = lambda body: (400, b"too long") if "mill" in material(body) else answers(body)
    receipt, _ = make(server, manual, tmp_path / "out")
    assert receipt["rows"] == 9 and receipt["left_out"]["refused"] == 1


def test_a_server_that_refuses_everything_stops_it(server, manual, tmp_path):
    server.answer = lambda body: (400, b"unknown model m")
    with pytest.raises(RunError, match="HTTP 400: unknown model m"):
        make(server, manual, tmp_path / "out")
    assert len(server.requests) <= endpoint.PARALLEL


def test_the_key_stands_nowhere(server, manual, tmp_path):
    out = tmp_path / "out"
    server.answer = lambda body: (401, b"bad key sk-secret-1")
    with pytest.raises(RunError) as caught:
        make(server, manual, out, key="sk-secret-1")
    assert "sk-secret" not in str(caught.value) and "(the key)" in str(caught.value)
    server.answer = answers
    make(server, manual, out, key="sk-secret-1")
    assert server.requests[-1][1]["Authorization"] == "Bearer sk-secret-1"
    assert len(list(out.iterdir())) == 5
    for file in out.iterdir():
        assert b"sk-secret" not in file.read_bytes(), file


def test_a_directory_is_one_job(server, manual, tmp_path):
    out = tmp_path / "out"
    make(server, manual, out)
    for change in ({"seed": 1}, {"count": 2}, {"inputs": {"test": [manual]}}):
        with pytest.raises(RunError, match="holds a job of other settings, files or server"):
            make(server, manual, out, **change)
    with open(manual, "a", encoding="utf-8") as f:
        f.write("More.\n")
    with pytest.raises(RunError, match="holds a job of other settings"):
        make(server, manual, out)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    with pytest.raises(RunError, match="is not empty"):
        make(server, manual, tmp_path / "used")


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_paraphrases_leave_the_test_alone(server, tmp_path):
    rows = [{"prompt": f"How do I get to the {p}?", "completion": f"By the {p} road."} for p in PLACES]
    train = put(tmp_path / "train.jsonl", rows)
    test = put(
        tmp_path / "test.jsonl", [rows[2], {"prompt": "Where may I find the bridge?", "completion": "x"}]
    )

    def reworded(body):
        place = re.search(r"to the (\w+)\?", material(body))[1]
        texts = [f"Where may I find the {place}?", f"Which way leads me to get to the {place}?"]
        return 200, json.dumps({"paraphrases": texts})

    server.answer = reworded
    receipt, _ = make(server, train, tmp_path / "out", "paraphrases", inputs={"test": [test]})
    asked = {material(body) for _, _, body in server.requests}
    assert "How do I get to the mill?" not in asked and len(asked) == 9
    assert receipt["left_out"] == {"asks_test": 1, "copies_test": 1} and receipt["rows"] == 17
    made = load([tmp_path / "out" / "rows.jsonl"]).examples
    assert {e.meta.source for e in made} == {train}
    assert made[0].messages[1].content == "By the harbour road."


def test_real_rows_are_not_made_again(server, manual, tmp_path):
    real = put(
        tmp_path / "real.jsonl", [{"prompt": "how long does the lamp of the MILL shine?", "completion": "x"}]
    )
    receipt, _ = make(server, manual, tmp_path / "out", inputs={"real": [real]})
    assert receipt["left_out"]["duplicate"] == 1 and receipt["rows"] == 9


def test_near_duplicates_where_somebody_looks_for_them(server, manual, tmp_path):
    writer = ServerWriter(Endpoint(server.url))
    receipt = synthesize(
        Inputs([manual]), settings(), writer, tmp_path / "out", similar=lambda texts: [0] * len(texts)
    )
    assert receipt["rows"] == 1 and receipt["left_out"]["near_duplicate"] == 9
    assert receipt["near_duplicates"] == "looked for"


def test_negatives_can_be_read_as_pairs(server, tmp_path):
    rows = [
        {"prompt": f"Is the {p} open?", "completion": f"Yes, until {i + 2}."} for i, p in enumerate(PLACES)
    ]
    train = put(tmp_path / "train.jsonl", rows)
    server.answer = lambda body: (200, json.dumps({"answer": "No, never on Sundays.", "flaw": "wrong"}))
    receipt, _ = make(server, train, tmp_path / "out", "negatives")
    made = load([tmp_path / "out" / "rows.jsonl"])
    assert receipt["rows"] == len(made.examples) == 10 and made.files[0].format == "preference"
    assert to_jsonl(made.examples) == (tmp_path / "out" / "rows.jsonl").read_bytes()


def test_inputs_without_anything_to_ask_for(server, tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("Too short.\n")
    with pytest.raises(DataError, match=r"nothing to ask for in .*short\.txt: 1 short_passage"):
        make(server, str(file), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"making": "poems"}, "making: Input should be 'questions', 'paraphrases' or 'negatives'"),
        ({"pasage": 300}, "unknown setting 'pasage'. Did you mean 'passage'?"),
        ({"count": 0}, "count: Input should be greater than or equal to 1"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(ConfigError) as caught:
        settings(**change)
    assert message in str(caught.value)
