"""What the races share: two programs on the same rows by turns, medians, and the machine's own speed.

Each side is a process of its own that prints one JSON document: ``counts`` (what each update processed),
``ends`` (the clock before the first and after each update), ``losses``, ``peak_mb``, and ``before``, seconds
that went into the rows before the first update. The first update warms caches up and does not count.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from tunewright.core.events import Event, StepEnd
from tunewright.core.records import Tokens
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.engine.memory import peak_mb
from tunewright.engine.plan import Pace, steps_in_order
from tunewright.engine.source import Stored

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
PEER_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
DATA = Path(os.environ.get("TUNEWRIGHT_DATA", ROOT.parent / "shared" / "data"))
MODEL = "smollm2-135m-instruct"
Result = dict[str, Any]
Aims = tuple[float, float]  # what must be reached, and what should


@dataclass(frozen=True)
class Speed:
    """Medians of one side; ``runs`` holds what every run printed."""

    per_second: float
    peak_mb: float
    runs: tuple[Result, ...]


def need_data() -> None:
    """End with a word if the data or the peers are not there."""
    if not DATA.is_dir():
        sys.exit(f"no data in {DATA}; set TUNEWRIGHT_DATA")
    if not PEER_PYTHON.exists():
        sys.exit("the peers are not installed; run: make bench-setup")


def by_turns(sides: Mapping[str, Sequence[str]], repeats: int) -> dict[str, Speed]:
    """Run the commands of all sides one after the other, ``repeats`` times over."""
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, command in sides.items():
            result = printed(command)
            found[name].append(result)
            print(
                f"  turn {turn + 1}, {name}: {per_second(result):.1f}/s, {result['peak_mb']:.0f} MB",
                flush=True,
            )
    return {name: medians(results) for name, results in found.items()}


def every_setting(
    settings: Mapping[str, Sequence[str]], command: Callable[[Sequence[str]], Sequence[str]]
) -> None:
    """Run a peer once in each of its settings, to find its fastest."""
    for name, given in settings.items():
        found = printed(command(given))
        print(f"{name:40} {per_second(found):8.2f}/s {found['peak_mb']:8.0f} MB", flush=True)


def medians(results: Sequence[Result]) -> Speed:
    """Of speed and of peak memory."""
    speed = statistics.median(per_second(result) for result in results)
    peak = statistics.median(result["peak_mb"] for result in results)
    return Speed(speed, peak, tuple(results))


def printed(command: Sequence[str]) -> Result:
    """What the command prints last; its complaints are shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def per_second(result: Result) -> float:
    """Units a second from the end of the first update on, with their share of the time before."""
    counts, ends = result["counts"], result["ends"]
    timed = sum(counts[1:])
    before = result.get("before", 0.0) * timed / sum(counts)
    return float(timed / (ends[-1] - ends[1] + before))


class Counted(Stored):
    """Rows in the order given, so many rows an update, as a peer takes them."""

    def __init__(self, rows: Sequence[Tokens]) -> None:
        super().__init__(rows)
        self.sizes = [1] * len(rows)


def order(rows: int, batch: int) -> list[int]:
    """The rows in the order in which our side will train on them."""
    return [row for planned in steps_in_order([1] * rows, Pace(1, batch)) for row in planned.rows]


def timed(
    job: Job, batch: int, rate: float, micro_tokens: int, count: Callable[[Tokens], int], lanes: int = 1
) -> Result:
    """Our side: the loop itself over ``job.train`` at a constant rate; ``count`` is what a row counts."""
    settings = FitSettings(
        epochs=1,
        learning_rate=rate,
        tokens_per_step=batch,
        micro_tokens=micro_tokens,
        lanes=lanes,
        schedule="constant",
        warmup=0.0,
    )
    ends, losses = [], []

    def observe(event: Event) -> None:
        if isinstance(event, StepEnd):
            ends.append(time.perf_counter())
            losses.append(event.loss)

    rows = job.train
    with tempfile.TemporaryDirectory() as folder:
        fit = Fit(replace(job, source=Counted(rows)), settings, Path(folder), observe)
        ends.append(time.perf_counter())
        fit.run()
    counts = [sum(count(rows[row]) for row in planned.rows) for planned in fit.plan]
    return {"counts": counts, "ends": ends, "losses": losses, "peak_mb": peak_mb(fit.device)}


def seconds_by_epoch(
    job: Job, settings: FitSettings, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Train ``job``; the clock at the end of each epoch, less that of the one before."""
    ends: dict[int, float] = {}

    def observe(event: Event) -> None:
        if isinstance(event, StepEnd) and event.epoch == int(event.epoch):
            ends[int(event.epoch)] = clock()

    begun = clock()
    with tempfile.TemporaryDirectory() as folder:
        Fit(job, settings, Path(folder), observe).run()
    marks = [begun, *(ends[epoch] for epoch in range(1, settings.epochs + 1))]
    return [after - before for before, after in pairwise(marks)]


def matmul_rate(dtype: torch.dtype, rows: int = 1024, seconds: float = 2.0) -> float:
    """GFLOP/s of plain products at the shapes of the embedded model's MLP, forward and backward."""
    x, w = torch.randn(rows, 576).to(dtype), torch.randn(1536, 576).to(dtype)
    y = x @ w.T
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        x @ w.T
        y @ w
        done += 2
    return 2 * x.numel() * len(w) * done / (time.perf_counter() - begun) / 1e9


def compare(sides: Mapping[str, Speed], unit: str, faster: Aims, smaller: Aims) -> None:
    """Every side, and ours against each peer; ours is the first."""
    for name, side in sides.items():
        print(f"{name:24} {side.per_second:8.2f} {unit}/s {side.peak_mb:8.0f} MB")
    (_, mine), *others = sides.items()
    for name, other in others:
        print(verdict(f"times the speed of {name}", mine.per_second / other.per_second, *faster))
        share = mine.peak_mb / other.peak_mb
        print(verdict(f"of the memory of {name}", share, *smaller, at_most=True))


def verdict(what: str, value: float, must: float, aim: float, at_most: bool = False) -> str:
    """One line: the value beside what was asked."""
    reached = (value <= must, value <= aim) if at_most else (value >= must, value >= aim)
    word = "aim reached" if reached[1] else "reached" if reached[0] else "NOT reached"
    return f"{what}: {value:.2f} (must {must:g}, aim {aim:g}): {word}"
