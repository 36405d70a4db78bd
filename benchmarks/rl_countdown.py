"""GRPO on the countdown game with the embedded model: does it learn the form, and does it learn to solve?

    python benchmarks/rl_countdown.py                      # about 15 minutes on 2 cores
    python benchmarks/rl_countdown.py --steps 2 --rows 20  # only shows that it works
    python benchmarks/rl_countdown.py --warm 0             # from the untouched model

Each prompt gives three numbers and a target. ``countdown_format`` is 1 for an expression of exactly these
numbers and nothing else, ``countdown`` is 1 if its value is the target as well. The untouched model writes
such an answer three times in a thousand: nothing to learn from, so it is first shown ``--warm``
solved puzzles (supervised, one pass). Greedy answers to held-out prompts are scored before and after the
policy optimisation, each figure with its 95 % interval.

The data are looked for in ``../shared/data`` beside the repository, or in ``$TUNEWRIGHT_DATA``; without
them the script says so and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import tunewright as tw
from tunewright.cli.console import ConsoleObserver
from tunewright.cli.output import verdict_lines
from tunewright.run.resolve import resolve

DATA = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FILE = DATA / "reward_countdown" / "dev_train_3num.jsonl"
EMBEDDED = "smollm2-135m-instruct"
REWARDS = [
    {"name": "countdown"},
    {"name": "countdown_format", "weight": 0.5},
]
SHOWN = {"reward:countdown_format": "format rate", "reward:countdown": "solve rate", "reward": "mean reward"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24, help="longest answer")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate of LoRA")
    parser.add_argument("--warm", type=int, default=60, help="solved puzzles shown first")
    parser.add_argument("--rows", type=int, default=100, help="held-out prompts that are scored")
    parser.add_argument("--out", help="keep the run here")
    options = parser.parse_args()
    if not FILE.is_file():
        sys.exit(f"no data in {DATA}; set TUNEWRIGHT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        model, puzzles = warmed(options.warm, Path(folder))
        prompts = Path(folder) / "countdown.jsonl"
        prompts.write_text("".join(json.dumps(puzzle) + "\n" for puzzle in puzzles), encoding="utf-8")
        out = options.out or str(Path(folder) / "run")
        values = {"model.name": model, **recipe(options, prompts, out)}
        run = tw.train(resolve(None, None, values), ConsoleObserver())
        report(run)


def warmed(count: int, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The model to start from, and the puzzles that it was not shown."""
    puzzles = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    if not count:
        return EMBEDDED, puzzles
    shown = folder / "shown.jsonl"
    lines = [{"prompt": p["prompt"], "completion": p["one_solution"]} for p in puzzles[:count]]
    shown.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    values = {
        "model.name": EMBEDDED,
        "data.train": str(shown),
        "data.split.validation": 0.0,
        "data.split.test": 0.0,
        "train.epochs": 1,
        "train.tokens_per_step": 512,
        "train.learning_rate": 3e-4,
        "output.dir": str(folder / "warm"),
        "output.final": "merged",
    }
    return str(tw.train(resolve(None, None, values), ConsoleObserver()).path / "model"), puzzles[count:]


def recipe(options: argparse.Namespace, prompts: Path, out: str) -> dict[str, Any]:
    """The run as dotted names; validation is measured at the start and at the end only."""
    return {
        "data.train": str(prompts),
        "data.split.validation": 0.05,
        "data.split.test": 0.25,
        "objective.name": "grpo",
        "objective.rewards": REWARDS,
        "objective.rollout.prompts": options.prompts,
        "objective.rollout.group": options.group,
        "objective.rollout.max_new_tokens": options.tokens,
        "train.epochs": 100,
        "train.max_steps": options.steps,
        "train.learning_rate": options.rate,
        "train.optim.schedule": "constant",
        "train.stop.patience": 0,
        "evaluate.every": options.steps,
        "evaluate.rows": options.rows,
        "evaluate.batch_size": options.prompts * options.group,
        "evaluate.metrics": ["reward", "reward:countdown_format", "reward:countdown"],
        "output.save_every": 10,
        "output.dir": out,
    }


def report(run: tw.Run) -> None:
    """Rates before and after, the course of training, and what a step costs."""
    for metric in run.result["metrics"]:
        before, after = (interval(metric["systems"][name]) for name in ("zero_shot", "tuned"))
        print(f"{SHOWN[metric['name']]:12} {before}  ->  {after}   n = {metric['n']}")
    steps = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    steps = [event["metrics"] for event in steps if event["event"] == "StepEnd"]
    for name in ("reward:countdown_format", "reward:countdown", "answer_tokens", "constant_groups"):
        values = [step[name] for step in steps]
        print(
            f"{name:24} sampled, by quarter of the run: {'  '.join(map('{:.3f}'.format, quarters(values)))}"
        )
    gap = max(step["sampler_gap"] for step in steps)
    print(f"largest mean gap between sampler and trainer: {gap:.2g} nats per token")
    seconds = run.result["cost"]["seconds"]["train"]
    print(f"{len(steps)} steps, {seconds / len(steps):.1f} seconds each with validation")
    print("\n".join(verdict_lines(run.result["verdict"])))


def interval(system: dict[str, Any]) -> str:
    return f"{system['value']:.3f} [{system['low']:.3f}, {system['high']:.3f}]"


def quarters(values: list[float]) -> list[float]:
    """The mean of each quarter of ``values``, or of each value where there are fewer than four."""
    size = max(1, len(values) // 4)
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(part) / len(part) for part in parts]


if __name__ == "__main__":
    main()
