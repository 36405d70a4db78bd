"""Which setting would make a run fit into the memory there is: candidates are tried, not guessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tunewright.core.config import build
from tunewright.core.errors import TunewrightError
from tunewright.run import compose
from tunewright.run.memory_plan import ANSWER, EVERY, TRAIN, Case, Prediction
from tunewright.run.recipe import Recipe, merged_values

Settings = Mapping[str, Any]
MANY = 64  # answers at once, half of which are proposed first in place of as many as pay
LEAST_TOKENS = 64  # smallest micro-batch that is proposed
WHOLE = ("full", "freeze")  # methods that keep weights in float32, whatever model.dtype says
BARE = 16  # rank of a LoRA that is proposed in place of another method
WORTH = 0.98  # what leaves more than this share of what is needed beside the program is no help


class Ladder(NamedTuple):
    """Values of one setting, each saving more than the one before; ``phases`` are those that it touches."""

    phases: frozenset[str]
    rungs: tuple[Settings, ...]


class Advice(NamedTuple):
    """Settings with which the run fits, and what it would need with them."""

    settings: dict[str, Any]
    prediction: Prediction


def advice(case: Case, now: Prediction, limit: int) -> Advice | None:
    """The first single setting that brings the run within ``limit`` bytes, else a few together.

    None where no setting that is known would.
    """
    search = _Search(case, now, limit)
    every = [ladder for ladder in ladders(case) if ladder.rungs]
    for ladder in every:
        if now.beside(ladder.phases) <= limit and (found := search.mildest(ladder)):
            return found
    return search.together(every)


def ladders(case: Case) -> Iterator[Ladder]:
    """What can be given up, the least harmful first: time, then precision, then the method."""
    recipe, longest = case.recipe, case.longest
    pieces = [n for n in _halves(recipe.train.at_once, LEAST_TOKENS) if 2 * n > longest]
    yield Ladder(TRAIN, tuple({"train.micro_tokens": n} for n in pieces))
    at_once = MANY if recipe.evaluate.batch_size == "auto" else recipe.evaluate.batch_size
    yield Ladder(ANSWER, tuple({"evaluate.batch_size": n} for n in _halves(at_once, 1)))
    more = [n for n in (case.layers // 2, case.layers) if n > recipe.train.memory.recomputed]
    yield Ladder(TRAIN, tuple({"train.memory.checkpoint_layers": n} for n in more))
    if recipe.train.optim.name == "adamw":
        yield Ladder(TRAIN, ({"train.optim.name": "adamw_8bit"},))
    if recipe.model.dtype == "float32" and recipe.adapt.method not in WHOLE:
        yield Ladder(EVERY, ({"model.dtype": "bfloat16"},))
    if recipe.adapt.method in WHOLE:
        yield Ladder(EVERY, ({"adapt": {"method": "lora", "rank": BARE}},))
    if recipe.adapt.method in (*WHOLE, "lora", "rslora", "dora"):
        rank = getattr(recipe.adapt.options, "rank", BARE)
        yield Ladder(EVERY, ({"adapt": {"method": "qlora", "rank": rank}},))


@dataclass
class _Search:
    """Remembers what was tried."""

    case: Case
    now: Prediction
    limit: int
    tried: dict[str, Prediction | None] = field(default_factory=dict)

    def mildest(self, ladder: Ladder) -> Advice | None:
        """The first rung that fits by itself; there is none if the last does not fit."""
        last = self.predicted(ladder.rungs[-1], ladder.phases)
        if last is None or last.peak > self.limit:
            return None
        tried = ((rung, self.predicted(rung, ladder.phases)) for rung in ladder.rungs)
        return next(Advice(dict(rung), found) for rung, found in tried if found and found.peak <= self.limit)

    def together(self, every: list[Ladder]) -> Advice | None:
        """Down one ladder after the other until the run fits, then up again where that is not needed."""
        chosen: dict[int, Settings] = {}
        here = self.now
        for place, ladder in enumerate(every):
            least = self.predicted(_merged([*chosen.values(), ladder.rungs[-1]]))
            if least is None or least.peak - least.program > WORTH * (here.peak - here.program):
                continue
            chosen[place], here = ladder.rungs[-1], least
            if here.peak <= self.limit:
                return self._relaxed(every, chosen, here)
        return None

    def _relaxed(self, every: list[Ladder], chosen: dict[int, Settings], fitting: Prediction) -> Advice:
        """The mildest rung of each ladder, none at all first, that still fits beside the others."""
        for place in reversed([*chosen]):
            for rung in ({}, *every[place].rungs):
                others = chosen | {place: rung}
                found = self.predicted(_merged(others.values()))
                if found is not None and found.peak <= self.limit:
                    chosen, fitting = others, found
                    break
        return Advice(_merged(chosen.values()), fitting)

    def predicted(self, settings: Settings, touched: frozenset[str] = EVERY) -> Prediction | None:
        """What the run needs with these settings; None where they do not go with the rest of the recipe."""
        key = repr(sorted(settings.items()))
        if key not in self.tried:
            try:
                recipe = build(Recipe, merged_values(self.case.recipe.model_dump(), dict(settings)))
                compose.check_early(recipe)
                self.tried[key] = self.case.predict(recipe, touched, self.now)
            except TunewrightError:
                self.tried[key] = None
        return self.tried[key]


def _merged(rungs: Iterable[Settings]) -> dict[str, Any]:
    return {name: value for rung in rungs for name, value in rung.items()}


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value
