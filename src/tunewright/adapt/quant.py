"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA over a frozen base in 4 or 8 bits."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from tunewright.adapt.lora import Lora
from tunewright.adapt.options.lora import QloraOptions
from tunewright.core.errors import ConfigError, ModelError
from tunewright.models.causal import causal_lm
from tunewright.models.changes import Quantise
from tunewright.models.quantised import cast_floats, dequantise, require_bitsandbytes, settle
from tunewright.models.quiet import quiet_peft

PROBES = 32  # tokens, evenly from the whole vocabulary, whose logits are compared before and after merging
# How far a logit may move by merging, as a share of the largest logit; both are computed in float32. A model
# of 30 layers comes to 3e-6. In bfloat16 rounding alone moves as much as a trained difference does.
TOLERANCE = 1e-4


class Qlora(Lora):
    """LoRA whose base is quantised while it is read; the embedding and the output layer stay as they are."""

    options: QloraOptions

    def __init__(self, method: str, options: QloraOptions) -> None:
        require_bitsandbytes()
        super().__init__(method, options)
        how = Quantise(options.bits, options.format, options.constants == "double")
        self.changes = replace(self.changes, quantise=how)
        self.label = f"{self.label} over {options.format.upper() if options.bits == 4 else '8 bits'}"

    def merged(self, model: Any) -> nn.Module:
        """See ``merge_dequantised``."""
        return merge_dequantised(model)


def merge_dequantised(model: Any) -> nn.Module:
    """Fold an adapter into its quantised base made plain again: into the weights it was trained against.

    Merging into the 4-bit weights would round the trained difference away, and the original weights are not
    those it was trained against. Works in place and in float32; in the end the model has the format that its
    embedding had. Raises ``ModelError`` if the logits of a few tokens are not what they were, and
    ``ConfigError`` for several adapters.
    """
    name, *others = model.active_adapters
    if others:
        raise ConfigError(f"merge one adapter at a time; active are {', '.join((name, *others))}")
    dtype: torch.dtype = causal_lm(model).dtype
    settle(causal_lm(model), torch.float32)
    before = _logits(model)
    with quiet_peft():
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        config = copy.deepcopy(model.peft_config[name])
        config.init_lora_weights = True  # the start is of no account: the trained weights follow
        plain: Any = get_peft_model(dequantise(model.unload()), config)
        set_peft_model_state_dict(plain, state)
        merged: Any = plain.merge_and_unload().eval()
    check_same(before, _logits(merged))
    cast_floats(merged, dtype)
    return cast(nn.Module, merged)


def check_same(before: Tensor, after: Tensor) -> None:
    """Raise ``ModelError`` naming the numbers if two tables of logits differ by more than ``TOLERANCE``."""
    apart, largest = float((before - after).abs().max()), float(before.abs().max())
    if not apart <= TOLERANCE * largest:  # nor if either is not a number
        raise ModelError(
            f"the merged model does not answer as the adapter did: a logit has moved by {apart:.3g}, where"
            f" the largest is {largest:.3g} and {TOLERANCE * largest:.3g} is allowed; use the adapter"
            " unmerged, and please report this"
        )


def _logits(model: Any) -> Tensor:
    """(PROBES, V) float32."""
    lm = causal_lm(model)
    was_training = lm.training
    vocabulary = lm.config.get_text_config().vocab_size
    ids = torch.linspace(0, vocabulary - 1, PROBES, device=lm.device).long()
    lm.eval()
    with torch.no_grad():
        logits: Tensor = lm(input_ids=ids[None], use_cache=False).logits[0].float()
    lm.train(was_training)
    return logits
