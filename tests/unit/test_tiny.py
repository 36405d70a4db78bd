"""The helpers other tests stand on: deterministic, small, and of the stated kinds."""

import pytest
import torch

from tests.tiny import FAMILIES, KINDS, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_reserves_its_control_tokens_and_spells_plain_text(kind):
    tokenizer = tiny_tokenizer(kind, extra_special=["<think>"])
    assert tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]) == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokenizer.encode("<think>", add_special_tokens=False) == [5]
    ids = tokenizer.encode("The capital of France is Paris.", add_special_tokens=False)
    assert len(ids) > 5 and tokenizer.decode(ids) == "The capital of France is Paris."


def test_bytelevel_tokenizer_round_trips_any_text():
    tokenizer = tiny_tokenizer("bytelevel")
    text = " \n Größe 🙂\t你好\u200b "
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_model_runs_and_is_the_same_every_time(family):
    ids = torch.tensor([[5, 6, 7, 8]])
    state = torch.random.get_rng_state()
    first, second = tiny_model(family), tiny_model(family)
    assert torch.equal(torch.random.get_rng_state(), state), "building a model must not touch the global seed"
    with torch.no_grad():
        logits = first(ids).logits
        assert logits.shape == (1, 4, 420) and logits.dtype == torch.float32
        assert torch.equal(logits, second(ids).logits)
        assert not torch.equal(logits, tiny_model(family, seed=1)(ids).logits)
    assert sum(p.numel() for p in first.parameters()) < 300_000
