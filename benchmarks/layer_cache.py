"""What it saves to run lower layers that never train once: an epoch with and without their states on disk.

    python benchmarks/layer_cache.py [--model smollm2-135m-instruct] [--last 5] [--rows 40] [--epochs 3]

The last layers are trained on random texts, the second half of each being learnt, once with ``LayerCache``
and once without, in the same process and from the same weights. Prints the seconds of each epoch (processor
time; on a GPU those of the clock), the ratio from the second epoch on, the room taken on the disk, and how
far apart the two ends are.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from race import seconds_by_epoch

from tunewright.adapt.base import adapter_of, trained_state
from tunewright.core.records import Tokens
from tunewright.engine.loop import FitSettings, Job
from tunewright.models.causal import number_of_layers
from tunewright.models.forward import ModelForward
from tunewright.models.layer_cache import LayerCache, lower_layers
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of


def texts(count: int, vocabulary: int) -> list[Tokens]:
    """Random ids, 60 to 140 of them: the speed does not depend on what they say."""
    rng = random.Random(0)
    rows = [[rng.randrange(20, vocabulary) for _ in range(rng.randint(60, 140))] for _ in range(count)]
    return [Tokens(ids, [float(i >= len(ids) // 2) for i in range(len(ids))]) for ids in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--last", type=int, default=5)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    use_all_cores()
    adapter = adapter_of("freeze", layers=options.last)
    loaded = load(options.model, weights=adapter.weights)
    model = adapter.attach(loaded.model)
    below, fault = lower_layers(model)
    assert fault is None, fault
    before, rows = trained_state(model), texts(options.rows, loaded.model.config.vocab_size)
    clock = time.perf_counter if loaded.precision.device.type == "cuda" else time.process_time
    how = FitSettings(epochs=options.epochs, learning_rate=1e-4, tokens_per_step=2048, micro_tokens=2048)
    objective = make_objective("sft", options_of("sft", {}))
    found: dict[str, tuple[list[float], dict[str, torch.Tensor]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("all layers every epoch", "states on disk"):
            model.load_state_dict(before, strict=False)
            forward = ModelForward(model, compute=loaded.precision.dtype)
            if name == "states on disk":
                cache = LayerCache.begun(forward, below, Path(folder))
                assert isinstance(cache, LayerCache), cache
                forward.below = cache
            seconds = seconds_by_epoch(Job(model, forward, objective, rows), how, clock)
            found[name] = seconds, trained_state(model)
        room = sum(path.stat().st_size for path in Path(folder).iterdir())
    tokens = sum(row.size for row in rows)
    print(f"{options.rows} texts, {tokens} tokens, {loaded.ref.name}, {loaded.precision.reason}")
    print(
        f"  the last {options.last} of {number_of_layers(model)} layers train; {room / 2**20:.1f} MB on disk"
    )
    for name, (seconds, _) in found.items():
        print(f"  {name:22} seconds by epoch: {' '.join(f'{s:.2f}' for s in seconds)}")
    (plain, first), (kept, second) = found.values()
    print(f"  from the second epoch on: x{sum(plain[1:]) / sum(kept[1:]):.2f}")
    moved = sum(float((first[n] - before[n]).float().square().sum()) for n in first) ** 0.5
    apart = sum(float((first[n] - second[n]).float().square().sum()) for n in first) ** 0.5
    print(f"  difference of the trained weights, relative to how far they moved: {apart / moved:.1e}")


if __name__ == "__main__":
    main()
