"""Silence for warnings that our libraries raise about each other and that nobody here can act on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT reads an attribute that transformers is about to rename, looks for a base config online, and
    takes the ranks that AdaLoRA stores for those of LoRA."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        warnings.filterwarnings("ignore", message="Could not find a config file")
        warnings.filterwarnings("ignore", message=r"The following rank_pattern.*lora_E")
        yield


@contextmanager
def quiet_loading() -> Iterator[None]:
    """transformers reports weights that a file has too many or too few of, where that is known and wanted."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
