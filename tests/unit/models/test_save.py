"""What is saved beside the weights: how to stop."""

from tests.tiny import tiny_model
from tunewright.models.save import own_stop_ids, stopping_config


def test_the_end_of_turn_joins_the_models_own_stop_ids():
    model = tiny_model("llama")
    for own, expected in ((1, [1, 4]), ([1, 7], [1, 4, 7]), (None, [4])):
        model.generation_config.eos_token_id = own
        config = stopping_config(model, {4}, 2)
        assert (config.eos_token_id, config.pad_token_id, config.do_sample) == (expected, 2, False)
        assert own_stop_ids(model) == frozenset(expected) - ({4} if own != 4 else set())
