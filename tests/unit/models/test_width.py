"""As many rows at once as pay and as memory allows; the answers are the same whatever the number."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_model
from tests.unit.models.test_generate import make_prompts, sharp_model
from tunewright.models import decoding, width
from tunewright.models.generate import Sampling, generate
from tunewright.models.kvcache import ROOM
from tunewright.models.width import row_bytes, rows_at_once


def test_bytes_of_a_row_by_hand():
    """Two layers of two heads that hold keys, 16 wide, in bfloat16; logits of 420 tokens."""
    config = tiny_model("llama", 420).config
    assert (config.num_hidden_layers, config.num_key_value_heads, config.head_dim) == (2, 2, 16)
    assert row_bytes(config, torch.bfloat16, 10) == 2 * (2 * 2 * 2 * 16 * (10 + ROOM) + 420)


def test_the_number_follows_memory(monkeypatch):
    model = tiny_model("llama", 420)
    one = row_bytes(model.config, torch.float32, 50)

    def with_memory(everything, free):
        monkeypatch.setattr(width, "all_bytes", lambda: float(everything))
        monkeypatch.setattr(width, "free_bytes", lambda: float(free))
        return rows_at_once(model, 50)

    assert with_memory(16 * 7 * one, 1e15) == 7
    assert with_memory(1e15, 2 * 5 * one) == 5
    assert with_memory(1e15, 1e15) == width.MOST["cpu"]
    assert with_memory(0, 0) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("prefix", [0, 40])
def test_answers_do_not_depend_on_it(monkeypatch, prefix, temperature):
    model, prompts = sharp_model(), make_prompts(count=20, prefix=prefix)
    sampling = Sampling(max_new_tokens=10, temperature=temperature)
    expected = [generate(model, [p], sampling, batch_size=1)[0].ids for p in prompts[:1]]
    found = []
    for number in (1, 3, 20):
        monkeypatch.setattr(decoding, "rows_at_once", lambda *_, number=number: number)
        found.append([answer.ids for answer in generate(model, prompts, sampling)])
    assert found[0] == found[1] == found[2] and found[0][:1] == expected


def test_what_all_rows_share_is_not_counted(monkeypatch):
    columns = []
    monkeypatch.setattr(decoding, "rows_at_once", lambda model, own: columns.append(own) or 4)
    model, prompts = sharp_model(), [[*range(5, 45), i] for i in range(6)]
    generate(model, prompts, Sampling(max_new_tokens=3))
    generate(model, prompts[:1], Sampling(max_new_tokens=3))
    assert columns == [1 + 3, 41 + 3]
