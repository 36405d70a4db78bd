"""Which parameters train. Orthogonal to what is minimised.

An adapter changes a model in place or wraps it; afterwards the parameters to train are simply those with
``requires_grad``. Shapes and names of everything else stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from tunewright.adapt.options.table import options_of
from tunewright.core.errors import ConfigError
from tunewright.core.names import Registry
from tunewright.models.changes import NONE, Changes

Names = Callable[[str], bool]  # parameter name -> whether it is meant
LORA_OVER_FULL = 10.0  # Schulman et al. 2025, "LoRA Without Regret": about ten times the full rate
PEFT = "any of PEFT"  # what makes the methods that have no entry of their own


class Adapter(Protocol):
    """A way of choosing what trains."""

    label: str  # for people: "LoRA rank 16"
    provides: frozenset[str]  # e.g. {"reference"}: it can be switched off, so the base answers as reference
    whole: bool  # the model itself is saved; there is no adapter beside it
    merges: bool  # the trained difference can be folded into the weights
    library: str  # what reads the files that are saved, by its name on model hubs
    changes: Changes  # what the base must be before
    weights: torch.dtype | None  # format in which the base keeps its weights; None: that of the computation
    reloads: torch.dtype | None  # format in which the saved model is to be read, to answer as it does now
    rate: float  # prior of its learning rate, as a multiple of that of full training
    virtual: int  # positions of the context that its virtual tokens take, before every text

    def fitted(self, ids_of: Callable[[str], Sequence[int]]) -> Adapter:
        """The adapter with what it must know of the tokenizer, which is text -> ids.

        Raises ``ConfigError`` for a text in its settings that does not fit.
        """
        ...

    def attach(self, model: Any) -> nn.Module:
        """Prepare ``model`` for training; raises ``ConfigError`` for what does not fit this model."""
        ...

    def disabled(self, model: Any) -> AbstractContextManager[None]:
        """Within the context ``model`` answers exactly as the untouched base."""
        ...

    def merged(self, model: Any) -> nn.Module:
        """A plain model with the trained difference folded in; raises ``ConfigError`` where there is none."""
        ...

    def save(self, model: Any, directory: Path) -> None:
        """Write the trained part in the format other programs read."""
        ...

    def rate_of(self, name: str) -> float:
        """Learning rate of the parameter ``name`` as a multiple of the run's."""
        ...

    def active(self, step: int, steps: int, seed: int) -> Names | None:
        """Which of the trained parameters move in the 1-based ``step`` of ``steps``; None is all of them.

        A pure function, ``seed`` being that of the run, so that a resumed run comes to the same.
        """
        ...

    def penalty(self, model: Any) -> Tensor | None:
        """A term of the adapter's own to add to the loss of each update, or None."""
        ...

    def updated(self, model: Any, step: int, steps: int) -> None:
        """Called after the update of ``step`` while its gradients are still there."""
        ...

    def state(self, model: Any) -> dict[str, Tensor]:
        """What a resumed run needs besides weights and optimizer."""
        ...

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        ...


class Method:
    """The usual answers of an ``Adapter``; a method overrides those that are different for it."""

    label = ""
    provides: frozenset[str] = frozenset()
    whole = False
    merges = True
    library = "transformers"
    changes: Changes = NONE
    weights: torch.dtype | None = None
    reloads: torch.dtype | None = None
    rate = 1.0
    virtual = 0

    def fitted(self, ids_of: Callable[[str], Sequence[int]]) -> Self:
        """Nothing to know."""
        return self

    @contextmanager
    def disabled(self, model: Any) -> Iterator[None]:
        """There is nothing to switch off."""
        raise ConfigError(
            f"adapt.method {self.label!r} keeps no untouched base; use lora or give a reference model"
        )
        yield

    def merged(self, model: Any) -> nn.Module:
        """The model itself."""
        return model  # type: ignore[no-any-return]

    def save(self, model: Any, directory: Path) -> None:
        """All weights as safetensors."""
        model.save_pretrained(directory)

    def rate_of(self, name: str) -> float:
        """The same for all."""
        return 1.0

    def active(self, step: int, steps: int, seed: int) -> Names | None:
        """All, at every step."""
        return None

    def penalty(self, model: Any) -> Tensor | None:
        """None."""
        return None

    def updated(self, model: Any, step: int, steps: int) -> None:
        """Nothing to do."""

    def state(self, model: Any) -> dict[str, Tensor]:
        """Nothing besides the weights."""
        return {}

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Nothing to put back."""
        assert not state, f"state of another adapter: {sorted(state)[:3]}"


ADAPTERS: Registry[Any] = Registry(
    "adapter",
    {
        "full": "tunewright.adapt.full:Full",
        "freeze": "tunewright.adapt.freeze:Freeze",
        "head": "tunewright.adapt.head:HeadOnly",
        **dict.fromkeys(("lora", "rslora", "dora"), "tunewright.adapt.lora:Lora"),
        "qlora": "tunewright.adapt.quant:Qlora",
        "longlora": "tunewright.adapt.longlora:LongLora",
        "adalora": "tunewright.adapt.adalora:AdaLora",
        "bottleneck": "tunewright.adapt.bottleneck:Bottleneck",
        **dict.fromkeys(("prompt", "prefix", "ptuning"), "tunewright.adapt.virtual:Virtual"),
        PEFT: "tunewright.adapt.peft_method:PeftMethod",
    },
)


def adapter_of(method: str, **values: Any) -> Adapter:
    """The adapter of ``method`` with these settings; one that is not in the table is looked for in PEFT.

    Raises ``ConfigError`` for an unknown method or setting, with the nearest names.
    """
    kind = ADAPTERS[method if method in ADAPTERS else PEFT]
    adapter: Adapter = kind(method, options_of(method, values))
    return adapter


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that trains, in the model's own order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """A detached copy on the CPU of everything that trains."""
    return {name: p.detach().cpu().clone() for name, p in trainable(model).items()}
