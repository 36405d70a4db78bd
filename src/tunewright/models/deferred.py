"""bitsandbytes without torch's compiler.

It hands four functions to ``torch.compile`` while it is imported, and PEFT imports it wherever it is
installed. That loads the compiler, which takes as long as torch itself, for optimizers that are hardly ever
used. Here these functions are compiled when they are first called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = "bitsandbytes"


def defer_compiling() -> None:
    """From now on an import of bitsandbytes leaves the compiler alone; loads nothing itself."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds ``bitsandbytes`` where it is found anyway, and has its loader run within ``_deferred``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for any other module, so that it is looked for as usual."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == NAME else None
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        loader.exec_module = partial(_executed, loader.exec_module)
        return spec


def _executed(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    with _deferred():
        execute(module)


@contextmanager
def _deferred() -> Iterator[None]:
    """Within it ``torch.compile`` gives functions that are compiled at their first call."""
    import torch

    compile_now = torch.compile

    def compile_later(model: Any = None, **options: Any) -> Any:
        if model is None:
            return partial(compile_later, **options)
        compiled = cache(partial(compile_now, model, **options))

        @wraps(model)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return call

    torch.compile = compile_later
    try:
        yield
    finally:
        torch.compile = compile_now
