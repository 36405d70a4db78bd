"""The compiled kernels as functions of tensors; callers ask ``known`` first and otherwise use torch."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float, c_long, c_void_p
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.native.build import kernels

KINDS = {torch.float32: 0, torch.bfloat16: 1}
TOGETHER = (
    64  # rows whose gradients of a weight are added up by one thread, so that no bit depends on threads
)
GATES = ("silu", "gelu_tanh")
STAND_INS: list[Callable[[Tensor], bool]] = []  # which tensors have no values; memory is forecast by such


def known(*tensors: Tensor) -> bool:
    """Whether the kernels are there and take these: plain dense tensors of a CPU, in a format they know."""
    fit = all(
        x.device.type == "cpu" and x.dtype in KINDS and (type(x) in (Tensor, nn.Parameter) or _stands_in(x))
        for x in tensors
    )
    return fit and kernels().library is not None and not torch.compiler.is_compiling()


def rms_forward(x: Tensor, weight: Tensor, eps: float, plus: float, late: bool) -> tuple[Tensor, Tensor]:
    """y = (plus + w) x / rms(x) over the last dimension, and 1 / rms(x), (rows,) float32.

    rms(x)² = mean(x²) + ``eps``; ``late`` rounds once, else x / rms(x) is rounded to the format of x first.
    """
    x, weight = x.contiguous(), weight.contiguous()
    rows = x.numel() // x.shape[-1]
    y = torch.empty_like(x, dtype=torch.promote_types(x.dtype, weight.dtype))
    inverse = x.new_empty(rows, dtype=torch.float32)
    kinds = (KINDS[x.dtype], KINDS[weight.dtype])
    call("rms_forward", *kinds, x, weight, y, inverse, rows, x.shape[-1], float(eps), float(plus), int(late))
    return y, inverse


def rms_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, plus: float, for_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and, if asked for, of the weight: with u = g (plus + w) and s = 1 / rms(x),
    dx = s (u - x s² mean(u x)), dw = sum over rows of g x s.
    """
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    d_x = torch.empty_like(x)
    parts = x.new_zeros(-(-rows // TOGETHER), width, dtype=torch.float32) if for_weight else None
    kinds = (KINDS[x.dtype], KINDS[weight.dtype])
    call("rms_backward", *kinds, grad, x, weight, inverse, d_x, parts, rows, width, TOGETHER, float(plus))
    return d_x, None if parts is None else parts.sum(0).to(weight.dtype)


def glu_forward(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """f(gate) up with the f of ``GATES``; of one shape and format."""
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    call("glu_forward", KINDS[gate.dtype], GATES.index(kind), gate, up, y, gate.numel())
    return y


def glu_backward(grad: Tensor, gate: Tensor, up: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up: g up f'(gate) and g f(gate)."""
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    call("glu_backward", KINDS[gate.dtype], GATES.index(kind), grad, gate, up, d_gate, d_up, gate.numel())
    return d_gate, d_up


def softmax_(scores: Tensor, ahead: int, window: int | None, softcap: float | None) -> Tensor:
    """Contiguous ``scores`` (..., Q, K) become their softmax, capped before; returns the log-sum-exps.

    Query i sees the keys up to ``ahead`` + i, of those the last ``window``; the others get the weight 0.
    """
    norms = scores.new_empty(scores.shape[:-1], dtype=torch.float32)
    queries, keys = scores.shape[-2:]
    rows = norms.numel()
    call(
        "softmax_forward",
        KINDS[scores.dtype],
        scores,
        norms,
        rows,
        queries,
        keys,
        ahead,
        window or 0,
        softcap or 0.0,
    )
    return norms


def softmax_backward_(
    scores: Tensor,
    slopes: Tensor,
    norms: Tensor,
    within: Tensor,
    ahead: int,
    window: int | None,
    softcap: float | None,
) -> None:
    """``scores`` become the weights p again, and ``slopes``, dL/dp, become dL/d scores = p (dL/dp - within).

    ``norms`` and ``within``, (..., Q) float32, are the log-sum-exps and the sums over p dL/dp.
    """
    norms, within = norms.contiguous(), within.contiguous()
    kind, (queries, keys) = KINDS[scores.dtype], scores.shape[-2:]
    rows = norms.numel()
    call(
        "softmax_backward",
        kind,
        scores,
        slopes,
        norms,
        within,
        rows,
        queries,
        keys,
        ahead,
        window or 0,
        softcap or 0.0,
    )


def choose_(
    logits: Tensor, ids: Tensor, scale: float, softcap: float | None, factors: Tensor | None
) -> Tensor:
    """log p(ids), (n,) float32, under the softmax of scaled and capped ``logits`` (n, V), contiguous.

    With ``factors``, (n,) float32, the logits become factor · (softmax - onehot), times the slope of the cap:
    the gradient of -factor log p by the scaled logits.
    """
    chosen = logits.new_empty(len(logits), dtype=torch.float32)
    ids, factors = ids.contiguous(), None if factors is None else factors.contiguous()
    call(
        "choose",
        KINDS[logits.dtype],
        logits,
        ids,
        factors,
        chosen,
        *logits.shape,
        float(scale),
        softcap or 0.0,
    )
    return chosen


def call(name: str, *arguments: Any) -> None:
    """Tensors go as addresses, whole numbers as long, others as float."""
    if any(isinstance(given, Tensor) and _stands_in(given) for given in arguments):
        return
    library = kernels().library
    assert library is not None, "ask known() first"
    getattr(library, name)(*(_as_c(given) for given in arguments))


def _stands_in(tensor: Tensor) -> bool:
    return any(has_no_values(tensor) for has_no_values in STAND_INS)


def _as_c(given: Any) -> Any:
    if isinstance(given, Tensor):
        assert given.is_contiguous() and (given.data_ptr() or not given.numel()), "no memory to work on"
        return c_void_p(given.data_ptr())
    return c_float(given) if isinstance(given, float) else None if given is None else c_long(given)
