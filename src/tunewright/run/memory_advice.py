"""Which setting would make a run fit into the memory there is: candidates are tried, not guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tunewright.core.config import build
from tunewright.core.errors import TunewrightError
from tunewright.engine.footprint import total
from tunewright.engine.optim import PROJECTED
from tunewright.run import compose
from tunewright.run.memory_plan import Case, Prediction
from tunewright.run.recipe import Recipe, merged_values

Settings = Mapping[str, Any]
LEAST_TOKENS = 64  # smallest micro-batch that is proposed
SMALL_RANK = 16


class Ladder(NamedTuple):
    """Values of settings, each saving more than the one before; ``phases`` are those that they touch."""

    phases: frozenset[str]
    rungs: tuple[Settings, ...]


class Advice(NamedTuple):
    """Settings with which the run fits, and what it would need with them."""

    settings: dict[str, Any]
    prediction: Prediction


EVERY = frozenset({"load", "train", "answer"})
TRAIN, ANSWER = frozenset({"train"}), frozenset({"answer"})


def ladders(case: Case) -> Iterator[Ladder]:
    """What can be given up, in the order in which a user would: time first, then precision, then method."""
    recipe = case.recipe
    yield Ladder(
        TRAIN, tuple({"train.micro_tokens": n} for n in _halves(recipe.train.micro_tokens, LEAST_TOKENS))
    )
    yield Ladder(ANSWER, tuple({"evaluate.batch_size": n} for n in _halves(recipe.evaluate.batch_size, 1)))
    layers = case.ready.parts.loaded.model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr]
    given = recipe.train.memory.checkpoint_layers
    yield Ladder(
        TRAIN,
        tuple({"train.memory.checkpoint_layers": n} for n in (layers // 2, layers) if n > given),
    )
    if recipe.train.optim.name not in PROJECTED:
        yield Ladder(TRAIN, ({"train.optim.name": "adamw_8bit"},))
    if recipe.model.dtype == "float32" and recipe.adapt.method not in ("full", "freeze"):
        yield Ladder(EVERY, ({"model.dtype": "bfloat16"},))
    if recipe.adapt.method in ("full", "freeze"):
        yield Ladder(EVERY, ({"adapt": {"method": "lora", "rank": SMALL_RANK}},))
    if recipe.adapt.method in ("full", "freeze", "lora", "rslora", "dora"):
        yield Ladder(EVERY, ({"adapt": {"method": "qlora", "rank": SMALL_RANK}},))


def advice(case: Case, now: Prediction, limit: int) -> Advice | None:
    """The first single setting that brings the run below ``limit`` bytes, else the first few together.

    None where not even all of them would.
    """
    together: dict[str, Any] = {}
    for ladder in ladders(case):
        if _rest(now, ladder.phases) <= limit:
            found = _first(case, {}, ladder, limit)
            if found is not None:
                return found
    for ladder in ladders(case):
        found = _first(case, together, ladder, limit)
        if found is not None:
            return found
        for rung in reversed(ladder.rungs):
            if _predicted(case, together | dict(rung)) is not None:
                together |= rung
                break
    return None


def _first(case: Case, beside: Settings, ladder: Ladder, limit: int) -> Advice | None:
    for rung in ladder.rungs:
        settings = {**beside, **rung}
        found = _predicted(case, settings)
        if found is not None and found.peak <= limit:
            return Advice(settings, found)
    return None


def _predicted(case: Case, settings: Settings) -> Prediction | None:
    """What the run needs with these settings; None where they do not go with the rest of the recipe."""
    try:
        recipe = build(Recipe, merged_values(case.recipe.model_dump(), dict(settings)))
        compose.check_early(recipe)
        return case.predict(recipe)
    except TunewrightError:
        return None


def _rest(now: Prediction, touched: frozenset[str]) -> int:
    """What the phases need that a setting does not touch."""
    left = [total(found) for phase, found in now.phases.items() if phase not in touched]
    return now.program + max(left, default=0)


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value
