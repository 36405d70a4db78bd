"""From gradients to new weights: when the whole gradient is there, or parameter by parameter as it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from tunewright.core.errors import ConfigError, TrainError
from tunewright.engine.optim import (
    PROJECTED,
    OptimSettings,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_rate,
)
from tunewright.engine.projected import check_projects
from tunewright.engine.slots import Optimizer
from tunewright.engine.step import clip

Rates = Callable[[str], float]
Parameters = Mapping[str, nn.Parameter]


def make_updates(
    parameters: Parameters, settings: OptimSettings, clip_norm: float, rate_of: Rates = lambda name: 1.0
) -> Updates:
    """What moves ``parameters``; ``clip_norm`` 0 does not clip. Raises ``ConfigError`` for what cannot be."""
    if settings.name in PROJECTED:
        check_projects([*parameters.values()], settings.projection)
    if not settings.in_backward:
        return Updates(parameters, make_optimizer(parameters, settings, rate_of), clip_norm)
    check_unclipped(clip_norm)
    return InBackward(
        parameters, {name: make_optimizer({name: p}, settings, rate_of) for name, p in parameters.items()}
    )


def check_unclipped(clip_norm: float) -> None:
    """Raise ``ConfigError`` for a norm that an update within the backward pass cannot know."""
    if clip_norm > 0:
        raise ConfigError(
            "train.memory.update in_backward moves weights before the whole gradient is known, so it cannot"
            f" be clipped to train.optim.clip_norm {clip_norm}; set train.optim.clip_norm=0"
        )


class Updates:
    """Moves all parameters once the whole gradient is there."""

    def __init__(self, parameters: Parameters, optimizer: Optimizer, clip_norm: float) -> None:
        self.parameters, self.optimizer, self.clip_norm = parameters, optimizer, clip_norm

    def set_rate(self, rate: float) -> None:
        """The learning rate of the step to come."""
        set_rate(self.optimizer, rate)

    @contextmanager
    def last_backward(self) -> Iterator[None]:
        """Stands around the backward pass that completes the gradient of a step."""
        yield

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Stands around a backward pass that needs the memory of ``last_backward`` and moves nothing."""
        yield

    @property
    def started(self) -> bool:
        """Whether weights have moved in a step that is not finished."""
        return False

    def drop_gradient(self) -> None:
        """Forget all that backward passes have added up."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def finish(self, where: str, then: Callable[[], None] = lambda: None) -> float:
        """Clip, step, ``then``, forget the gradients; returns the gradient's norm before clipping.

        Raises ``TrainError``, which says ``where``, and changes nothing, if the norm is not finite.
        """
        norm = clip([*self.parameters.values()], self.clip_norm)
        if not math.isfinite(norm):
            raise TrainError(
                f"the gradient norm is {norm} at {where}; the update was not applied."
                " Lower train.learning_rate"
            )
        self.optimizer.step()
        then()
        self.drop_gradient()
        return norm

    def forget(self, name: str) -> None:
        """Drop the moments of a parameter that does not move any more."""
        self.optimizer.forget(self.parameters[name])

    def state(self) -> dict[str, Tensor]:
        """All moments, to be stored."""
        return optimizer_state(self.optimizer, self.parameters)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``."""
        load_optimizer_state(self.optimizer, self.parameters, state)


class InBackward(Updates):
    """Moves each parameter within the last backward pass of a step and frees its gradient at once.

    Lv et al. 2023, arXiv 2306.09782, with any optimizer. The weights are those of ``Updates`` without
    clipping, to the last bit. What a step's earlier backward passes add up has to be kept, so memory is saved
    where a step has one micro-batch.
    """

    def __init__(self, parameters: Parameters, optimizers: Mapping[str, Optimizer]) -> None:
        self.parameters, self.optimizers, self.clip_norm = parameters, optimizers, 0.0
        self._norms: dict[str, Tensor] = {}

    def set_rate(self, rate: float) -> None:
        """The learning rate of the step to come."""
        for optimizer in self.optimizers.values():
            set_rate(optimizer, rate)

    @contextmanager
    def last_backward(self) -> Iterator[None]:
        """Within it, a gradient that is complete is used up."""
        with self._as_they_come(self._move):
            yield

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Within it, a gradient that is complete is forgotten."""
        with self._as_they_come(lambda name, parameter: setattr(parameter, "grad", None)):
            yield

    @contextmanager
    def _as_they_come(self, use: Callable[[str, Tensor], None]) -> Iterator[None]:
        hooks = [
            parameter.register_post_accumulate_grad_hook(partial(use, name))  # type: ignore[no-untyped-call]
            for name, parameter in self.parameters.items()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def started(self) -> bool:
        """Whether weights have moved in a step that is not finished."""
        return bool(self._norms)

    def finish(self, where: str, then: Callable[[], None] = lambda: None) -> float:
        """Move what the last backward pass did not reach, ``then``; returns the whole gradient's norm."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self._move(name, parameter)
        norms = [self._norms[name] for name in self.parameters if name in self._norms]
        self._norms = {}
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
        then()
        return norm

    def forget(self, name: str) -> None:
        """Drop the moments of a parameter that does not move any more."""
        self.optimizers[name].forget(self.parameters[name])

    def state(self) -> dict[str, Tensor]:
        """All moments, to be stored."""
        found: dict[str, Tensor] = {}
        for name, optimizer in self.optimizers.items():
            found |= optimizer_state(optimizer, {name: self.parameters[name]})
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``."""
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, {name: self.parameters[name]}, state)

    def _move(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None, "called where a gradient has just been added up"
        norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
        if not math.isfinite(norm):
            raise TrainError(
                f"the gradient of {name} is not finite, while others of the same step were applied already;"
                " no checkpoint holds them. Start again with a lower train.learning_rate"
            )
        self._norms[name] = norm
        self.optimizers[name].step()
        parameter.grad = None
