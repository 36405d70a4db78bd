"""Attention of a packed batch on a GPU in one call: FlashAttention over texts of any lengths.

Torch's ``varlen_attn`` takes all texts laid end to end, with the places where each begins. A text may have
more keys than queries; its last query then sees its last key (Dao 2023, arXiv 2307.08691, from version 2.1
on), which is what a text behind a shared prefix needs: the prefix's keys are laid in front of its own.

Shapes as in ``attention.py``: query (1, Hq, T, D), key and value (1, Hk, K, D).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tunewright.models.blocked import Text
from tunewright.models.placing import placed

Way = Literal["varlen", "loop"]
FORMATS = (torch.bfloat16, torch.float16)
WIDEST = 256  # numbers of a head
WIDEST_ANYWHERE = 192  # beyond it the backward pass needs the shared memory of a large chip
OLDEST = (8, 0)  # compute capability


class Call(NamedTuple):
    """What decides the way of one call: ``capability`` is None where torch has no FlashAttention."""

    device: str
    capability: tuple[int, int] | None
    dtype: torch.dtype
    widths: tuple[int, int]  # of a head's keys and of its values
    learns: bool
    softcap: bool
    dropout: bool
    shifted: bool


class Choice(NamedTuple):
    """A way, and why; ``worth_saying`` where it is slower than the device could be."""

    way: Way
    reason: str
    worth_saying: bool = False


def path_of(call: Call) -> Choice:
    """One call for all texts where FlashAttention can, otherwise a loop with one call for each text."""
    if call.device != "cuda":
        return Choice("loop", f"FlashAttention runs on CUDA, not on {call.device}")
    width = call.widths[0]
    large = call.capability is not None and (call.capability == OLDEST or call.capability[0] in (9, 10))
    hindrances = {
        "this torch or GPU has no FlashAttention (compute capability 8.0 or more)": (
            call.capability is None or call.capability < OLDEST
        ),
        f"FlashAttention computes in bfloat16 or float16, not in {call.dtype}": call.dtype not in FORMATS,
        "keys and values differ in size": width != call.widths[1],
        f"FlashAttention takes heads of up to {WIDEST} numbers, a multiple of 8, not {width}": (
            width > WIDEST or width % 8 != 0
        ),
        f"on this GPU FlashAttention learns with heads of up to {WIDEST_ANYWHERE} numbers, not {width}": (
            call.learns and width > WIDEST_ANYWHERE and not large
        ),
        "FlashAttention knows no soft cap of the scores": call.softcap,
        "torch's FlashAttention over many texts knows no dropout": call.dropout,
        "shifted groups are cut text by text": call.shifted,
    }
    found = next((reason for reason, holds in hindrances.items() if holds), None)
    return Choice("varlen", "FlashAttention over all texts") if found is None else Choice("loop", found, True)


def call_of(query: Tensor, value: Tensor, softcap: float | None, dropout: float, share: float) -> Call:
    """The facts of a call."""
    kind = query.device.type
    return Call(
        kind,
        _capability(query.device) if kind == "cuda" else None,
        _format(query),
        (query.shape[-1], value.shape[-1]),
        torch.is_grad_enabled() and (query.requires_grad or value.requires_grad),
        softcap is not None,
        dropout > 0,
        share > 0,
    )


@cache
def say_once(reason: str) -> None:
    """Warn that attention takes the slow way."""
    warnings.warn(f"attention is computed text by text: {reason}", stacklevel=2)


class Layout(NamedTuple):
    """Where the texts of a batch lie, on the device.

    ``queries`` and ``keys`` (S + 1,) int32 say where those of each text begin, ``order`` (K,) which keys
    stand behind each other (None: as they are); ``longest`` and ``most`` are the most queries and keys of a
    text.
    """

    queries: Tensor
    keys: Tensor
    order: Tensor | None
    longest: int
    most: int


class Packing(tuple[tuple[int, int, int | None], ...]):
    """The segments of one forward pass, which keep their layout: all layers share it.

    It goes with the pass, so it is never one that was made in inference mode or in a rehearsal.
    """

    _layouts: dict[tuple[int, torch.device], Layout]

    def layout(self, texts: Sequence[Text], before: int, device: torch.device) -> Layout:
        """That of ``texts``, which are these segments behind ``before`` further keys."""
        known = self.__dict__.setdefault("_layouts", {})
        if (before, device) not in known:
            known[before, device] = layout_of(texts, device)
        found: Layout = known[before, device]
        return found


def layout_of(texts: Sequence[Text], device: torch.device) -> Layout:
    """The layout of ``texts``, whose queries stand in their order."""
    asking = [text.length for text in texts]
    seen = [text.ahead + text.length for text in texts]
    order = torch.cat([torch.arange(*stretch) for text in texts for stretch in text.keys])
    plain = all(len(text.keys) == 1 and text.keys[0] == text.rows for text in texts)
    starts = torch.tensor([_starts(asking), _starts(seen)], dtype=torch.int32)
    queries, keys = placed(starts, device)
    return Layout(queries, keys, None if plain else placed(order, device), max(asking), max(seen))


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None
) -> Tensor:
    """Causal attention of all texts of ``layout``: (1, T, Hq, D). ``window`` counts the query itself."""
    dtype = _format(query)
    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    if layout.order is not None:
        k, v = (gathered(x, layout.order) for x in (k, v))
    behind = -1 if window is None or window >= layout.most else window - 1
    out: Tensor = kernel()(
        q,
        k,
        v,
        layout.queries,
        layout.keys,
        layout.longest,
        layout.most,
        scale=scale,
        window_size=(behind, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[None]


@cache
def kernel() -> Callable[..., Any]:
    """Torch's own; imported where it is used, as that takes most of a second."""
    found: Callable[..., Any] = import_module("torch.nn.attention.varlen").varlen_attn
    return found


def gathered(states: Tensor, order: Tensor) -> Tensor:
    """The rows ``order`` (K,) of ``states`` (T, H, D): (K, H, D). Gradients are added up in float32."""
    found: Tensor = _Gathered.apply(states, order)  # type: ignore[no-untyped-call]
    return found


class _Gathered(torch.autograd.Function):
    """A prefix is gathered once for every text behind it, so its gradient is a sum of many."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        ctx.rows, ctx.dtype = len(states), states.dtype
        return states.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        exact = torch.promote_types(ctx.dtype, torch.float32)
        total = grad.new_zeros(ctx.rows, *grad.shape[1:], dtype=exact)
        return total.index_add_(0, order, grad.to(exact)).to(ctx.dtype), None


def _starts(lengths: Iterable[int]) -> list[int]:
    return [0, *accumulate(lengths)]


def _format(states: Tensor) -> torch.dtype:
    """The format of the products: that of autocast, where it is on."""
    kind = states.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else states.dtype


@cache
def _capability(device: torch.device) -> tuple[int, int] | None:
    usable = torch.cuda.is_available() and torch.version.hip is None
    if not usable or not torch.backends.cuda.is_flash_attention_available():
        return None
    return torch.cuda.get_device_capability(device)
