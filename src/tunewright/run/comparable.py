"""Which models can be compared: what each gives is known from its files, before any of them is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunewright.core.errors import ConfigError
from tunewright.models.load import resolve
from tunewright.models.score_files import read_heads

TEXT = "text"
GIVES = {"classify": "labels", "regress": "numbers", "reward": "rewards of answers"}  # by the head's task
WRITABLE = (GIVES["classify"], GIVES["regress"])  # a model that writes can be asked for these


def check_comparable(names: Sequence[str], *, rewarded: bool) -> None:
    """Raise ``ConfigError`` for models that answer in ways without a common measure.

    ``rewarded`` says that rewards score the answers, so that every model must write.
    """
    given = {name: found for name in names if (found := gives(name))}
    ways = set(given.values())
    fit = len(ways) == 1 or (not rewarded and len(ways - {TEXT}) == 1 and ways <= {TEXT, *WRITABLE})
    if not fit and ways:
        told = " and ".join(f"{name} gives {what}" for name, what in given.items())
        raise ConfigError(
            f"these models cannot be compared: {told}; compare models that answer in the same way"
        )


def gives(name: str) -> str:
    """What the model called ``name`` answers with; empty for one that learnt several tasks.

    Raises ``ModelError`` if there is no such model.
    """
    ref = resolve(name)
    stored = read_heads(ref.adapter or Path(ref.path))
    if stored is None:
        return TEXT
    if any("__" in head for head in stored.specs):
        return ""
    head = stored.specs.get("score")
    return TEXT if head is None or stored.writes else GIVES.get(str(head.facts.get("task")), "")
