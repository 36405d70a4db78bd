"""What the engine that samples is told of the adapter it is given."""

import pytest
from safetensors.torch import load_file

from tests.tiny import tiny_model
from tunewright.adapt.base import adapter_of
from tunewright.adapt.options.table import options_of
from tunewright.run.supply_rollouts import engine_rank


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 4},
        {"rank": 4, "init": "pissa"},
        {"rank": 4, "init": "olora", "patterns": {"q_proj": {"rank": 6}}},
        {"rank": 4, "patterns": {"q_proj": {"rank": 6}, "k_proj": {"rank": 2}}},
    ],
)
def test_it_is_the_largest_rank_that_is_saved(tmp_path, settings):
    adapter = adapter_of("lora", **settings)
    adapter.save(adapter.attach(tiny_model("llama")), tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    ranks = {value.shape[0] for name, value in saved.items() if "lora_A" in name}
    assert engine_rank(options_of("lora", settings)) == max(ranks)
