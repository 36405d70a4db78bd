"""One model as generation sees it: what it can take, and the logits behind the last column of a batch."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from tunewright.core.errors import ModelError
from tunewright.models.attention import NAME
from tunewright.models.causal import causal_lm
from tunewright.models.fused_layers import fuse_layers
from tunewright.models.kvcache import behind, cache_of, empty_cache
from tunewright.models.rope import caches_all, steady
from tunewright.models.token_rows import plain_layer
from tunewright.models.virtual import front_of, is_virtual

BASE = "__base__"  # PEFT's name for no adapter
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class Runner:
    """A causal language model, plain or wrapped by PEFT. Raises ``ModelError`` if it has no key/value cache.

    Soft prompts (PEFT's prompt and prefix tuning) are ``virtual`` columns before each prompt, computed once.
    """

    def __init__(self, model: nn.Module) -> None:
        base: Any = causal_lm(model)
        self.model: Any = base if is_virtual(model) else model
        self.config = base.config.get_text_config()
        _check_architecture(base, self.config)
        steady(base)
        fuse_layers(base)
        if base.config._attn_implementation == "sdpa":
            base.set_attn_implementation(NAME)
        self.device = next(model.parameters()).device
        self.vocabulary = plain_layer(base.get_input_embeddings()).num_embeddings
        self.positions = getattr(self.config, "max_position_embeddings", None) or sys.maxsize
        self._one_column = "logits_to_keep" in inspect.signature(base.forward).parameters
        self.virtual = self._soft_prompt(model) if is_virtual(model) else None

    def room(self, index: int, prompt: Sequence[int]) -> int:
        """How many tokens may follow a prompt; raises ``ModelError`` if none or if the prompt is unusable."""
        used = len(prompt) + (self.virtual.get_seq_length() if self.virtual else 0)
        if not prompt:
            raise ModelError(
                f"prompt {index} has no tokens; begin it with the model's begin-of-text token at least"
            )
        if used > self.positions:
            raise ModelError(
                f"prompt {index} takes {used} tokens, the model has {self.positions} positions; shorten it"
                + (
                    ""
                    if caches_all(self.config)
                    else " (beyond them its dynamic RoPE turns every key anew with each token, so keys cannot"
                    " be cached; linear and yarn write longer texts)"
                )
            )
        if min(prompt) < 0 or max(prompt) >= self.vocabulary:
            raise ModelError(
                f"prompt {index} holds ids outside 0…{self.vocabulary - 1}; use the model's own tokenizer"
            )
        return self.positions - used + 1  # the last token is chosen but never fed back

    def settle_rope(self, shortest: int, longest: int) -> bool:
        """Whether prompts may share a prefix, given the length of the shortest prompt and of the longest row.

        LongRoPE takes other frequencies for a pass that reaches beyond the original context, so rows on both
        sides of it cannot share a pass, nor a long prompt a short prefix; ``ModelError`` if they would.
        """
        original = _longrope_switch(self.config)
        if original is None:
            return True
        if longest <= original:
            self.positions = original  # rows that are done must not drag the others over it
            return True
        if shortest <= original or self.virtual:
            raise ModelError(
                f"rows reach {longest} tokens, past the {original} where this model's LongRoPE changes; "
                f"others begin below; keep prompt + new tokens within {original} or send only long prompts"
            )
        return False

    @torch.inference_mode()
    def logits(
        self, ids: Tensor, mask: Tensor, cache: Cache, adapters: Sequence[str | None] | None = None
    ) -> Tensor:
        """Feed the columns ``ids`` (B, n); returns the logits (B, V) behind the last, extends ``cache``.

        ``mask`` (B, W) is 1 where the cache or ``ids`` hold a token, W = cached columns + n.
        ``adapters`` names the LoRA adapter of each row, where they differ.
        """
        positions = (mask.cumsum(-1)[:, -ids.shape[1] :] - 1).clamp_(0, self.positions - 1)
        # An index copies the last states. A slice is not contiguous, and a CPU would then multiply every row
        # with a copy of the head.
        last_column = torch.tensor([ids.shape[1] - 1], device=ids.device)
        options: dict[str, Any] = {"logits_to_keep": last_column} if self._one_column else {}
        if adapters is not None:
            options["adapter_names"] = [name or BASE for name in adapters]
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        last: Tensor = output.logits[:, -1]
        return last

    @torch.inference_mode()
    def shares_ahead(self) -> bool:
        """Whether rows may have a common beginning that is not copied for each: tried on a few tokens.

        Only where every layer sees everything, as a window is measured in columns.
        """
        windowed = set(getattr(self.config, "layer_types", None) or ()) - {"full_attention"}
        windowed |= {"window"} if getattr(self.config, "sliding_window", None) else set()
        if self.device.type != "cpu" or windowed or self.config._attn_implementation != NAME:
            return False
        ids = torch.arange(1, 8, device=self.device)[None] % self.vocabulary
        mask, prefix, plain = torch.ones_like(ids), empty_cache(), empty_cache()
        with evaluating(self.model):
            expected = self.logits(ids, mask, plain)
            self.logits(ids[:, :4], mask[:, :4], prefix)
            try:
                found = self.logits(ids[:, 4:], mask, behind(prefix))
            except (RuntimeError, ValueError, TypeError, AttributeError):  # attention of its own kind
                return False
        tolerance = 1e-3 if found.dtype == torch.float32 else 0.15
        return torch.allclose(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))

    @torch.inference_mode()
    def _soft_prompt(self, model: Any) -> Cache | None:
        """The cache of the virtual tokens, one row; none where they are switched off."""
        with evaluating(model):
            front = front_of(model)
            if front.states is not None:
                return cache_of(front.states)
            if front.embeddings is None:
                return None
            cache, weight = empty_cache(), self.model.get_input_embeddings().weight
            embeddings = front.embeddings[None].to(weight.device, weight.dtype)
            self.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
            return cache


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is back in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_architecture(base: Any, config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ()) - ATTENTION_LAYERS
    if kinds or getattr(base, "_is_stateful", False) or config.is_encoder_decoder:
        what = ", ".join(sorted(kinds)) or "an encoder or a recurrent state"
        raise ModelError(
            f"{type(base).__name__} has {what}; generation here needs a decoder of attention layers only, "
            "whose cache can be cut and joined. Use the model's own generate()"
        )


def _longrope_switch(config: Any) -> int | None:
    """The context length at which the model's rotary frequencies change, if they do."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return int(rope["original_max_position_embeddings"])
