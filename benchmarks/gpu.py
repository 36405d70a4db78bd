"""Fine-tuning on one CUDA device: tokens a second, peak memory and the share of the device used, beside TRL.

    python benchmarks/gpu.py                              # all shapes and methods that fit
    python benchmarks/gpu.py --only "1B, lora" "8B, qlora"
    python benchmarks/gpu.py --tiny --device cpu          # a rehearsal in seconds; its numbers mean nothing

Llama models of 1 and 8 billion weights, made from their configs with random weights, train on rows of 2,048
random tokens: by LoRA of rank 16, by QLoRA, and in full where Tunewright's own forecast says that it fits.
Every side is a process of its own; they run by turns, and medians count. A peer runs with as many rows at a
time as it can, found by trying. ``make bench-setup`` installs TRL and PEFT; Liger and Unsloth take part
where they are installed in ``.venv-bench``, and QLoRA needs bitsandbytes there.

Utilisation is operations of the model a second over those of a large product in bfloat16, measured on the
same device in the same run. The operations of a trained token follow Chowdhery et al. 2022 (PaLM, arXiv
2204.02311, appendix B): two for every weight forward and two backward to the input, two more for the gradient
of a weight that trains; attention beside them, here with the half of the scores that a causal mask leaves.
What is computed again to save memory does not count, nor do norms and the embedding.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from race import PEER_PYTHON, PEERS, Result, Speed, by_turns, order, printed, timed
from shapes import SHAPES, Shape, write_model

from tunewright.adapt.base import Adapter, adapter_of
from tunewright.core.records import Tokens
from tunewright.engine.footprint import Heaviest, of_training, total
from tunewright.engine.ghost import Ledger
from tunewright.engine.loop import FitSettings, Job
from tunewright.engine.memory import room_mb
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.models.shell import load_shell
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of

METHODS = ("lora", "qlora", "full")
RANK, RATE = 16, 1e-4
SPARE = 0.92  # of the device's memory: what torch's allocator keeps in pieces has to fit as well
OPTIONAL = {"liger_kernel": "TRL with Liger", "unsloth": "Unsloth"}  # module -> side


@dataclass(frozen=True)
class Case:
    """One shape trained by one method; ``together`` rows at a time."""

    shape: Shape
    method: str
    together: int

    @property
    def name(self) -> str:
        return f"{self.shape.name}, {self.method}"


@dataclass(frozen=True)
class Line:
    """What one side of a case measured; ``used`` is its share of the device's operations."""

    case: str
    side: str
    per_second: float
    peak_mb: float
    used: float
    times: float | None  # the speed of TRL


def flops_per_token(shape: Shape, method: str) -> float:
    """Operations of a trained token, see above; all tokens are learnt from, so all reach the output layer."""
    weights = shape.linear + shape.head
    attention = 6 * shape.layers * shape.heads * shape.head_dim * shape.length
    trained = weights if method == "full" else RANK * shape.sides
    passed = weights if method == "full" else weights + RANK * shape.sides
    return 4.0 * passed + 2.0 * trained + attention


