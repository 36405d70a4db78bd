"""Base models whose linear layers are kept in 4 or 8 bits by bitsandbytes (QLoRA, Dettmers et al. 2023,
arXiv 2305.14314).

Only what is stored is in few bits. Every product is computed with the dequantised weight in the format of the
computation, in training as in evaluation, so that both see one and the same model. Two short cuts of the
library are therefore not taken. Its 4-bit layer, on CPUs with bfloat16 units, packs the weights anew at the
first evaluation, with scales rounded to bfloat16, and lets no gradient through from then on. Its 8-bit layer
rounds its input too (LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339), by what else is in the batch.
And where the rows of a 4-bit weight end within a block of scales, its CPU kernel takes the wrong scales.
"""

from __future__ import annotations

import copy
import importlib
import types
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunewright.core.errors import ModelError
from tunewright.models.score import is_head

BITS = {"Params4bit": 4, "Int8Params": 8}  # bits of a weight by the class of the parameter


def require_bitsandbytes() -> None:
    """Raise ``ModelError`` where the library is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "a base in 4 or 8 bits needs bitsandbytes: pip install 'tunewright[quant]', or use adapt.method"
            " lora"
        )


def bits_of(layer: nn.Module) -> int | None:
    """4 or 8 for a quantised linear layer, None for any other module."""
    return BITS.get(type(layer._parameters.get("weight")).__name__)


def is_quantised(model: nn.Module) -> bool:
    """Whether any layer is."""
    return any(bits_of(module) for module in model.modules())


def contents(parameter: Tensor) -> list[Tensor]:
    """All that decides the values of a parameter: itself and, if it is quantised, its scales.

    4 bits: a scale for each block of 64; if these are quantised, a scale for each 256 of them and their mean.
    8 bits: a scale for each row.
    """
    scales, state = getattr(parameter, "SCB", None), getattr(parameter, "quant_state", None)
    if scales is not None:
        return [parameter, scales]
    if state is None:
        return [parameter]
    return [parameter, state.absmax, *((state.state2.absmax, state.offset) if state.nested else ())]


def dequantised(layer: Any, dtype: torch.dtype) -> Tensor:
    """The weight of a quantised layer as plain numbers, (outputs, inputs)."""
    functional, weight = importlib.import_module("bitsandbytes.functional"), layer.weight
    if bits_of(layer) == 8:
        found: Tensor = functional.int8_vectorwise_dequant(weight.data, weight.SCB).to(dtype)
        return found
    state = copy.copy(weight.quant_state)
    shape, state.dtype = state.shape, dtype
    if _rows_cut_blocks(layer):
        state.shape = torch.Size((1, shape.numel()))
    plain: Tensor = functional.dequantize_4bit(weight.data, state)
    return plain.view(shape)


def settle(model: Any, dtype: torch.dtype) -> None:
    """Make a model that was quantised from float32 compute in ``dtype``, by the one way described above.

    Raises ``ModelError`` if it has no layer that could be quantised.
    """
    if not is_quantised(model):
        raise ModelError(
            f"{type(model).__name__} has no linear layer for bitsandbytes to quantise; use adapt.method lora"
        )
    cast_floats(model, dtype)
    for module in model.modules():
        bits = bits_of(module)
        if bits == 4:
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype = module.weight.quant_state.dtype = dtype
        if bits == 8 or (bits == 4 and _rows_cut_blocks(module)):
            module.forward = types.MethodType(_forward, module)


def multiplies_dense(layer: nn.Module) -> bool:
    """Whether ``settle`` has put a product with the ``dequantised`` weight in place of the library's."""
    return getattr(layer.__dict__.get("forward"), "__func__", None) is _forward


def cast_floats(model: Any, dtype: torch.dtype) -> None:
    """Keep in ``dtype`` what is not quantised, but for heads and what the model itself wants in float32."""
    exact = model._keep_in_fp32_modules_strict or ()
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not is_head(name) and not any(part in name for part in exact):
            parameter.data = parameter.data.to(dtype)


def dequantise(model: Any) -> Any:
    """Replace every quantised layer, in place, by a plain one of the same values; returns the model."""
    dtype = model.get_input_embeddings().weight.dtype
    for name, module in list(model.named_modules()):
        if bits_of(module):
            model.set_submodule(name, _plain(module, dtype))
    forget_quantisation(model)
    return model


def forget_quantisation(model: Any) -> None:
    """Drop the record that a model is or was quantised, so that it is saved as the plain one it is now."""
    model.hf_quantizer = None
    for name in ("quantization_config", "_pre_quantization_dtype", "_is_quantized"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    for name in ("is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        if hasattr(model, name):
            delattr(model, name)


def _plain(layer: Any, dtype: torch.dtype) -> nn.Module:
    weight = dequantised(layer, dtype)
    transposed = getattr(layer, "source_cls", nn.Linear) is Conv1D
    shape = (layer.out_features, layer.in_features) if transposed else (layer.in_features, layer.out_features)
    kind: Any = Conv1D if transposed else nn.Linear
    with torch.device("meta"):
        plain: nn.Module = kind(*shape)
    plain.weight = nn.Parameter(weight.T.contiguous() if transposed else weight, requires_grad=False)
    plain.bias = layer.bias
    return plain


def _rows_cut_blocks(layer: Any) -> bool:
    return bool(layer.in_features % layer.weight.quant_state.blocksize)


def _forward(self: Any, x: Tensor) -> Tensor:
    y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
    return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """y = x Wᵀ with W (outputs, inputs) frozen; the dequantised W is made anew for dx = dy W, never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return x @ dequantised(layer, x.dtype).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ dequantised(ctx.layer, grad.dtype), None
