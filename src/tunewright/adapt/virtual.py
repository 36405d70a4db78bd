"""Virtual tokens before the text, the only thing that trains: prompt tuning (Lester et al. 2021, arXiv
2104.08691), prefix tuning (Li & Liang 2021, arXiv 2101.00190), P-tuning (Liu et al. 2021, arXiv 2103.10385).

PEFT owns the encoders and the file format; ``models.virtual`` puts the tokens into packed batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from torch import Tensor, nn

from tunewright.adapt.base import LORA_OVER_FULL
from tunewright.adapt.options.virtual import PrefixOptions, PromptOptions, PTuningOptions
from tunewright.adapt.peft_method import PeftMethod
from tunewright.core.errors import ConfigError
from tunewright.models.causal import causal_lm
from tunewright.models.score import is_head
from tunewright.models.virtual import cached_states

KINDS = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig, "ptuning": PromptEncoderConfig}
NAMES = {"prompt": "prompt tuning", "prefix": "prefix tuning", "ptuning": "P-tuning"}

# What trains as it is begins as large as an embedding or a key, and Adam moves each number by about the rate.
# Lester et al. take 0.3, with Adafactor. Validation loss of SmolLM2-135M, 4.5 before:
#   20 updates of 300 tokens: prompt 3.37, 2.09, 1.76 at 0.003, 0.01, 0.03
#   16 updates: prompt 2.21 at 0.1; prefix 1.99, 0.94, 0.66 at 0.01, 0.03, 0.1
#   a network stands less: ptuning 3.51, 2.70, 4.20, prefix with a width 0.78, 0.54, 5.41 at 0.003, 0.01, 0.03
# The priors are 0.04 there, and 0.0067 for a network.
RATE, RATE_OF_NETWORK = 300.0, 50.0


class Virtual(PeftMethod):
    """Prompt, prefix and P-tuning. Nothing of the model itself changes, so there is nothing to merge."""

    merges = False

    def __init__(self, method: str, options: PromptOptions | PrefixOptions | PTuningOptions) -> None:
        self.method, self.kind = method, KINDS[method]
        self.options: Any = options
        self.virtual = options.tokens
        self.label = f"{NAMES[method]}, {options.tokens} virtual tokens"
        self.rate = RATE_OF_NETWORK if getattr(options, "width", 0) else RATE
        self._words: Sequence[int] = ()

    def fitted(self, ids_of: Callable[[str], Sequence[int]]) -> Self:
        """Knows the tokens of its ``text``. Raises ``ConfigError`` where these are none or too many."""
        text = getattr(self.options, "text", None)
        if text is None:
            return self
        words = ids_of(text)
        if not 0 < len(words) <= self.virtual:
            raise ConfigError(
                f"adapt.text has {len(words)} tokens for adapt.tokens {self.virtual}; give it at least one,"
                f" or set adapt.tokens={max(1, len(words))}"
            )
        other = copy.copy(self)
        other._words = words
        return other

    def attach(self, model: Any) -> nn.Module:
        """Wrap ``model``; raises ``ConfigError`` if its context has no room for a text behind the tokens."""
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and self.virtual >= positions:
            raise ConfigError(
                f"adapt.tokens {self.virtual}: the model has {positions} positions, for these and the text"
            )
        wrapped = super().attach(model)
        if not getattr(self.options, "width", 0):
            self._begin(wrapped)
        return wrapped

    def config(self, model: Any) -> PeftConfig:
        """PEFT's config for ``model``."""
        options, own = self.options, {}
        if self.method == "ptuning":
            kind = options.encoder.upper()
            own = {"encoder_reparameterization_type": kind, "encoder_hidden_size": options.width}
        elif self.method == "prefix" and options.width:
            own = {"prefix_projection": True, "encoder_hidden_size": options.width}
        return self._make({"num_virtual_tokens": options.tokens, **own})

    def rate_of(self, name: str) -> float:
        """A new head learns as fast as beside LoRA; the rate of virtual tokens would be too high for it."""
        return LORA_OVER_FULL / self.rate if is_head(name) else 1.0

    def merged(self, model: Any) -> nn.Module:
        """Raises ``ConfigError``."""
        raise ConfigError(
            f"adapt.method {self.method!r} cannot be merged: its tokens stand before the text, and no weight"
            " changes; save the adapter"
        )

    @torch.no_grad()
    def _begin(self, model: Any) -> None:
        """Start from words: from their embeddings (Lester et al., section 3.2), or from what the model makes
        of them in every layer (Li & Liang, section 7.4)."""
        lm = causal_lm(model)
        encoder = model.prompt_encoder[model.active_adapter]
        words = self._drawn(lm).to(lm.device)
        if lm.device.type == "meta":  # a rehearsal without numbers
            return
        start = lm.get_input_embeddings()(words) if self.method == "prompt" else _activations(lm, words)
        encoder.embedding.weight.copy_(start)

    def _drawn(self, lm: Any) -> Tensor:
        """Ids of as many words as there are virtual tokens: those of the text over and over, or random."""
        if self._words:
            repeats = -(-self.virtual // len(self._words))
            return torch.tensor([*self._words] * repeats)[: self.virtual]
        assert getattr(self.options, "text", None) is None, "a text needs its tokens: see fitted"
        return torch.randint(lm.get_input_embeddings().num_embeddings, (self.virtual,))


def _activations(lm: Any, words: Tensor) -> Tensor:
    """Keys and values of ``words`` (n,) in all layers, as PEFT lays them out: (n, layers x 2 x Hk x D)."""
    cache = lm(input_ids=words[None], use_cache=True).past_key_values
    states = [s[0].transpose(0, 1).flatten(1) for pair in cached_states(cache, len(words)) for s in pair]
    return torch.cat(states, dim=1)
