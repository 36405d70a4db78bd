"""Silence for warnings that our libraries raise about each other and that nobody here can act on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT reads an attribute that transformers is about to rename, and looks for a base config online."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        warnings.filterwarnings("ignore", message="Could not find a config file")
        yield
