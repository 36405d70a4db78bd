"""One worker process: how it is started, asked, and killed with all that it started."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

WORKER = Path(__file__).parent / "inside" / "worker.py"
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
LOOK_SECONDS = 0.05  # how often to look whether the process still runs
LONGEST_REPLY = 1 << 20  # bytes


class Ended(Exception):
    """The process ended, or wrote what is no reply."""


class WorkerProcess:
    """One running worker, and the exchange of a line for a line."""

    def __init__(self) -> None:
        command = [sys.executable, "-s", "-P", "-B", str(WORKER)]
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(),
            bufsize=0,
        )
        assert self.popen.stdin is not None and self.popen.stdout is not None
        self._in, self._out = self.popen.stdin.fileno(), self.popen.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self.kill = weakref.finalize(self, _kill, self.popen, os.getpid())

    def exchange(self, line: bytes, seconds: float) -> dict[str, Any]:
        """Send a line, await a line; raises ``TimeoutError`` or ``Ended``, and must be killed then."""
        deadline = time.monotonic() + seconds
        to_send, received = memoryview(line), b""
        with selectors.DefaultSelector() as ready:
            ready.register(self._out, selectors.EVENT_READ)
            ready.register(self._in, selectors.EVENT_WRITE)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                ready.select(min(left, LOOK_SECONDS))
                if to_send:
                    to_send = to_send[_write(self._in, to_send) :]
                    if not to_send:
                        ready.unregister(self._in)
                received += self._read()
                if len(received) > LONGEST_REPLY:
                    raise Ended
        return _parsed(received)

    def _read(self) -> bytes:
        """What has arrived; a child of the user's code may hold the pipe open when the process has ended."""
        ended = self.popen.poll() is not None
        try:
            piece = os.read(self._out, 65536)
        except BlockingIOError:
            if not ended:
                return b""
            piece = b""
        if not piece:
            raise Ended
        return piece


def _environment() -> dict[str, str]:
    """No secrets; one thread, because each reserves memory; the same order of sets in every run."""
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    return {**passed, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def _write(descriptor: int, data: memoryview) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        raise Ended from None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except ValueError:
        raise Ended from None
    if not isinstance(reply, dict):
        raise Ended
    return reply


def _kill(popen: subprocess.Popen[bytes], owner: int) -> None:
    """Kill the process and all that descends from it, and wait for it; a forked copy of the owner may not."""
    if os.getpid() != owner:
        return
    found = _descendants(popen)
    for _ in range(10):  # a process may be forking right now: stop those found, and look again
        if not sum(_stopped(process) for process in found):
            break
        found = _descendants(popen)
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, signal.SIGKILL)
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            pipe.close()
    popen.wait()


def _descendants(popen: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker and its descendants, also those that left its group; none if it has ended."""
    if popen.poll() is not None:
        return []
    with suppress(psutil.Error):
        worker = psutil.Process(popen.pid)
        return [*worker.children(recursive=True), worker]
    return []


def _stopped(process: psutil.Process) -> bool:
    """Stop a process; whether it was running until now."""
    with suppress(psutil.Error):
        if process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            process.suspend()
            return True
    return False
