"""User code in a process of its own, with limits on time and memory.

This guards training against accidents and against answers that make code run away; it is no prison for code
that means harm. The process is started once and used for every answer, and again after it had to be killed.

- Time: the parent's clock for each answer; RLIMIT_CPU besides. Memory: RLIMIT_AS (Linux; macOS ignores it).
- It leads a process group of its own and is killed with all its descendants (if it ends by itself, with those
  of its group).
- Its environment holds a few harmless variables only (``process.PASSED``); what it prints goes nowhere.
- The file's own folder can be imported from; neither the current folder nor PYTHONPATH can.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self

from tunewright.core.errors import ConfigError, DataError, TrainError
from tunewright.core.names import nearest
from tunewright.objectives.rewards.process import LONGEST_REPLY, Ended, WorkerProcess
from tunewright.objectives.rewards.spec import RewardError, Row

LOAD_SECONDS = 60.0  # importing a file may take longer than scoring an answer
DISTURBED = "disturbed the pipe that carries its results"
MOST_BYTES = LONGEST_REPLY - 1024  # of a value; the rest is for what stands around it


@dataclass(frozen=True)
class Limits:
    """What one call may use."""

    seconds: float = 5.0
    memory_mb: int = 512


class CallFailed(TrainError):
    """A call gave no result; the message names the function and says what happened."""


class UserFunction:
    """``function`` of ``file``, called in its own process; the base of what gives calls a meaning.

    Whatever goes wrong in a call is told in words: it took too long, raised, needed too much memory, ended
    the process, or returned what is no finite number (``returns`` "score") or not JSON ("value").
    """

    purpose = "reward"
    returns: Literal["score", "value"] = "score"

    def __init__(
        self,
        file: Path,
        function: str,
        limits: Limits = Limits(),
        keywords: Mapping[str, Any] | None = None,
    ) -> None:
        self._setup = {
            "file": str(file),
            "function": function,
            "keywords": dict(keywords or {}),
            "memory_mb": limits.memory_mb,
            "returns": self.returns,
            "most_bytes": MOST_BYTES,
        }
        self._where = f"{function}() of {file.name}"
        self._limits = limits
        self._process: WorkerProcess | None = None
        self._calls = 0
        self._lock = Lock()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.popen.pid if self._process else None

    def start(self) -> None:
        """Start the process and load the file, if it does not run; raises ``ConfigError`` if that fails."""
        if self._process is not None:
            return
        if os.name != "posix":
            raise ConfigError(f"{self._where} needs limits on processes, which only Linux and macOS have")
        self._process = WorkerProcess()
        reply = self._ask(self._setup, LOAD_SECONDS)
        if "error" in reply:
            self.close()
            known = reply.get("known")
            hint = nearest(str(self._setup["function"]), known) if known else "Mend the file."
            raise ConfigError(f"{self.purpose} file {self._setup['file']}: {reply['error']}. {hint}")

    def returned(self, *arguments: Any) -> Any:
        """What a call returns; raises ``CallFailed``, and ``DataError`` for arguments that are no JSON."""
        with self._lock:
            self.start()
            self._calls += 1
            seconds = self._limits.seconds
            reply = self._ask({"id": self._calls, "arguments": arguments, "seconds": seconds}, seconds)
            if "error" not in reply and not self._is_reply(reply):
                self.close()
                reply = {"error": DISTURBED}
        if "error" in reply:
            raise CallFailed(f"{self._where} {' '.join(str(reply['error']).split())}")
        return reply[self.returns]

    def _is_reply(self, reply: dict[str, Any]) -> bool:
        if reply.get("id") != self._calls or self.returns not in reply:
            return False
        score = reply[self.returns]
        return self.returns == "value" or (isinstance(score, float) and math.isfinite(score))

    def _ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The worker's reply; ``{"error"}`` if there was none, and then the process is gone."""
        assert self._process is not None, "started before"
        try:
            line = json.dumps(message).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"the row cannot be sent to {self._where} as JSON: {error}") from None
        try:
            reply = self._process.exchange(line, seconds)
        except TimeoutError:
            self.close()
            return {"error": f"took longer than {seconds:g} s and was stopped"}
        except Ended:
            return {"error": self._ending()}
        except BaseException:  # Ctrl-C: the reply that is on its way must not answer the next question
            self.close()
            raise
        if reply.get("memory"):  # the worker ends after such a reply
            self.close()
        return reply

    def _ending(self) -> str:
        """How the process ended, in words. It is gone afterwards."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.popen.wait(0.2)
        code = self._process.popen.poll()
        self.close()
        if code is None:
            return DISTURBED
        if code == -signal.SIGXCPU:
            return f"used more than {self._limits.seconds:g} s of processor time"
        if code < 0:
            return f"ended its process by signal {signal.Signals(-code).name}"
        return f"ended its process with exit code {code}"

    def close(self) -> None:
        """Kill the process with its descendants and wait for it; a later call would start another."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sandbox(UserFunction):
    """A reward, called as ``function(prompt, answer, example, **keywords)``."""

    def call(self, row: Row) -> float:
        """The score of one answer; raises ``RewardError``, and ``DataError`` if the row does not fit JSON."""
        try:
            return float(self.returned(*row))
        except CallFailed as error:
            raise RewardError(str(error)) from None

    def many(self, rows: Sequence[Row]) -> Iterator[float | RewardError]:
        """One score or error per row, in order, each found when it is asked for."""
        for row in rows:
            try:
                yield self.call(row)
            except RewardError as error:
                yield error
