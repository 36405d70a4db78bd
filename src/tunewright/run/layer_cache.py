"""Whether the states of layers that never train are kept on disk: what hinders it, what room it takes.

It is decided before the run begins and noted in ``recipe.yaml``, so that a resumed run does as the first.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunewright.core.errors import ConfigError
from tunewright.core.paths import RunDir
from tunewright.core.records import Tokens
from tunewright.models.causal import causal_lm, number_of_layers
from tunewright.models.forward import ModelForward
from tunewright.models.frozen import FrozenForward, trunk_is_fixed
from tunewright.models.layer_cache import LayerCache, lower_layers
from tunewright.models.states import bytes_needed
from tunewright.run import compose, encode
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved
from tunewright.run.session import Session

Rows = tuple[Sequence[Tokens], Sequence[Tokens]]  # to train on, to validate with
MB = 2**20
FILLED = 0.9  # of the room on the disk that may be filled; the rest is for checkpoints and answers
FRESH = {  # requirement of an objective -> why no row is seen again
    "rollouts": "the answers it trains on are sampled while it trains",
    "student_answers": "the answers it trains on are written while it trains",
}


@dataclass(frozen=True)
class Keeping:
    """What would be kept: the states above ``layers`` layers, ``size`` bytes; or why not, as ``fault``."""

    layers: int = 0
    size: int = 0
    fault: str | None = None


def pin_cache(session: Session, parts: compose.Parts, sequences: encode.Sequences) -> Resolved:
    """Work out ``train.layer_cache``. Raises ``ConfigError`` where ``on`` needs more room than there is.

    Where ``on`` is impossible it is said, and the run goes on without.
    """
    name, asked = "train.layer_cache", session.recipe.train.layer_cache
    if asked == "off":
        return session.resolved
    found = _keeping(session.recipe, parts, parts.shell, (sequences.train, sequences.validation))
    if found.fault is not None and asked == "on":
        session.warn(f"{name} on has no effect: {found.fault}")
        return session.resolved
    if found.fault is not None:
        return session.resolved.pin(name, "off", found.fault)
    try:
        _check_room(session.run, found)
    except ConfigError as error:
        if asked == "on":
            raise
        session.warn(f"{name} is off, and the layers run in every epoch: {error}")
        return session.resolved.pin(name, "off", "no room on the disk")
    total = number_of_layers(parts.loaded.model)
    why = f"{found.layers} of {total} layers never train; at most {mb(found.size)} on disk"
    session.note([f"{why}: each text runs through them once"] if found.layers < total else [])
    return session.resolved if asked == "on" else session.resolved.pin(name, "on", why)


def begin_cache(session: Session, parts: compose.Parts, forward: ModelForward, rows: Rows) -> None:
    """Let ``forward`` keep the states of the layers that never train, where that was decided.

    The reference's log-probabilities are there by now: they may have come from the user's cache, and what is
    kept must not depend on that. Raises ``ConfigError`` where the room on the disk has gone.
    """
    if session.recipe.train.layer_cache != "on" or isinstance(forward, FrozenForward):
        return
    found = _keeping(session.recipe, parts, forward.model, rows)
    if found.fault is not None:
        return  # which was said when it was worked out
    cache = LayerCache.begun(forward, found.layers, session.run.cache)
    if isinstance(cache, str):
        session.warn(f"train.layer_cache has no effect, and the layers run in every epoch: {cache}")
        return
    _check_room(session.run, found)
    forward.below = cache


def mb(size: int) -> str:
    """Bytes in words."""
    return f"{size / MB:.1f} MB" if size < 100 * MB else f"{size / MB:,.0f} MB"


def _check_room(run: RunDir, found: Keeping) -> None:
    """Raise ``ConfigError`` where the disk has not the room; what the run has written counts as room."""
    there = sum(path.stat().st_size for path in run.cache.glob("*"))
    existing = next(path for path in run.cache.absolute().parents if path.exists())
    free = there + int(FILLED * shutil.disk_usage(existing).free)
    if found.size > free:
        raise ConfigError(
            f"the states of layers that never train take {mb(found.size)}, and {existing} has room for"
            f" {mb(free)}; make room, choose another output.dir, or set train.layer_cache=off"
        )


def _keeping(recipe: Recipe, parts: compose.Parts, model: Any, rows: Rows) -> Keeping:
    """What would be kept of ``rows`` by ``model``, ready to train."""
    objective, (train, validation) = parts.objective, rows
    fresh = sorted(objective.requires & set(FRESH))
    if fresh:
        return Keeping(fault=FRESH[fresh[0]])
    if compose.neftune_of(recipe) > 0:
        return Keeping(fault="objective.neftune adds noise to the embeddings")
    texts = [len(text.ids) for row in (*train, *validation) for text in (row, *row.branches)]
    width, dtype = causal_lm(model).config.get_text_config().hidden_size, parts.loaded.precision.dtype
    if trunk_is_fixed(model):  # one state of each text is kept, and read at every evaluation
        return Keeping(number_of_layers(model), bytes_needed(len(texts), len(texts), width, torch.float32))
    count, fault = lower_layers(model)
    pace = compose.pace_of(recipe, objective)
    if fault is None and encode.planned(objective, train, pace, objective.updates)[-1].epoch <= 1:
        fault = "no text is seen a second time"
    return Keeping(count, bytes_needed(len(texts), sum(texts), width, dtype), fault)
