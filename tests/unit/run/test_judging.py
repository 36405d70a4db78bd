"""What judging takes from a run, and what an explicit wish overrides."""

import pytest

from tunewright.core.errors import ConfigError
from tunewright.run.judging import Judging, Settled, settled, settled_for_all


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


# --- several models


def learnt(path, rewards, objective="grpo"):
    path.mkdir()
    (path / "recipe.yaml").write_text(
        "model: {name: x, device: cpu}\n"
        f"objective: {{name: {objective}, rewards: {rewards}}}\n"
        "data: {train: t}\ntrain: {seed: 7}\n"
    )
    return str(path)


@pytest.mark.parametrize("turned", [False, True])
def test_a_run_from_rewards_says_how_all_are_scored_wherever_it_stands(tmp_path, run, turned):
    names = [learnt(tmp_path / "r", "[numeric]"), str(run)]
    found = settled_for_all(Judging(), names[::-1] if turned else names, "new.jsonl")
    assert found.rewarded.objective.options.rewards == ["numeric"]
    assert found.metrics == () and found.max_new_tokens is None


def test_without_rewards_the_candidate_says_it(tmp_path, run):
    assert settled_for_all(Judging(), [str(tmp_path), str(run)], "x") == settled(Judging(), str(run), "x")
    assert settled_for_all(Judging(), [str(run), str(tmp_path)], "x") == Settled()


def test_runs_with_different_rewards_have_no_common_score(tmp_path):
    one, same = learnt(tmp_path / "one", "[numeric]"), learnt(tmp_path / "same", "[numeric]", "rloo")
    other = learnt(tmp_path / "other", "[length]")
    assert settled_for_all(Judging(), [one, same], "x").rewarded.objective.name == "rloo"
    with pytest.raises(ConfigError, match=r"one and .*other learnt from different rewards"):
        settled_for_all(Judging(), [one, other], "x")
