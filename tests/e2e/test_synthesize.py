"""From a document to training rows: written by a server, or by a model of the user's own on this machine."""

import json

import pytest

from tests.e2e.conftest import rows_of, settings
from tests.serving import Server
from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.cli.synthesize import command
from tunewright.core.errors import ConfigError
from tunewright.data.load import load
from tunewright.data.synthetic import prompts
from tunewright.data.synthetic.mark import read_mark
from tunewright.data.synthetic.passages import documents_of, passages_of
from tunewright.run.train import train

LAMPS = {"harbour": "nine", "mill": "eleven"}
PASSAGES = {
    place: f"The lamp of the {place} shines for {hours} hours. The keeper of the {place} lights it at dusk."
    " Guests may climb its stairs by day."
    for place, hours in LAMPS.items()
}


def reply(place):
    pair = {"question": f"How long does the {place} lamp shine?", "answer": f"For {LAMPS[place]} hours."}
    return json.dumps({"pairs": [pair]})


@pytest.fixture
def manual(tmp_path):
    path = tmp_path / "manual.md"
    path.write_text("\n\n".join(PASSAGES.values()) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.answer = lambda body: (
        200,
        reply("mill" if "mill" in body["messages"][1]["content"] else "harbour"),
    )
    yield server
    server.stop()


def asked(manual, out, capsys, **options):
    command([manual], out, {"making": "questions", "passage": 200, **options}, True)
    return json.loads(capsys.readouterr().out)


def test_rows_from_a_server_train_and_never_judge(server, manual, tiny, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WRITER_KEY", "sk-1")
    out = tmp_path / "made"
    receipt = asked(manual, out, capsys, model="m", url=server.url, key_env="WRITER_KEY")
    assert receipt["rows"] == 2 and receipt["server"] == server.url
    mix = "data.mix=" + json.dumps({str(out / "rows.jsonl"): 0.3})
    run = train(settings(tiny, data, tmp_path / "run", mix, "train.max_steps=2"))
    facts = json.loads((run.path / "data" / "receipt.json").read_text())
    [source] = facts["mix"]["sources"]
    assert (source["rows"], source["synthetic"]) == (2, 2)
    made = [row for row in rows_of(run.path / "data" / "train.jsonl") if "synthetic" in row["meta"]]
    assert [row["meta"]["source"] for row in made] == [str(manual)] * 2
    for side in ("validation", "test"):
        assert not any("synthetic" in row["meta"] for row in rows_of(run.path / "data" / f"{side}.jsonl"))


def test_synthetic_rows_alone_are_trained_on_and_not_split(server, manual, tiny, tmp_path, capsys):
    out = tmp_path / "made"
    asked(manual, out, capsys, model="m", url=server.url)
    run = train(settings(tiny, out / "rows.jsonl", tmp_path / "run", "train.max_steps=1"))
    assert run.result["counts"]["train"] == 2 and run.result["counts"]["test"] == 0
    assert any("nothing will be proven" in warning for warning in run.result["warnings"])


def test_a_model_on_this_machine_writes(manual, tmp_path, capsys):
    """A tiny model is taught to answer requests, as any model may be, and then asked."""
    base = tmp_path / "base"
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    [document] = documents_of(str(manual))
    passages = list(passages_of(document, 200))
    assert [p.text for p in passages] == list(PASSAGES.values())
    lessons = [
        {
            "messages": [
                *prompts.request("questions", p.text, 3),
                {"role": "assistant", "content": reply(place)},
            ]
        }
        for p, place in zip(passages, LAMPS, strict=True)
    ]
    file = tmp_path / "lessons.jsonl"
    file.write_text("".join(json.dumps(lesson) + "\n" for lesson in lessons), encoding="utf-8")
    words = (
        "adapt.method=full",
        "model.dtype=float32",
        "train.epochs=60",
        "train.learning_rate=0.005",
        "data.split.validation=0",
        "data.split.test=0",
    )
    run = train(settings(base, file, tmp_path / "writer", *words))
    receipt = asked(manual, tmp_path / "made", capsys, model=str(run.path), temperature=0, max_new_tokens=150)
    assert receipt["server"] == "this machine" and receipt["replies_whose_tokens_are_estimated"] == 0
    rows = load([tmp_path / "made" / "rows.jsonl"]).examples
    text = manual.read_text(encoding="utf-8")
    assert [r.messages[1].content for r in rows] == ["For nine hours.", "For eleven hours."]
    marks = [read_mark(row.meta.synthetic) for row in rows]
    assert [text[m.start : m.end] for m in marks] == list(PASSAGES.values())


def test_what_people_read(server, manual, tmp_path, capsys):
    command(
        [manual],
        tmp_path / "made",
        {"making": "questions", "model": "m", "passage": 200, "url": server.url},
        False,
    )
    said = capsys.readouterr().out
    assert "2 of 2 requests answered in 2 replies, 0 of them malformed" in said
    assert f"2 {tmp_path / 'made' / 'rows.jsonl'}" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_env": "NO_SUCH_KEY", "url": "http://h/v1"}, "environment variable NO_SUCH_KEY is not set"),
        ({"url": "ftp://h"}, "url: `url` must start with http"),
        ({"url": "http://me:hidden@h/v1"}, "give the key with key_env"),
        ({"max_requests": 0}, "max_requests: Input should be greater"),
    ],
)
def test_wrong_options(manual, tmp_path, options, message):
    with pytest.raises(ConfigError) as caught:
        command([manual], tmp_path / "made", {"making": "questions", "model": "m", **options}, True)
    assert message in str(caught.value) and "hidden" not in str(caught.value)
    assert not (tmp_path / "made").exists()
