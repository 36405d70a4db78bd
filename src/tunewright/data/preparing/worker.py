"""``python -m tunewright.data.preparing.worker DIRECTORY NUMBER``: one worker process of a preparation.

It reads what to do from ``job.json`` and leaves parts. An error that is the user's to mend is left in
``error-NUMBER.txt``, and the exit status says so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Thread

from tunewright.core.errors import TunewrightError
from tunewright.data.preparing.job import read_job
from tunewright.data.preparing.work import do_share

MENDABLE, ORPHANED = 3, 4


def main(directory: Path, number: int) -> int:
    """Do the share of worker ``number``; returns the exit status."""
    try:
        job = read_job(directory)
        do_share(job.sources, directory, job.stage(), job.reading, number, job.workers)
    except (TunewrightError, OSError) as error:
        (directory / f"error-{number}.txt").write_text(str(error), encoding="utf-8")
        return MENDABLE
    return 0


def end_with_parent() -> None:
    """Leave when standard input ends, a pipe that the parent holds open: nobody is left to gather parts."""

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock would stop the interpreter from ending
        os._exit(ORPHANED)

    Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