def peak_rate(device: torch.device, size: int, seconds: float = 2.0) -> float:
    """Operations a second of bfloat16 products of (size, size) matrices: the fastest of several rounds."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    best, begun = 0.0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        _finish(device)
        start = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b, out=out)
        _finish(device)
        best = max(best, 10 * 2.0 * size**3 / (time.perf_counter() - start))
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def adapter_for(method: str) -> Adapter:
    return adapter_of(method, **({} if method == "full" else {"rank": RANK}))


def random_rows(shape: Shape, count: int) -> list[Tokens]:
    """Rows of random ids; every token but the first is learnt."""
    draw = random.Random(0)
    weights = [0.0] + [1.0] * (shape.length - 1)
    return [
        Tokens([draw.randrange(3, shape.words) for _ in range(shape.length)], weights) for _ in range(count)
    ]


def written(rows: Sequence[Tokens], path: Path) -> Path:
    path.write_text("\n".join(json.dumps({"ids": r.ids, "weights": r.weights}) for r in rows), "utf-8")
    return path


def ours(model: str, rows: Sequence[Tokens], method: str, together: int, batch: int, device: str) -> Result:
    """Our side."""
    use_all_cores()
    adapter = adapter_for(method)
    loaded = load(model, device=device, dtype="bfloat16", weights=adapter.weights, changes=adapter.changes)
    torch.manual_seed(0)
    trained = adapter.attach(loaded.model)
    forward = ModelForward(trained, compute=loaded.precision.dtype)
    job = Job(trained, forward, make_objective("sft", options_of("sft", {})), rows, adapter=adapter)
    return timed(job, batch, RATE, together * rows[0].size, lambda row: row.size)


def forecast_mb(model: str, shape: Shape, method: str, together: int, batch: int, device: str) -> float:
    """What our side would need at most, by a rehearsal without data."""
    adapter = adapter_for(method)
    shell = load_shell(
        model, device=device, dtype="bfloat16", weights=adapter.weights, changes=adapter.changes
    )
    trained = adapter.attach(shell.model)
    ledger = Ledger(shell.precision.device)
    ledger.emptied(trained)
    most = Heaviest(tuple(random_rows(shape, together)), -(-batch // together), 2)
    settings = FitSettings(1, RATE, batch, together * shape.length)
    with ledger:
        forward = ModelForward(trained, compute=shell.precision.dtype)
        job = Job(trained, forward, make_objective("sft", options_of("sft", {})), (), adapter=adapter)
        return total(of_training(ledger, job, settings, most)) / 2**20


def largest_case(model: str, shape: Shape, method: str, batch: int, device: str) -> Case | None:
    """The case with the most rows at a time that fits; None, and a word, if not even one does."""
    room = SPARE * room_mb(torch.device(device))
    needed = 0.0
    for together in _halves(batch):
        try:
            needed = forecast_mb(model, shape, method, together, batch, device)
        except RuntimeError as error:  # then only trying tells
            print(f"{shape.name}, {method}: no forecast ({error}); one row at a time is tried", flush=True)
            return Case(shape, method, 1)
        if needed <= room:
            return Case(shape, method, together)
    print(f"{shape.name}, {method}: needs {needed:,.0f} MB, {room:,.0f} MB are there: left out", flush=True)
    return None


def _halves(number: int) -> Iterator[int]:
    while number:
        yield number
        number //= 2


def peer_command(model: str, rows: Path, method: str, device: str, batch: int, *more: str) -> list[str]:
    """The command of a peer's side."""
    call = [str(PEER_PYTHON), str(PEERS / "trl_sft.py"), str(rows), "--model", model, "--device", device]
    call += ["--rate", str(RATE), "--batch", str(batch), "--out", str(rows.parent / "peer")]
    kind = {"full": ["--full"], "qlora": ["--quantise", "--weights", "bfloat16"]}
    return [*call, *kind.get(method, ["--weights", "bfloat16"]), *more]


def installed(*modules: str) -> set[str]:
    """Which of them the peers' Python has."""
    if not PEER_PYTHON.exists():
        return set()
    program = f"import importlib.util as u; print(*[m for m in {modules!r} if u.find_spec(m)])"
    return set(subprocess.run([PEER_PYTHON, "-c", program], capture_output=True, text=True).stdout.split())


def peers(model: str, rows: Path, method: str, device: str, batch: int) -> dict[str, list[str]]:
    """The commands of all peers that are there, each with the most rows at a time with which it runs."""
    there = installed("trl", "bitsandbytes", *OPTIONAL)
    missing = {"trl"} - there | ({"bitsandbytes"} - there if method == "qlora" else set())
    if missing:
        print(f"{method}: no peer, .venv-bench has no {' and no '.join(sorted(missing))}", flush=True)
        return {}
    flags = {"TRL": [], "TRL with Liger": ["--liger"], "Unsloth": ["--unsloth"]}
    names = ["TRL", *(name for module, name in OPTIONAL.items() if module in there)]
    tried = {name: _first_that_runs(model, rows, method, device, batch, flags[name]) for name in names}
    for name in (name for name, command in tried.items() if command is None):
        print(f"{method}: {name} does not run here, not even one row at a time, checkpointed", flush=True)
    return {name: command for name, command in tried.items() if command is not None}


