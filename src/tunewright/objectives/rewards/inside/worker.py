"""The process that runs one function of one file. Started by ``sandbox.py``; standard library only.

It reads JSON lines from its first standard input and answers on its first standard output. Before any user
code runs, both are moved aside, so that nothing it prints or reads can disturb them.

    {"file", "function", "keywords", "memory_mb", "returns", "most_bytes"}
        ->  {"ready": true} or {"error", "known"?}
    {"id", "arguments", "seconds"}  ->  {"id", RETURNS} or {"id", "error"}

RETURNS is "score", a finite number, or "value", anything that is JSON of at most ``most_bytes``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from numbers import Real
from typing import Any, BinaryIO

MIB = 1 << 20


def main() -> None:
    """Load the function, then answer requests until the parent closes the pipe."""
    requests, replies = _move_aside()
    setup = json.loads(requests.readline())
    _limit(setup["memory_mb"])
    me = os.getpid()
    function, reply = _load(setup)
    _send(replies, reply)
    if function is None:
        return
    for line in requests:
        request = json.loads(line)
        reply = {"id": request["id"], **_answer(function, request, setup)}
        if os.getpid() != me:  # a child that the user's code forked came back here
            os._exit(0)
        _send(replies, reply)
        if reply.get("memory"):  # who knows what is left half done
            return


def _move_aside() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes under new numbers, which no program started from here inherits."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return requests, replies


def _limit(memory_mb: int) -> None:
    """Bound the address space of this process and of each it starts; leave no core file.

    On Linux, processes whose parent ends become children of this one, so that the sandbox can find them.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * MIB, memory_mb * MIB))
    if sys.platform == "linux":
        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def _load(setup: dict[str, Any]) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """The function and the reply; no function if it cannot be had."""
    path, name = setup["file"], setup["function"]
    sys.path.insert(0, os.path.dirname(path))
    try:
        spec = importlib.util.spec_from_file_location("reward_file", path)
        assert spec is not None and spec.loader is not None, path
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except BaseException as error:  # noqa: BLE001 (whatever a user's file raises is told to the user)
        return None, {"error": _explain(error, path)}
    function = getattr(module, name, None)
    if callable(function):
        return function, {"ready": True}
    known = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == spec.name]
    return None, {"error": f"has no function {name!r}", "known": known}


def _answer(function: Callable[..., Any], request: dict[str, Any], setup: dict[str, Any]) -> dict[str, Any]:
    """``{"score"}`` or ``{"value"}``, or ``{"error"}`` with what went wrong."""
    checked = _score if setup["returns"] == "score" else _value
    _limit_time(request["seconds"])
    try:
        return checked(function(*request["arguments"], **setup["keywords"]), setup)
    except MemoryError:
        pass  # the frames that hold the memory are released before anything else is done
    except BaseException as error:  # noqa: BLE001 (whatever a user's function raises is told to the user)
        return {"error": "raised " + _explain(error, setup["file"])}
    finally:
        signal.alarm(0)
    return {"error": f"needed more than {setup['memory_mb']} MB of memory", "memory": True}


def _limit_time(seconds: float) -> None:
    """Bound the processor time of this call. The alarm is for when the parent, who has the clock, is gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
    signal.alarm(math.ceil(seconds) + 2)


def _score(value: Any, setup: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, Real):
        return {"error": f"returned {type(value).__name__} {str(value)[:60]!r}; a reward is a finite number"}
    number = float(value)
    if not math.isfinite(number):
        return {"error": f"returned {number}; a reward is a finite number"}
    return {"score": number}


def _value(value: Any, setup: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        return {"error": f"returned {type(value).__name__} {_start(value)}, which is not JSON: {error}"}
    if size > setup["most_bytes"]:
        return {"error": f"returned {size} bytes of JSON; the most is {setup['most_bytes']}"}
    return {"value": value}


def _start(value: Any) -> str:
    """How a value begins when it is written out, if it can be."""
    try:
        return repr(value)[:60]
    except Exception:  # noqa: BLE001 (the value is the user's, and so is what writes it out)
        return "(which cannot be shown)"


def _explain(error: BaseException, path: str) -> str:
    """The error in a line, and the last line of the user's file that was on the way."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__, limit=-1000) if f.filename == path]
    where = f" at {os.path.basename(path)}:{lines[-1]}" if lines else ""
    return f"{type(error).__name__}{where}: {str(error)[:500]}"


def _send(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
