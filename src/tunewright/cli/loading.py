"""Importing the heavy libraries without a search for garbage that cannot be there."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Stands around imports: the garbage collector rests meanwhile, and what they made is never searched.

    torch and transformers make a million objects, all of which stay; searching them again and again for
    cycles is a quarter of the time that they take to load. Only a program of its own may decide this, not
    a library: whatever else there is by then is not searched either. A collector that is off stays off.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