def _first_that_runs(
    model: str, rows: Path, method: str, device: str, batch: int, flags: Sequence[str]
) -> list[str] | None:
    tries = [["--device-batch", str(count)] for count in _halves(batch)]
    for given in [*tries, [*tries[-1], "--checkpointing"]]:
        command = peer_command(model, rows, method, device, batch, *flags, *given)
        try:
            printed(command)
        except SystemExit as failed:
            print(f"  {' '.join([*flags, *given])}: {str(failed).splitlines()[-1][:150]}", flush=True)
            continue
        return command
    return None


def lines(case: Case, sides: dict[str, Speed], rate: float) -> list[Line]:
    """What the sides of a case measured, against a device of ``rate`` operations a second."""
    each = flops_per_token(case.shape, case.method)
    trl = sides["TRL"].per_second if "TRL" in sides else None
    return [
        Line(
            case.name,
            name,
            side.per_second,
            side.peak_mb,
            side.per_second * each / rate,
            side.per_second / trl if trl else None,
        )
        for name, side in sides.items()
    ]


def table(device: str, rate: float, found: Sequence[Line]) -> str:
    """All lines in Markdown."""
    head = f"{device}, torch {torch.__version__}; products in bfloat16: {rate / 1e12:.3g} TFLOP/s"
    body = [
        f"| {x.case} | {x.side} | {x.per_second:,.0f} | {x.peak_mb:,.0f} | {x.used:.1%} |"
        f" {'' if x.times is None else f'{x.times:.2f}'} |"
        for x in found
    ]
    names = "| model, method | side | tokens/s | peak memory, MB | utilisation | times TRL |"
    return "\n".join([head, "", names, "|---|---|--:|--:|--:|--:|", *body])


def race(case: Case, model: str, options: argparse.Namespace, folder: Path, rate: float) -> list[Line]:
    """One case: all sides by turns."""
    rows = random_rows(case.shape, options.batch * options.updates)
    path = written([rows[row] for row in order(len(rows), options.batch)], folder / "rows.jsonl")
    given = {"shape": case.shape.name, "model": model, "method": case.method, "together": case.together}
    sizes = ["--batch", str(options.batch), "--updates", str(options.updates)]
    call = [sys.executable, __file__, "--one", json.dumps(given), "--device", options.device]
    sides = {"Tunewright": [*call, *sizes]}
    if not options.alone:
        sides |= peers(model, path, case.method, options.device, options.batch)
    print(f"{case.name}: {case.together} rows at a time", flush=True)
    return lines(case, by_turns(sides, options.repeats), rate)


def one(given: dict[str, Any], options: argparse.Namespace) -> Result:
    """Our side, in a process of its own."""
    shape = next(shape for shape in SHAPES if shape.name == given["shape"])
    rows = random_rows(shape, options.batch * options.updates)
    return ours(given["model"], rows, given["method"], given["together"], options.batch, options.device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], help='cases, for example "1B, lora"')
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=8, help="rows of an update")
    parser.add_argument("--updates", type=int, default=6, help="the first warms up and does not count")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="our side only")
    parser.add_argument("--tiny", action="store_true", help="a two-layer model, one turn")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.loads(options.one), options)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is there (torch.cuda.is_available() is false); --tiny --device cpu rehearses")
        sys.exit(2)
    if options.device != "cuda" and not options.tiny:
        print(f"the full sizes are for a CUDA device, not for {options.device}; add --tiny")
        sys.exit(2)
    if options.tiny:
        options.batch, options.updates, options.repeats = 2, 3, 1
    run(options)


def run(options: argparse.Namespace) -> None:
    """All cases; the table comes last."""
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else options.device
    rate = peak_rate(device, 256 if options.tiny else 8192, 0.2 if options.tiny else 2.0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    found: list[Line] = []
    for shape in (shape for shape in SHAPES if (shape.name == "tiny") == options.tiny):
        wanted = [m for m in METHODS if not options.only or f"{shape.name}, {m}" in options.only]
        with tempfile.TemporaryDirectory() as folder:
            model = str(write_model(shape, Path(folder) / shape.name, options.device)) if wanted else ""
            for method in wanted:
                case = largest_case(model, shape, method, options.batch, options.device)
                if case is not None:
                    found += race(case, model, options, Path(folder), rate)
    print(table(name, rate, found))


if __name__ == "__main__":
    main()
