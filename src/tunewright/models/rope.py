"""Rotary positions (Su et al. 2021, arXiv 2104.09864) for longer texts than a model was made for.

``linear`` divides every position by the factor (Chen et al. 2023, arXiv 2306.15595). ``yarn`` divides the
slow frequencies, leaves the fast ones and sharpens attention a little (Peng et al. 2023, arXiv 2309.00071).
``dynamic`` leaves a text within the old context as it is and raises the base the more, the longer a text is
beyond it. ``default`` leaves positions as they are, so that only the context grows.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.core.errors import ModelError
from tunewright.models.causal import causal_lm

_CAME_WITH = "came_with"  # attribute of a model whose context was stretched: its config before
WINDOWED = "sliding_attention"  # such a layer sees no further than before, however long the text


def stretched(config: Any, rope: Mapping[str, Any]) -> Any:
    """``config``, changed in place: a context ``rope["factor"]`` times as long by ``rope["rope_type"]``.

    Raises ``ModelError`` for a model without rotary positions, or one whose are stretched in another way.
    """
    check_rotary(config)
    text = config.get_text_config()
    present = text.rope_parameters
    kind, before = rope["rope_type"], int(text.max_position_embeddings)
    after = round(before * rope["factor"])
    parts = [name for name, part in present.items() if isinstance(part, dict)]  # one for each kind of layer
    if parts:
        meant = [name for name in parts if name != WINDOWED] or parts
        changed = {name: _part(present[name], kind, before, after) for name in meant}
        text.rope_parameters = {**present, **changed}
    else:
        text.rope_parameters = _part(present, kind, before, after)
    if kind == "yarn" and hasattr(text, "original_max_position_embeddings"):
        text.original_max_position_embeddings = (
            before  # where a config has it, it counts before the rope's own
        )
    if kind != "dynamic":  # which reads the old context there
        text.max_position_embeddings = after
    return config


def check_rotary(config: Any) -> None:
    """Raise ``ModelError`` for a model without rotary positions."""
    text = config.get_text_config()
    if not getattr(text, "rope_parameters", None):
        raise ModelError(
            f"a {text.model_type} model has no rotary positions (rope_parameters in its config), so its"
            " context cannot be stretched; use adapt.method lora, or a model with rotary positions"
        )


def context(config: Any) -> int | None:
    """Longest text in tokens that a model with this config is made for; None where nothing says."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    factors = [part["factor"] for part in _parts(text) if part.get("rope_type") == "dynamic"]
    return round(positions * max(factors, default=1.0)) if positions else None


def caches_all(config: Any) -> bool:
    """Whether keys can be cached up to ``context``: with ``dynamic`` they would change with every token."""
    return all(part.get("rope_type") != "dynamic" for part in _parts(config.get_text_config()))


def steady(model: nn.Module) -> None:
    """Where frequencies depend on how long a text is, let each text of a packed batch have its own.

    transformers takes those of the longest position in the batch, and of batches before it. A prefix and all
    that continues it are one text.
    """
    for module in model.modules():
        if _kinds(module) & {"dynamic", "longrope"}:
            module.forward = types.MethodType(_text_by_text, module)


def remember(model: Any, config: Any) -> None:
    """Note the config that ``model`` came with, for ``as_before``."""
    setattr(model, _CAME_WITH, config)


@contextmanager
def as_before(model: Any) -> Iterator[None]:
    """Within the context ``model`` has the positions it came with, if it was stretched at all.

    Texts may still be as long as the stretched context: the untouched model is asked what it cannot do.
    """
    lm = causal_lm(model)
    config: Any = getattr(lm, _CAME_WITH, None)
    places = [
        (parent, name, child)
        for parent in (lm.modules() if config is not None else ())
        for name, child in parent.named_children()
        if _kinds(child)
    ]
    for parent, name, child in places:
        plain: Any = type(child)(config.get_text_config())
        setattr(parent, name, plain.to(next(child.buffers()).device))
    if places:
        steady(lm)
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)


def _part(present: Mapping[str, Any], kind: str, before: int, after: int) -> dict[str, Any]:
    now = present.get("rope_type", "default")
    if kind == "default":
        return dict(present)
    if now != "default" and (now, kind) != ("linear", "linear"):
        raise ModelError(
            f"the rotary positions of this model are stretched already (rope_type {now!r}) and cannot be"
            f" stretched by {kind!r} as well; use adapt.rope none"
        )
    factor = after / before * (present["factor"] if now == "linear" else 1.0)
    own = {"original_max_position_embeddings": before} if kind == "yarn" else {}
    return {**present, "rope_type": kind, "factor": factor, **own}


def _parts(text: Any) -> list[Mapping[str, Any]]:
    rope = getattr(text, "rope_parameters", None) or {}
    return [part for part in rope.values() if isinstance(part, dict)] or [rope]


def _kinds(module: Any) -> set[str]:
    """The kinds of rotary positions that ``module`` makes, if it makes any."""
    kinds = getattr(module, "rope_type", None) if hasattr(module, "original_max_seq_len") else None
    return set(kinds.values()) if isinstance(kinds, dict) else {kinds} if kinds else set()


def _text_by_text(
    self: Any, x: Tensor, position_ids: Tensor, layer_type: str | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (B, T, D) each; a batch of one row is cut wherever a text begins."""
    begins = position_ids[0].eq(0).nonzero()[:, 0].tolist() if position_ids.shape[0] == 1 else []
    cuts = sorted({0, *begins, position_ids.shape[1]})
    layer = {} if layer_type is None else {"layer_type": layer_type}
    parts = []
    for a, b in pairwise(cuts):
        _forget(self)
        parts.append(type(self).forward(self, x[:, a:b], position_ids[:, a:b], **layer))
    cosines, sines = zip(*parts, strict=True)
    return torch.cat(cosines, 1), torch.cat(sines, 1)


def _forget(module: Any) -> None:
    """Forget the longest text so far; ``dynamic`` would keep its frequencies for the next."""
    if "dynamic" not in _kinds(module):
        return
    for name in [n for n, _ in module.named_buffers(recurse=False) if n.endswith("inv_freq")]:
        if not name.endswith("original_inv_freq"):
            original = getattr(module, name.removesuffix("inv_freq") + "original_inv_freq")
            module.register_buffer(name, original.to(getattr(module, name).device), persistent=False)
    for name in [n for n in vars(module) if n.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)
