"""Compiles the sources beside it for this CPU by the machine's own compiler, keeps and loads the result."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tunewright.core.errors import ConfigError
from tunewright.core.paths import cache_dir, written_atomically

SWITCH = "TUNEWRIGHT_KERNELS"  # auto (the default), off, or required
HERE = Path(__file__).parent
PROGRAMS = (HERE / "kernels.cpp", HERE / "decode.cpp")
SOURCES = (*PROGRAMS, HERE / "vectors.h")
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp"),
    *("-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-fno-trapping-math"),
)
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 120  # after which a compiler is given up; it needs about two


class Kernels:
    """The library, or None with the reason why there is none."""

    def __init__(self, library: ctypes.CDLL | None, reason: str) -> None:
        self.library = library
        self.reason = reason


@cache
def kernels() -> Kernels:
    """The compiled kernels of this machine; compiled when they are first asked for.

    Raises ``ConfigError`` where ``$TUNEWRIGHT_KERNELS`` is unknown or requires what cannot be had.
    """
    wish = os.environ.get(SWITCH, "auto")
    if wish not in ("auto", "off", "required"):
        raise ConfigError(f"${SWITCH} is {wish!r}; it may be auto, off or required")
    if wish == "off":
        return Kernels(None, f"plain PyTorch: ${SWITCH} is off")
    try:
        path, compiler = _compiled()
        return Kernels(ctypes.CDLL(str(path)), f"compiled for this CPU by {compiler}")
    except (OSError, subprocess.SubprocessError) as error:
        why = _first_line(error)
    if wish == "required":
        raise ConfigError(f"the kernels of ${SWITCH}=required cannot be had: {why}")
    return Kernels(None, f"plain PyTorch, about a third slower: {why}")


def _compiled() -> tuple[Path, str]:
    """The library's file and the compiler's name; made anew for another source, compiler or CPU."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else list(COMPILERS)
    compiler = next(filter(None, map(shutil.which, wanted)), None)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler ({', '.join(wanted)}); install one, such as g++")
    version = _output([compiler, "--version"]).splitlines()[0]
    parts = [source.read_bytes() for source in SOURCES]
    parts += [repr((FLAGS, version, platform.machine(), _cpu())).encode()]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]
    path = cache_dir() / "kernels" / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written_atomically(path) as temporary:
            _output([compiler, *FLAGS, "-shared", "-fPIC", "-o", str(temporary), *map(str, PROGRAMS), "-lm"])
    return path, version


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        said = done.stderr.strip() or "no message"
        raise subprocess.SubprocessError(f"{command[0]} failed with {done.returncode}: {said}")
    return done.stdout


def _cpu() -> str:
    """What tells one kind of CPU from another: a home directory may be shared by several."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
