"""Counts on a CPU what a GPU would have to be waited for: whatever turns a computed value into a decision."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Their result, or its size, is a number on the host.
OPERATORS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::allclose",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
}
BY_MASK = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Methods that go past the operators where a tensor lies on a CPU.
METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "new_tensor")


class Waits(TorchDispatchMode):
    """Within it, ``found`` counts the operators and methods that wait, by name, while ``on``.

    ``torch.tensor(…, device=…)`` counts as well: on a GPU it copies at once and waits for that.
    """

    def __init__(self, monkeypatch: Any) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.on = True
        for name in METHODS:
            monkeypatch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))
        made = torch.tensor

        def tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
            if kwargs.get("device") is not None:
                self._note("torch.tensor on a device")
            return made(*args, **kwargs)

        monkeypatch.setattr(torch, "tensor", tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        masked = name in BY_MASK and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in OPERATORS or masked:
            self._note(name)
        return func(*args, **(kwargs or {}))

    def _counted(self, name: str, method: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._note(name)
            return method(*args, **kwargs)

        return counted

    def _note(self, name: str) -> None:
        if self.on:
            self.found[name] += 1
