"""Activations that are not kept on the device: computed again in the backward pass, or kept on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from tunewright.core.errors import ConfigError
from tunewright.models.causal import causal_lm, decoder_layers, number_of_layers
from tunewright.models.score import is_head

SMALL = 2**12  # bytes below which a tensor stays where it is


def layers_of(model: Any) -> list[nn.Module]:
    """The decoder's layers, from below; raises ``ConfigError`` for a model of another build."""
    layers = decoder_layers(model)
    if not layers:
        count, kind = number_of_layers(model), type(causal_lm(model)).__name__
        raise ConfigError(f"train.memory: cannot find the {count} layers of {kind}; leave it out")
    return layers


def check_layers(model: Any, count: int) -> None:
    """Raise ``ConfigError`` if the model has fewer than ``count`` layers."""
    have = len(layers_of(model)) if count else 0
    if count > have:
        raise ConfigError(f"train.memory.checkpoint_layers {count}: this model has {have} layers")


def keeps_nothing(model: Any, recomputed: int) -> bool:
    """Whether all that trains lies above the first ``recomputed`` layers, which then keep nothing anyway."""
    lm, layers = causal_lm(model), nn.ModuleList(layers_of(model))
    below = {*lm.get_input_embeddings().parameters(), *layers[:recomputed].parameters()}
    above = {p for p in lm.parameters() if p not in below}
    above |= {p for name, p in model.named_parameters() if is_head(name)}
    return all(p in above for p in model.parameters() if p.requires_grad)


@contextmanager
def saving(model: Any, recomputed: int, offload: bool = False) -> Iterator[None]:
    """Within it the first ``recomputed`` layers keep only their input while training; with ``offload`` what
    any layer keeps waits on the CPU.

    Gradients stay the same to the last bit: random numbers are drawn again as they were (Chen et al. 2016,
    arXiv 1604.06174). Raises ``ConfigError`` for more layers than there are.
    """
    check_layers(model, recomputed)
    layers = layers_of(model) if recomputed or offload else []
    own = {p.untyped_storage().data_ptr() for p in model.parameters()} if offload else set()
    changed = []
    for place, layer in enumerate(layers):
        again = place < recomputed and not keeps_nothing(model, place + 1)
        if again or offload:
            changed.append((layer, layer.__dict__.get("forward")))
            forward = partial(_again, layer.forward) if again else layer.forward
            forward = partial(_away, own, forward) if offload else forward
            layer.forward = partial(_training, layer, layer.forward, forward)
    try:
        yield
    finally:
        for layer, before in changed:
            del layer.forward
            if before is not None:
                layer.forward = before


def _training(
    layer: nn.Module, plain: Callable[..., Any], saving: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """``plain`` where nothing is kept for a backward pass, otherwise ``saving``."""
    forward = saving if layer.training and torch.is_grad_enabled() else plain
    return forward(*args, **kwargs)


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _away(own: set[int], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with OnCpu(own):
        return forward(*args, **kwargs)


class OnCpu(saved_tensors_hooks):
    """Within it, what autograd keeps goes to pinned memory of the CPU, and comes back when it is needed.

    Weights stay where they are: ``own`` are the addresses of their storages.
    """

    def __init__(self, own: set[int]) -> None:
        self.moved = 0  # bytes that went to the CPU
        self._own = own
        super().__init__(self._pack, _unpack)

    def _pack(self, tensor: Tensor) -> tuple[torch.device, Tensor]:
        if tensor.nbytes <= SMALL or tensor.untyped_storage().data_ptr() in self._own:
            return tensor.device, tensor
        self.moved += tensor.nbytes
        away = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        away.copy_(tensor, non_blocking=tensor.is_cuda)
        return tensor.device, away


def _unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = packed
    return tensor.to(device, non_blocking=device.type == "cuda")
