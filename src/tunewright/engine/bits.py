"""AdamW of bitsandbytes: moments in 8 bits, or in pages that a GPU shares with the CPU.

Eight bits are those of Dettmers et al. 2021 (arXiv 2110.02861): blocks of 256 numbers with a scale each;
tensors of fewer than 4096 numbers keep 32 bits. Pages are those of QLoRA (Dettmers et al. 2023, arXiv
2305.14314): what does not fit on the GPU waits in the CPU's memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.core.errors import ConfigError
from tunewright.engine.slots import Slots, stored

PAGED = frozenset({"paged_adamw", "paged_adamw_8bit"})
IN_BITS = PAGED | {"adamw_8bit"}
CONSTANT = ("qmap1", "qmap2")  # the 256 levels, the same for every parameter and run


def resolved_name(name: str, device: str, quantised: bool) -> str:
    """What ``auto`` means on a device of this type: adamw, or paged on a GPU over a base in few bits.

    QLoRA trains so few weights that their moments may stay in 32 bits.
    """
    if name != "auto":
        return name
    return "paged_adamw" if device == "cuda" and quantised else "adamw"


def unpaged(name: str) -> str:
    """The same optimizer without pages, for a device that has none."""
    return name.removeprefix("paged_")


def check_installed(name: str) -> None:
    """Raise ``ConfigError`` if ``name`` needs bitsandbytes and it is not there."""
    if name in IN_BITS and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"train.optim.name {name!r} needs bitsandbytes: pip install 'tunewright[quant]', or use adamw"
        )


def make_bits(
    name: str, groups: Sequence[dict[str, Any]], betas: tuple[float, float], device: torch.device
) -> Any:
    """The optimizer ``name`` over ``groups``; unpaged where ``device`` is no GPU. Raises ``ConfigError``."""
    check_installed(name)
    paged, bits = name in PAGED and device.type == "cuda", 8 if name.endswith("8bit") else 32
    kind = _bits_class()
    return kind("adam", list(groups), lr=0.0, betas=betas, optim_bits=bits, is_paged=paged)


@cache
def _bits_class() -> type:
    """``Optimizer2State`` of bitsandbytes with our way of storing what it remembers."""
    library = importlib.import_module("bitsandbytes.optim.optimizer")
    return type("AdamWInBits", (_BitSlots, library.Optimizer2State), {})


class _BitSlots(Slots):
    """The levels are left out and put back; pages are filled where they lie."""

    param_groups: list[dict[str, Any]]
    is_paged: bool

    def slots(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if self.is_paged:  # the CPU reads pages that the GPU may still be writing
            torch.cuda.synchronize()
        state = self.state.get(parameter, {})
        return stored((name, value) for name, value in state.items() if name not in CONSTANT)

    def restore(self, parameter: nn.Parameter, slots: Mapping[str, Tensor]) -> None:
        group, place = self._place(parameter)
        self.init_state(self.param_groups[group], parameter, group, place)  # type: ignore[attr-defined]
        state = self.state[parameter]
        for name, value in slots.items():
            if name == "step":
                state[name] = int(value)
            else:
                state[name].copy_(value)

    def _place(self, parameter: nn.Parameter) -> tuple[int, int]:
        for g, group in enumerate(self.param_groups):
            for place, other in enumerate(group["params"]):
                if other is parameter:
                    return g, place
        raise AssertionError("a parameter of another optimizer")
