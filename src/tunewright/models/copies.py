"""Whole modules that an adapter trains: PEFT copies them (``modules_to_save``, and the normalisations of
``ln_tuning``), trains and saves the copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn


def widen_copies(model: nn.Module) -> int:
    """Keep the copies in float32, as PEFT does with an adapter's own weights; returns how many were not.

    Between a copy and its neighbours numbers have the format of the original, so nothing else notices.
    """
    narrow = [
        (copy, parameter.dtype)
        for original, copies in _copied(model)
        for copy in copies
        for parameter in [next(original.parameters())]
        if parameter.dtype in (torch.bfloat16, torch.float16) and not copy._forward_pre_hooks
    ]
    for copy, dtype in narrow:
        copy.float()
        copy.register_forward_pre_hook(_widened)
        copy.register_forward_hook(partial(_narrowed, dtype))
    return len(narrow)


def _copied(model: nn.Module) -> Iterator[tuple[nn.Module, Iterable[nn.Module]]]:
    """Each module that was copied, and its copies."""
    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            yield wrapper.original_module, wrapper.modules_to_save.children()
        elif isinstance(wrapper, LNTuningLayer):
            yield wrapper.get_base_layer(), wrapper.ln_tuning_layers.children()


def _widened(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


def _narrowed(dtype: torch.dtype, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.to(dtype)
