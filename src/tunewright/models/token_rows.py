"""Rows of the embedding and the output layer that train by themselves (PEFT's trainable tokens).

PEFT puts them into a copy of the whole matrix in every call. Here the few rows are computed beside it.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn

from tunewright.models.placing import placed


class Rows(NamedTuple):
    """Rows ``weight`` (n, H) that stand for the rows ``ids`` (n,) of a matrix."""

    ids: Tensor
    weight: Tensor


def plain_layer(layer: Any) -> Any:
    """The embedding or output layer itself, without the rows that train."""
    found = _trained(layer)
    return layer if found is None else found.get_base_layer()


def rows_of(layer: Any) -> Rows | None:
    """The rows that count now; None where there are none, or they are switched off or merged."""
    found = _trained(layer)
    return None if found is None or layer.disable_adapters else _rows(found)


def lean_rows(model: nn.Module) -> int:
    """Replace the forward of every layer with such rows; returns how many were."""
    count = 0
    for module in model.modules():
        if type(module) is TrainableTokensLayer:
            module.forward = types.MethodType(_forward, module)  # type: ignore[method-assign]
            count += 1
    return count


def _trained(layer: Any) -> Any:
    """PEFT's layer of the rows: beside another method it stands in a wrapper, else by itself."""
    if isinstance(layer, TrainableTokensWrapper):
        return layer.token_adapter
    return layer if isinstance(layer, TrainableTokensLayer) else None


def _rows(layer: Any) -> Rows | None:
    names = [name for name in layer.active_adapters if name in layer.trainable_tokens_delta]
    if layer.disable_adapters or layer.merged or len(names) != 1:
        return None
    weight = layer.trainable_tokens_delta[names[0]]
    return Rows(placed(torch.tensor(layer.token_indices[names[0]]), weight.device), weight)


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    rows, base = _rows(self), self.get_base_layer()
    if rows is None or not isinstance(base, nn.Embedding | nn.Linear):
        plain: Tensor = type(self).forward(self, x, *args, **kwargs)
        return plain
    out: Tensor = base(x)
    if isinstance(base, nn.Linear):
        return out.index_copy(-1, rows.ids, (x @ rows.weight.to(x.dtype).T).to(out.dtype))
    matches = x[..., None] == rows.ids
    own = F.embedding(matches.int().argmax(-1), rows.weight).to(out.dtype)
    scale = self._get_embed_scale()  # some models scale inside their embedding
    own = own if scale is None else own * scale.to(own.dtype)
    return torch.where(matches.any(-1, keepdim=True), own, out)
