"""What judging takes from a run, and what an explicit wish overrides."""

import pytest

from tunewright.run.judging import Judging, Settled, settled


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "recipe.yaml").write_text(
        "model: {name: x, device: cpu, dtype: float32}\n"
        "data: {train: t, columns: {prompt: q, completion: a}, max_length: 99}\n"
        "train: {seed: 7, micro_tokens: 64}\n"
        "evaluate: {batch_size: 4, level: 0.9, metrics: [perplexity], max_new_tokens: 11}\n"
    )
    return path


def test_a_run_gives_what_was_not_asked_for(run):
    found = settled(Judging(), str(run), "new.jsonl")
    assert found.columns == {"prompt": "q", "completion": "a"} and found.device == "cpu"
    assert (found.batch_size, found.level, found.metrics, found.seed) == (4, 0.9, ("perplexity",), 7)
    assert (found.piece, found.micro_tokens, found.max_new_tokens, found.rows) == (99, 64, 11, None)


def test_a_wish_that_equals_the_default_is_kept(run):
    found = settled(Judging(batch_size=32, level=0.95, device="auto", seed=0), str(run), "new.jsonl")
    assert (found.batch_size, found.level, found.device, found.seed) == (32, 0.95, "auto", 0)


def test_columns_are_not_mapped_twice(run, tmp_path):
    (tmp_path / "receipt.json").write_text("{}")
    assert settled(Judging(), str(run), tmp_path / "test.jsonl").columns is None
    given = Judging(columns={"text": "b"})
    assert settled(given, str(run), tmp_path / "test.jsonl").columns == {"text": "b"}


def test_a_device_that_was_found_is_found_again(run):
    text = (run / "recipe.yaml").read_text().replace("device: cpu", "device: cuda")
    (run / "recipe.yaml").write_text(text)
    assert settled(Judging(), str(run), "x").device == "cuda"


def test_other_models_have_the_defaults(tmp_path):
    assert settled(Judging(), str(tmp_path), "x") == Settled()
