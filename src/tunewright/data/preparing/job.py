"""What the workers of one preparation have to do, as a file, and the processes that do it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from tunewright.core.cores import cores
from tunewright.core.errors import DataError
from tunewright.core.hashing import digest
from tunewright.core.paths import write_text
from tunewright.data.preparing.settings import PrepareSettings
from tunewright.data.preparing.sources import Source
from tunewright.data.preparing.stage import Stage
from tunewright.data.preparing.steps import stage_of
from tunewright.data.preparing.work import do_share

WORTH_A_PROCESS = 4 * 2**20  # bytes of input for which starting a process pays
LOOK_SECONDS = 0.1
COMMAND = ("-m", "tunewright.data.preparing.worker")
VERSION = 1  # of the form of parts: parts of another form are made again


@dataclass(frozen=True, slots=True)
class Job:
    """The files, the settings, and how many workers share the chunks."""

    sources: list[Source]
    settings: PrepareSettings
    workers: int = 1

    @property
    def reading(self) -> dict[str, Any]:
        return {"format": self.settings.format, "group": self.settings.group}

    def stage(self) -> Stage:
        """The steps for single rows that the settings switch on."""
        return stage_of(self.settings)

    def identity(self) -> str:
        """Equal for jobs whose parts are equal."""
        files = [asdict(source) for source in self.sources]
        return digest([VERSION, files, self.settings.model_dump(mode="json"), self.settings.outside()])


def read_job(directory: Path) -> Job:
    """The job that ``do_job`` left for its workers."""
    told = orjson.loads((directory / "job.json").read_bytes())
    sources = [Source(**source) for source in told["sources"]]
    return Job(sources, PrepareSettings.model_validate(told["settings"]), told["workers"])


def workers_for(sources: Sequence[Source], wanted: int | None) -> int:
    """As many as there are cores, but none that would cost more to start than it saves."""
    if wanted is not None:
        return max(1, wanted)
    size = sum(source.size for source in sources)
    return max(1, min(cores(), size // WORTH_A_PROCESS))


def do_job(
    job: Job, directory: Path, progress: Callable[[int], None] | None = None, lock: int | None = None
) -> None:
    """Make every part in ``directory``; parts of the same job that lie there are kept, others removed.

    ``progress`` is called now and then with the number of parts that are done. Workers inherit ``lock``.
    """
    stamp, identity = directory / "identity", job.identity()
    if directory.exists() and not (stamp.exists() and stamp.read_text() == identity):
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(stamp, identity)
    if job.workers == 1:
        do_share(job.sources, directory, job.stage(), job.reading, 0, 1)
        return
    told = {
        "sources": [asdict(source) for source in job.sources],
        "settings": job.settings.model_dump(mode="json"),
        "workers": job.workers,
    }
    (directory / "job.json").write_bytes(orjson.dumps(told))
    for stale in directory.glob("error-*.txt"):
        stale.unlink()
    with _started(directory, job.workers, () if lock is None else (lock,)) as processes:
        while any(process.poll() is None for process in processes):
            if any(process.poll() not in (None, 0) for process in processes):
                break
            time.sleep(LOOK_SECONDS)
            if progress:
                progress(sum(1 for _ in directory.glob("part-*/part.json")))
        for number, process in enumerate(processes):
            if process.poll() not in (None, 0):
                raise _failed(directory, number, process.returncode)


@contextmanager
def _started(
    directory: Path, workers: int, inherited: tuple[int, ...]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The worker processes; none of them outlives the block."""
    command = [sys.executable, *COMMAND, str(directory)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes = []
    try:
        for number in range(workers):
            with (directory / f"worker-{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [*command, str(number)],
                        stdin=subprocess.PIPE,  # ends with this process: see ``end_with_parent``
                        stdout=log,
                        stderr=log,
                        env=environment,
                        pass_fds=inherited,
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _failed(directory: Path, number: int, status: int) -> Exception:
    """Why a worker stopped, as an error for the user."""
    told = directory / f"error-{number}.txt"
    if told.exists():
        return DataError(told.read_text(encoding="utf-8"))
    if status < 0:
        return DataError(
            f"worker {number} was killed (signal {-status}), perhaps for want of memory; run the same again "
            "to go on, with fewer workers if it was memory"
        )
    return RuntimeError(
        f"worker {number}: " + (directory / f"worker-{number}.log").read_text(errors="replace")
    )
