"""How the cost of a trained token grows: with the number of rows, and with the length of a text.

    python benchmarks/growth.py
    python benchmarks/growth.py --picture docs/images/growth.svg

LoRA of rank 16 on the embedded model, random tokens, every one of which is trained. Four and sixteen
times the rows must cost the same a token. A longer text costs more only by its attention, whose share grows
in proportion to the length: printed is what a token costs beside what a straight line through the shortest
and the longest text says.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from picture import save
from race import MODEL

from tunewright.adapt.base import adapter_of
from tunewright.core.events import silent
from tunewright.core.records import Tokens
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.evaluate.charts import Series
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of

AT_ONCE, UPDATE = 4096, 4096  # tokens
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
TIMES = (1, 4, 16)


def rows(count: int, length: int) -> list[Tokens]:
    """Random texts."""
    draw = random.Random(0)
    return [
        Tokens([draw.randrange(100, 40_000) for _ in range(length)], [1.0] * length) for _ in range(count)
    ]


def seconds_a_token(model: Any, train: list[Tokens]) -> float:
    """Of a whole epoch, preparation and all, after an update that warms up."""
    settings = FitSettings(1, 1e-4, UPDATE, AT_ONCE)
    adapter, forward = adapter_of("lora", rank=16), ModelForward(model, compute=torch.bfloat16)
    objective = make_objective("sft", options_of("sft", {}))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        fit = Fit(Job(model, forward, objective, train, adapter=adapter), settings, Path(folder), silent)
        while fit.state.step < len(fit.plan):
            fit.advance()
        return (time.perf_counter() - begun) / sum(row.size for row in train)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=24, help="of 170 tokens; also 4 and 16 times as many")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    use_all_cores()
    adapter = adapter_of("lora", rank=16)
    model = adapter.attach(load(MODEL, dtype="bfloat16", weights=adapter.weights).model)
    seconds_a_token(model, rows(24, 170))
    by_rows = {n: measured(model, n * options.rows, 170, options.repeats) for n in TIMES}
    for times, cost in by_rows.items():
        print(
            f"{times:3} x {options.rows} rows: {cost:7.3f} ms a token, {cost / by_rows[1]:.2f} of the first"
        )
    costs = {length: measured(model, max(2, 8192 // length), length, options.repeats) for length in LENGTHS}
    first, last = LENGTHS[0], LENGTHS[-1]
    slope = (costs[last] - costs[first]) / (last - first)
    for length, cost in costs.items():
        line = costs[first] + slope * (length - first)
        print(f"{length:5} tokens a text: {cost:7.3f} ms a token, the straight line says {line:7.3f}")
    if options.picture:
        straight = [(float(n), costs[first] + slope * (n - first)) for n in LENGTHS]
        lines = [
            Series("measured", [(float(n), c) for n, c in costs.items()], "strong"),
            Series("line", straight),
        ]
        save(options.picture, lines, "tokens a text", "ms a trained token")


def measured(model: Any, count: int, length: int, repeats: int) -> float:
    """The least milliseconds a token of some tries: what disturbs a machine only adds."""
    return 1e3 * min(seconds_a_token(model, rows(count, length)) for _ in range(repeats))


if __name__ == "__main__":
    main()
