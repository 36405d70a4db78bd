"""The model as an objective sees it: hidden states and log-probabilities of a packed batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunewright.core.errors import ModelError
from tunewright.models.added import added_to
from tunewright.models.attention import NAME
from tunewright.models.causal import causal_lm
from tunewright.models.fused_layers import fuse_layers
from tunewright.models.head import Head, chunks
from tunewright.models.placing import placed
from tunewright.models.rope import steady
from tunewright.models.score import head_called, is_head, pooled
from tunewright.models.token_rows import plain_layer, rows_of
from tunewright.models.varlen import Packing
from tunewright.models.virtual import Front, check_reach, front_of


class ModelForward:
    """Implements ``objectives.base.Forward`` over a transformers causal language model.

    ``compute`` is the number format of matrix products; weights kept in float32 are cast on the fly.
    ``plain`` says that the output layer has a form the fast head does not know, so the model's own is used.
    ``neftune`` > 0 adds uniform noise to the embeddings in training (Jain et al. 2023, arXiv 2310.05914).
    Virtual tokens of the model stand before every text, and none of them is in what is returned.
    ``below`` is a context around each run of the decoder over a batch, in which its lower layers may be
    left out (see ``layer_cache``).
    """

    def __init__(
        self, model: nn.Module, *, compute: torch.dtype = torch.float32, neftune: float = 0.0
    ) -> None:
        self.model = model
        self.neftune = neftune
        self.below: Callable[[Any], AbstractContextManager[Any]] = lambda batch: nullcontext()
        self.compute = compute
        lm = causal_lm(model)
        self.device = next(lm.parameters()).device
        self._lm = lm
        self._decoder = lm.base_model
        added = added_to(lm)
        self._mixed = compute != torch.float32 and any(
            p.dtype == torch.float32 and p.requires_grad and p not in added
            for name, p in lm.named_parameters()
            if not is_head(name)
        )
        lm.set_attn_implementation(NAME)
        steady(lm)
        fuse_layers(lm)
        self.plain = not _fits_head(lm, self._decoder, self.device, self._autocast)

    @property
    def head(self) -> Head:
        """The output layer as it is now: its trained copy, or the original where the adapter is off."""
        return _head_of(self._lm)

    def hidden(self, batch: Any) -> Tensor:
        """Last hidden states, (T, H)."""
        front = self._front(batch)
        with self._autocast(), self.below(batch):
            out = self._decoder(**self._inputs(batch, front))
        states: Tensor = out.last_hidden_state[0, front.rows :]
        return states

    def logprobs(self, batch: Any, hidden: Tensor | None = None) -> Tensor:
        """log p of each target, (N,) float32."""
        source, ids = batch.targets.source, batch.targets.ids
        if self.plain:
            chosen: Tensor = self._own_logits(batch).log_softmax(-1).gather(1, ids[:, None])[:, 0]
            return chosen
        hidden = self.hidden(batch) if hidden is None else hidden
        return self.head.logprobs(hidden[source].to(self.compute), ids)

    def per_target(
        self, batch: Any, fn: Callable[[Tensor, Tensor], Tensor], hidden: Tensor | None = None
    ) -> Tensor:
        """``fn(logits (n, V) float32, indices of the targets (n,))`` over all targets, piece by piece.

        The logits of a piece are computed again in the backward pass, so they never stand in memory together.
        """
        source = batch.targets.source
        index = torch.arange(len(source), device=source.device)
        if self.plain:
            logits = self._own_logits(batch)
            return torch.cat([fn(logits[rows], index[rows]) for rows in chunks(len(logits), logits.T)])
        states = (self.hidden(batch) if hidden is None else hidden)[source].to(self.compute)

        def piece(rows: slice) -> Tensor:
            found: Tensor = checkpoint(
                lambda part: fn(self.head.logits(part), index[rows]), states[rows], use_reentrant=False
            )
            return found

        return torch.cat([piece(rows) for rows in chunks(len(source), self.head.weight)])

    def scores(self, batch: Any, hidden: Tensor | None = None, name: str = "score") -> Tensor:
        """Output of the head ``name`` for each segment, its prefix included: (S, K) float32."""
        head = head_called(self.model, name)
        scores: Tensor = head(self.pooled(batch, head.pooling, hidden))
        return scores

    def pooled(self, batch: Any, pooling: str, hidden: Tensor | None = None) -> Tensor:
        """The state of each segment that a head reads, (S, H)."""
        return pooled(self.hidden(batch) if hidden is None else hidden, batch.segments, pooling)

    def values(self, batch: Any, hidden: Tensor | None = None) -> Tensor:
        """Output of the head ``value`` where each target is predicted: (N,) float32."""
        hidden = self.hidden(batch) if hidden is None else hidden
        values: Tensor = head_called(self.model, "value")(hidden[batch.targets.source])[:, 0]
        return values

    def numbers(self, name: str) -> Tensor:
        """The trained numbers called ``name``, (K,)."""
        numbers: Tensor = head_called(self.model, name).weight
        return numbers

    def _own_logits(self, batch: Any) -> Tensor:
        front = self._front(batch)
        kept = batch.targets.source + front.rows
        with self._autocast(), self.below(batch):
            logits: Tensor = self._lm(logits_to_keep=kept, **self._inputs(batch, front)).logits[0]
        return logits.float()

    def _front(self, batch: Any) -> Front:
        front = front_of(self.model)
        if front.count:
            check_reach(self._lm.config, front.count, batch.segments)
        return front

    def _inputs(self, batch: Any, front: Front) -> dict[str, Any]:
        noisy = self.neftune > 0 and self.model.training
        if not noisy and front.embeddings is None:
            return {"input_ids": batch.ids[None], **_packed(batch, front)}
        words = self._noisy_embeddings(batch) if noisy else self._lm.get_input_embeddings()(batch.ids)
        if front.embeddings is not None:
            words = torch.cat([front.embeddings.to(words.dtype), words])
        return {"inputs_embeds": words[None], **_packed(batch, front)}

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.compute) if self._mixed else nullcontext()

    def _noisy_embeddings(self, batch: Any) -> Tensor:
        embedded: Tensor = self._lm.get_input_embeddings()(batch.ids)
        sizes = torch.tensor([n for _, n, _ in batch.segments])
        lengths = placed(sizes.repeat_interleave(sizes).float(), embedded.device)
        bound = self.neftune / (lengths * embedded.shape[-1]).sqrt()
        noise = torch.rand(embedded.shape, device=embedded.device) * 2 - 1
        return embedded + (noise * bound[:, None]).to(embedded.dtype)


def _packed(batch: Any, front: Front) -> dict[str, Any]:
    own = torch.arange(front.rows, device=batch.positions.device)
    # A four-dimensional mask is passed through untouched, so none is built from the positions.
    return {
        "position_ids": torch.cat([own, batch.positions + front.count])[None],
        "attention_mask": batch.ids.new_ones((1, 1, 1, 1), dtype=torch.bool),
        "use_cache": False,
        "segments": Packing(front.ahead(batch.segments)),
        **({} if front.states is None else {"front": front.states}),
    }


def _head_of(lm: Any) -> Head:
    config, layer = lm.config, lm.get_output_embeddings()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    softcap, own = getattr(config, "final_logit_softcapping", None), plain_layer(layer)
    return Head(own.weight, own.bias, scale, softcap, rows_of(layer))


def _fits_head(lm: Any, decoder: nn.Module, device: torch.device, autocast: Any) -> bool:
    """Whether the head, read from the config, gives the model's own logits on a few tokens."""
    layer = lm.get_output_embeddings()
    if layer is None:
        raise ModelError(f"{type(lm).__name__} has no output layer; load a causal language model")
    copied = isinstance(layer, ModulesToSaveWrapper)
    if not isinstance(layer.original_module if copied else plain_layer(layer), nn.Linear):
        return False
    head = _head_of(lm)
    ids = torch.arange(1, 6, device=device)[None] % lm.config.get_text_config().vocab_size
    was_training = lm.training
    lm.eval()
    with torch.no_grad(), autocast():
        own = lm(input_ids=ids, use_cache=False).logits[0].float()
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
        ours = head.logits(hidden.to(head.weight.dtype))
    lm.train(was_training)
    tolerance = 1e-4 if head.weight.dtype == torch.float32 and hidden.dtype == torch.float32 else 0.05
    return torch.allclose(own, ours, rtol=tolerance, atol=tolerance * own.abs().max().item())
