"""How many micro-batches are computed side by side, where the recipe says ``auto``."""

from __future__ import annotations

import torch

from tunewright.adapt.bottleneck import Bottleneck
from tunewright.adapt.freeze import Freeze
from tunewright.adapt.full import Full
from tunewright.adapt.longlora import LongLora
from tunewright.adapt.lora import Lora
from tunewright.core.errors import ConfigError
from tunewright.models.frozen import drops_at_random, trunk_is_fixed
from tunewright.run import compose
from tunewright.run.session import Session

NAME = "train.lanes"
KNOWN = (Lora, LongLora, Bottleneck, Full, Freeze)  # whose layers keep nothing from one text to the next
LEAST = 512  # tokens of a lane; with fewer its products are slower than what is saved
GRADIENTS = 2**25  # trained numbers, of whose gradients every lane has a copy


def pin_lanes(session: Session, parts: compose.Parts, longest: int) -> None:
    """Work out ``train.lanes``, each with room for the ``longest`` row.

    Raises ``ConfigError`` where more than one is asked for and cannot be had.
    """
    asked = session.recipe.train.lanes
    if asked != "auto":
        if asked > 1 and (why := _impossible(session, parts)) is not None:
            raise ConfigError(f"{NAME} is {asked}, but {why}; set {NAME}=auto")
        return
    (cores, why), tokens = cores_to_share(session, parts), session.recipe.train.at_once
    why = why or f"{cores} core(s), {tokens} tokens at once, rows of up to {longest}"
    session.resolved = session.resolved.pin(NAME, max(1, min(cores, tokens // max(LEAST, longest))), why)


def cores_to_share(session: Session, parts: compose.Parts) -> tuple[int, str | None]:
    """How many lanes there may be by ``auto``, and what hinders more than one, if anything does."""
    why = _impossible(session, parts) or _unwise(session, parts)
    return (torch.get_num_threads() if why is None else 1), why


def _impossible(session: Session, parts: compose.Parts) -> str | None:
    """Why micro-batches must come one after the other, or None."""
    if parts.loaded.precision.device.type != "cpu":
        return "only a CPU has cores to share; a GPU takes more tokens at once"
    if session.recipe.train.memory.update == "in_backward":
        return "train.memory.update in_backward moves weights while other micro-batches would still read them"
    if session.recipe.train.layer_cache == "on" or trunk_is_fixed(parts.shell):
        return "states that are kept on disk are written in the order of the micro-batches"
    return None


def _unwise(session: Session, parts: compose.Parts) -> str | None:
    """Why ``auto`` takes one lane, or None."""
    adapter, model = parts.adapter, parts.shell
    if type(adapter) not in KNOWN:
        return f"the layers of adapt.method {session.recipe.adapt.method} may keep state"
    if compose.neftune_of(session.recipe) or drops_at_random(model.modules()):
        return "dropout or noise would depend on which micro-batch is first"
    if sum(p.numel() for p in model.parameters() if p.requires_grad) > GRADIENTS:
        return "every lane would need gradients of all that trains"
    return None
