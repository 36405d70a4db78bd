"""What it saves to run a frozen trunk once: an epoch with and without the states on disk.

    python benchmarks/head_cache.py [--model smollm2-135m-instruct] [--rows 400] [--epochs 3]

A head is trained on random texts, once with ``FrozenForward`` and once with the plain ``ModelForward``, in
the same process. Prints the seconds of each epoch, the ratio from the second epoch on, and how far apart the
two heads end.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from race import seconds_by_epoch

from tunewright.adapt.base import adapter_of
from tunewright.core.records import Tokens
from tunewright.engine.loop import FitSettings, Job
from tunewright.models.forward import ModelForward
from tunewright.models.frozen import FrozenForward, trunk_is_fixed
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.models.score import attach, detach, head_called
from tunewright.objectives.base import Objective, make_objective
from tunewright.objectives.options.table import options_of

CLASSES = 8


def texts(count: int, vocabulary: int) -> list[Tokens]:
    """Random ids, 8 to 20 of them, with a class: the speed does not depend on what they say."""
    rng = random.Random(0)
    rows = [[rng.randrange(20, vocabulary) for _ in range(rng.randint(8, 20))] for _ in range(count)]
    return [Tokens(ids, [0.0] * len(ids), extras={"label": float(ids[-1] % CLASSES)}) for ids in rows]


def classifier() -> Objective:
    """An objective over all classes, each of weight 1."""
    labels = [str(k) for k in range(CLASSES)]
    objective = make_objective("classify", options_of("classify", {"labels": labels}))
    objective.weights = (1.0,) * CLASSES
    return objective


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    use_all_cores()
    loaded = load(options.model)
    model = adapter_of("head").attach(loaded.model)
    assert trunk_is_fixed(model), "this model has dropout, so its states cannot be kept"
    rows = texts(options.rows, loaded.model.config.vocab_size)
    how = FitSettings(epochs=options.epochs, learning_rate=0.01, tokens_per_step=512, micro_tokens=2048)
    found: dict[str, tuple[list[float], torch.Tensor]] = {}
    with tempfile.TemporaryDirectory() as cache:
        ways: dict[str, Callable[[], ModelForward]] = {
            "trunk every epoch": lambda: ModelForward(model, compute=loaded.precision.dtype),
            "states on disk": lambda: FrozenForward(model, Path(cache), compute=loaded.precision.dtype),
        }
        for name, forward in ways.items():
            attach(model, classifier().heads)
            seconds = seconds_by_epoch(Job(model, forward(), classifier(), rows), how)
            found[name] = seconds, head_called(model, "score").weight.detach().clone()
            detach(model)
    tokens = sum(row.size for row in rows)
    print(f"{options.rows} texts, {tokens} tokens, {loaded.ref.name}, {loaded.precision.reason}")
    for name, (seconds, _) in found.items():
        print(f"  {name:18} seconds by epoch: {' '.join(f'{s:.2f}' for s in seconds)}")
    (plain, first), (kept, second) = found.values()
    print(f"  from the second epoch on: x{sum(plain[1:]) / sum(kept[1:]):.1f}")
    apart = float((first - second).abs().max() / first.abs().max())
    print(f"  largest difference of a weight, relative to the largest weight: {apart:.1e}")


if __name__ == "__main__":
    main()
