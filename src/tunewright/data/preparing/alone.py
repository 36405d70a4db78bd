"""One preparation at a time in a directory: two would write, and remove, each other's parts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewright.core.errors import DataError

PATIENCE = 5.0  # seconds; workers whose parent was killed end in less


@contextmanager
def alone_in(directory: Path) -> Iterator[int | None]:
    """Make ``directory`` and hold its lock, which ends with the processes that hold it, however they end.

    Yields the descriptor that workers inherit, so that a run that follows waits for them. Where the system or
    the file system has no such locks nothing is held, and ``None`` is yielded. Raises ``DataError`` if
    another preparation holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise DataError(
                        f"{directory}: another preparation is at work there; wait, or name another directory"
                    ) from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield descriptor
    finally:
        os.close(descriptor)
