"""Tunewright: turn your data into a better language model, and prove that it is better.

    import tunewright as tw
    run = tw.train(tw.Recipe.load("recipe.yaml"))
    print(run.result["verdict"]["word"])
    tw.evaluate(run.path, data="other.jsonl")

Names are loaded on first use, so importing the package is quick and loads no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "tunewright.run.recipe",
    "Run": "tunewright.run.train",
    "train": "tunewright.run.methods",
    "resume": "tunewright.run.methods",
    "evaluate": "tunewright.run.judge",
    "compare": "tunewright.run.judge",
    "check": "tunewright.data.check",
    "TunewrightError": "tunewright.core.errors",
}
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tunewright' has no attribute {name!r}")
    return public(name)


def public(name: str) -> Any:
    """The object behind a public name, imported now."""
    return getattr(import_module(_PUBLIC[name]), name)
