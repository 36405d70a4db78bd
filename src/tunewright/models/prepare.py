"""Make the base what an adapter needs it to be: see ``changes.Changes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from tunewright.core.errors import ModelError
from tunewright.models.changes import Changes, Quantise
from tunewright.models.precision import Precision
from tunewright.models.quantised import require_bitsandbytes
from tunewright.models.rope import stretched


def changed_loading(changes: Changes, precision: Precision, config: Callable[[], Any]) -> dict[str, Any]:
    """Further arguments for ``from_pretrained``; ``config`` gives the model's config as it is."""
    found: dict[str, Any] = {}
    if changes.quantise is not None:
        found["quantization_config"] = _quantisation(changes.quantise, precision)
        found["device_map"] = {"": precision.device}
        # From float32 whatever the format of the computation, so that the same file gives the same bits on
        # every machine; ``quantised.settle`` casts what is not quantised.
        found["dtype"] = torch.float32
    if changes.rope:
        found["config"] = stretched(config(), changes.rope)
    return found


def refuse_known(tokenizer: Any, changes: Changes) -> None:
    """Raise ``ModelError`` for a new token that the vocabulary of the untouched base has already."""
    known = tokenizer.get_vocab()
    for token in changes.new_tokens:
        if token in known:
            raise ModelError(
                f"adapt.new_tokens: {token!r} is a token of this model already (id {known[token]}); leave it"
                f" out, or train its row as it is with adapt.trainable_token_indices=[{known[token]}]"
            )


def grow_vocabulary(model: Any, tokenizer: Any, changes: Changes) -> None:
    """Add the new tokens to the tokenizer, and rows for them to embedding and output layer.

    Every new row is the mean of those that have a token (Hewitt 2021, "Initializing New Word Embeddings for
    Pretrained Language Models"), which takes least from the words there are, and is the same on every load.
    """
    if not changes.new_tokens:
        return
    tokenizer.add_tokens(list(changes.new_tokens))  # one read beside an adapter has them already
    ids = tokenizer.convert_tokens_to_ids(list(changes.new_tokens))
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        with torch.no_grad():
            layer.weight[ids] = layer.weight[: min(ids)].mean(0, dtype=torch.float32).to(layer.weight.dtype)


def _quantisation(how: Quantise, precision: Precision) -> BitsAndBytesConfig:
    require_bitsandbytes()
    if how.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=how.format,
        bnb_4bit_use_double_quant=how.double,
        bnb_4bit_compute_dtype=precision.dtype,
    )
