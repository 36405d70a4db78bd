"""How many tokens are computed at once, and how many layers twice, where the recipe says ``auto``.

On a CPU 2,048 tokens at once are as fast as more, so memory is only a bound; a GPU takes as many as fit.
Most runs fit easily, which a formula that errs on the safe side says at once. Only where it does not, the run
is rehearsed on tensors without data, as ``tunewright plan`` does it, which takes some seconds a rehearsal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from tunewright.engine.footprint import total
from tunewright.engine.memory import room_mb
from tunewright.models.causal import decoder_layers
from tunewright.run import compose, encode
from tunewright.run.lanes import cores_to_share
from tunewright.run.memory_plan import MB, Case
from tunewright.run.memory_rough import rough
from tunewright.run.session import Session

MICRO, LAYERS = "train.micro_tokens", "train.memory.checkpoint_layers"
ON_CPU = (
    2048  # 1,024 take a tenth longer, 512 a third (docs/log.md); long rows side by side want up to twice that
)
ON_GPU = 2**15  # more at once is no faster
UNKNOWN = 2048  # on a GPU, where rows do not say how long an update will be
LEAST = {"cpu": 256, "cuda": 512}  # with fewer, computing layers twice costs less time than small pieces do
SHARE = {"cpu": 0.8, "cuda": 0.9}  # of the room that a run may fill: on a CPU others live, too
PARTS = 4  # layers are computed twice by quarters of the model

Fits = Callable[[int, int], bool]  # (tokens at once, layers computed twice) -> whether the run fits


class Sizes(NamedTuple):
    """``layers`` are those computed twice."""

    tokens: int
    layers: int


def pin_sizes(
    session: Session, parts: compose.Parts, sequences: encode.Sequences, room: float | None = None
) -> None:
    """Work out ``train.micro_tokens`` and ``train.memory.checkpoint_layers``, and say what was chosen.

    ``room`` is what the process may hold at most, in MB, if not all that is free now.
    """
    given = session.recipe.train
    if "auto" not in (given.micro_tokens, given.memory.checkpoint_layers):
        return
    forecast = _Forecast(session, parts, sequences, room)
    tokens, why = forecast.fastest()
    if given.micro_tokens != "auto":
        tokens = [given.micro_tokens]
    layers = (
        forecast.counts() if given.memory.checkpoint_layers == "auto" else [given.memory.checkpoint_layers]
    )
    found = search(tokens, layers, forecast.fits)
    if found is None:
        found = Sizes(tokens[-1], layers[-1])
        session.warn(forecast.shortage(found))
    elif found.tokens < tokens[0]:
        why = "as many as fit"
    if given.micro_tokens == "auto":
        session.resolved = session.resolved.pin(MICRO, found.tokens, why)
        session.note([f"{MICRO}: {found.tokens} tokens at once, {why}"])
    if given.memory.checkpoint_layers == "auto":
        because = f"memory is short: with fewer, {tokens[-1]} tokens at once would not fit"
        because = because if found.layers else "nothing has to be saved"
        session.resolved = session.resolved.pin(LAYERS, found.layers, because)
        if found.layers:
            session.note([f"{LAYERS}: {found.layers} layers are computed twice; {because}"])


def search(tokens: Sequence[int], layers: Sequence[int], fits: Fits) -> Sizes | None:
    """The fewest ``layers`` with which the least of ``tokens`` fits, and the most tokens that fit with them.

    ``tokens`` fall and ``layers`` rise; what fits goes on fitting further down either list. None if nothing
    fits. ``fits`` is asked as rarely as can be: it is dear.
    """
    if fits(tokens[0], layers[0]):
        return Sizes(tokens[0], layers[0])
    few: int | None = layers[0]
    if not fits(tokens[-1], layers[0]):
        few = _first(layers[1:], lambda count: fits(tokens[-1], count))
    if few is None:
        return None
    many = _first(tokens, lambda size: fits(size, few))
    return Sizes(tokens[-1] if many is None else many, few)


def _first(values: Sequence[int], good: Callable[[int], bool]) -> int | None:
    """The first value that is good, where all after a good one are good as well."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(values[middle]) else (middle + 1, high)
    return values[low] if low < len(values) else None


class _Forecast:
    """What training needs of the room there is; what has been rehearsed once is remembered."""

    def __init__(
        self, session: Session, parts: compose.Parts, sequences: encode.Sequences, room: float | None
    ) -> None:
        self.session, self.parts = session, parts
        self.case = Case.of(session.recipe, parts, sequences)
        device = parts.loaded.precision.device
        self.device = device.type if device.type in SHARE else "cpu"
        self.room = room or room_mb(device)
        self._known: dict[Sizes, int] = {}

    def fastest(self) -> tuple[list[int], str]:
        """Numbers of tokens at once from the fastest down, and why that is the fastest."""
        recipe, objective = self.session.recipe, self.parts.objective
        if self.device == "cpu":
            cores, _ = cores_to_share(self.session, self.parts)
            side_by_side = cores * self.case.longest
            most, why = max(ON_CPU, min(side_by_side, 2 * ON_CPU)), "the fastest on a CPU"
        elif self.case.unknown:
            most, why = UNKNOWN, "the usual number where answers are written while training"
        else:
            steps = [sum(row.size for row in step) for step in self.case.steps]
            update = max(steps) if objective.rows_per_step else recipe.train.tokens_per_step
            most, why = min(update, ON_GPU), "a whole update" if update <= ON_GPU else "the most that helps"
        found = [most]
        while found[-1] // 2 >= LEAST[self.device]:
            found.append(found[-1] // 2)
        return found, why

    def counts(self) -> list[int]:
        """Numbers of layers to compute twice, from none to all; none alone where that saves nothing."""
        if self.session.recipe.adapt.method == "head" or self.case.unknown:
            return [0]
        count = len(decoder_layers(self.parts.loaded.model))
        return sorted({round(count * part / PARTS) for part in range(PARTS + 1)})

    def fits(self, tokens: int, layers: int) -> bool:
        """By the formula if that says yes; otherwise by a rehearsal where there can be one."""
        limit = SHARE[self.device] * self.room * MB
        if self._roughly(tokens) <= limit:
            return True
        return not self.case.unknown and self._rehearsed(Sizes(tokens, layers)) <= limit

    def shortage(self, sizes: Sizes) -> str:
        """What to say where nothing fits."""
        need = self._roughly(sizes.tokens) if self.case.unknown else self._rehearsed(sizes)
        return (
            f"memory may run out: {need / MB:.0f} MB are forecast even with {MICRO} {sizes.tokens} and"
            f" {LAYERS} {sizes.layers}, and {self.room:.0f} MB are there; `tunewright plan` names what needs"
            " less"
        )

    def _roughly(self, tokens: int) -> int:
        method = self.session.recipe.adapt.method
        return self.case.program + rough(self.parts, method, self.case.sequences.train, tokens)

    def _rehearsed(self, sizes: Sizes) -> int:
        """Random numbers stay as they are."""
        if sizes not in self._known:
            resolved = self.session.resolved.pin(MICRO, sizes.tokens, "").pin(LAYERS, sizes.layers, "")
            detail = f"{sizes.tokens} tokens at once, {sizes.layers} layers computed twice"
            with self.session.stage("forecast memory", detail), torch.random.fork_rng(devices=()):
                found = self.case.training(resolved.recipe, self.parts.adapter)
            self._known[sizes] = self.case.program + total(found)
        return self._known[sizes]
