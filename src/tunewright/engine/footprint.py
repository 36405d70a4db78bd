"""How much memory a run takes: its own loop and its own generation, run on tensors without data.

Every function works on a model that a ``Ledger`` has ``emptied``, within that ledger, and gives bytes by kind
at the moment when most was needed: ``weights``, ``gradients``, ``optimizer``, and ``activations`` for
everything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tunewright.core.events import silent
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.ghost import Ledger
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.engine.plan import Heaviest
from tunewright.models.generate import AtOnce, Sampling, generate
from tunewright.models.resting import bytes_of_copies
from tunewright.models.width import rows_at_once
from tunewright.objectives.base import Batch

Bytes = dict[str, int]  # kind -> bytes
EPOCHS = 100  # of the rehearsed run; its first and its last but one step are run: by then all layers thawed


def of_training(ledger: Ledger, job: Job, settings: FitSettings, most: Heaviest) -> Bytes:
    """Bytes while ``job`` trains on its heaviest micro-batch, when the optimizer's state is there already.

    Where a step has several micro-batches, the gradients of an earlier one are there too.
    """
    shortest = min(most.sequences, key=lambda tokens: tokens.size)
    small, large = ([shortest], list(most.sequences))
    settings = replace(
        settings, epochs=EPOCHS, max_steps=None, tokens_per_step=2**62, lanes=1, every=0, save_every=0
    )
    device = next(job.model.parameters()).device
    batches = [build_batch(rows, range(len(rows)), device) for rows in (small, large)]
    fit = _Rehearsal(replace(job, train=large, validation=(), task_metrics=None), settings)
    _label_as_they_come(ledger, fit)
    if most.steps > 1:
        fit.given = batches[:1]
        fit.advance()
        fit.state.step = EPOCHS - 2
    fit.given = batches if most.in_step > 1 else batches[1:]
    ledger.watch()
    fit.advance()
    return dict(ledger.peak)


class _Rehearsal(Fit):
    """The loop itself, with batches that are given to it; nothing is written."""

    given: list[Batch]

    def __init__(self, job: Job, settings: FitSettings) -> None:
        super().__init__(job, settings, Path(os.devnull), silent)

    def batches(self, sequences: Sequence[Tokens]) -> list[Batch]:
        """What was given."""
        return self.given


def _label_as_they_come(ledger: Ledger, fit: Fit) -> None:
    """Count gradients and the optimizer's state by their names."""

    def gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            ledger.label([parameter.grad], "gradients")

    for parameter in fit.parameters.values():
        parameter.register_post_accumulate_grad_hook(gradient)  # type: ignore[no-untyped-call]
    several: Any = getattr(fit.updates, "optimizers", None)
    for optimizer in several.values() if several else [fit.updates.optimizer]:
        optimizer.step = partial(_within, ledger, optimizer.step)  # type: ignore[method-assign]


def _within(ledger: Ledger, step: Callable[[], Any]) -> Any:
    with ledger.kind("optimizer"):
        return step()


def of_answering(
    ledger: Ledger, model: nn.Module, lengths: Sequence[int], new_tokens: int, batch_size: AtOnce
) -> Bytes:
    """Bytes while ``model`` answers prompts of these ``lengths``, ``batch_size`` at a time, at most
    ``new_tokens`` each.

    Looked at are the longest prompts, when they are read, and the last step of their answers, with the keys
    and values that there are by then.
    """
    if batch_size == "auto":
        batch_size = rows_at_once(model, max(lengths, default=0) + new_tokens)
    longest = sorted(lengths, reverse=True)[:batch_size]
    room = _room(model)
    model.eval()

    def run(written: int, heard: Callable[[int, int], None] | None) -> Bytes:
        prompts = [_prompt(i, min(length + written, room)) for i, length in enumerate(longest)]
        ledger.watch()
        generate(model, prompts, Sampling(max_new_tokens=2), batch_size=batch_size, on_token=heard)
        return dict(ledger.peak)

    found = [run(0, None), run(max(new_tokens - 2, 0), lambda row, token: ledger.watch())]
    most = max(found, key=total)
    return {**most, "activations": most.get("activations", 0) + bytes_of_copies(model, new_tokens)}


def _prompt(number: int, length: int) -> list[int]:
    """Ids that begin otherwise than those of every other number, so that no two prompts share anything."""
    return [1 + number, *[1] * (length - 1)]


def _room(model: Any) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2**30) - 2


def total(found: Bytes) -> int:
    """All kinds together."""
    return sum(found.values())
