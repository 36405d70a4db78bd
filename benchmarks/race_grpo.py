"""Group relative policy optimisation against TRL, sampling and training: answer tokens a second, memory.

    python benchmarks/race_grpo.py
    python benchmarks/race_grpo.py --settings     # every setting of TRL once, to find its fastest

Each update samples 8 answers of at most 64 tokens to each of 2 prompts and trains on them once: LoRA of rank
16 on the embedded model in bfloat16, rewarded by length, which costs nothing. Both sides sample their own
answers, so their losses differ; what is compared is the time for the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from race import MODEL, PEER_PYTHON, PEERS, Result, by_turns, compare, every_setting, need_data

import tunewright as tw
from tunewright.core.events import Event, Started, StepEnd
from tunewright.engine.memory import peak_mb
from tunewright.models.embedded import embedded_path
from tunewright.run.resolve import resolve

GROUP, PROMPTS, NEW, RANK, RATE = 8, 2, 64, 16, 1e-5
FASTER, SMALLER = (3.0, 5.0), (0.25, 0.25)  # must and aim: times TRL's speed, share of its memory
SETTINGS = {
    "16 together": ["--device-batch", "16"],
    "8 together": ["--device-batch", "8"],
    "16 together, weights in bfloat16": ["--device-batch", "16", "--weights", "bfloat16"],
    "8 together, weights in bfloat16": ["--device-batch", "8", "--weights", "bfloat16"],
    "4 together, weights in bfloat16": ["--device-batch", "4", "--weights", "bfloat16"],
}
PEERS_RUN = {"TRL, 16 together": "16 together", "TRL, fastest": "8 together, weights in bfloat16"}
THINGS = ("river", "lamp", "city", "forest", "engine", "violin", "storm", "garden", "market", "island")


def prompts(count: int) -> list[str]:
    """Questions that take more than 64 tokens to answer."""
    return [
        f"Tell me a long and detailed story about a {THINGS[i % 10]} and a {THINGS[(i // 10 + i + 3) % 10]},"
        f" with {i + 2} people in it."
        for i in range(count)
    ]


def ours(updates: int) -> Result:
    """Our side: a run as a user would start it, timed from its first update to its last."""
    ends: list[float] = []
    counts: list[float] = []

    def observe(event: Event) -> None:
        if isinstance(event, (Started, StepEnd)):
            ends.append(time.perf_counter())
        if isinstance(event, StepEnd):
            counts.append(event.metrics["answer_tokens"] * GROUP * PROMPTS)

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "prompts.jsonl"
        rows.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts(updates * PROMPTS)))
        values = {
            "model.name": MODEL,
            "model.dtype": "bfloat16",
            "data.train": str(rows),
            "data.split.validation": 0.0,
            "data.split.test": 0.0,
            "adapt": {"method": "lora", "rank": RANK},
            "objective.name": "grpo",
            "objective.rewards": [{"name": "length", "most": 1000}],
            "objective.rollout.prompts": PROMPTS,
            "objective.rollout.group": GROUP,
            "objective.rollout.max_new_tokens": NEW,
            "train.epochs": 1,
            "train.learning_rate": RATE,
            "output.dir": str(Path(folder) / "run"),
        }
        tw.train(resolve(None, None, values), observe)
    return {"counts": counts, "ends": ends, "losses": [], "peak_mb": peak_mb(torch.device("cpu"))}


def peer(rows: Path, settings: list[str]) -> list[str]:
    """The command of TRL's side."""
    call = [str(PEER_PYTHON), str(PEERS / "trl_grpo.py"), str(rows), "--model", str(embedded_path(MODEL))]
    call += ["--rate", str(RATE), "--out", str(rows.parent / "trl"), "--group", str(GROUP)]
    return [*call, "--prompts", str(PROMPTS), "--new-tokens", str(NEW), *settings]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", action="store_true")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(options.updates)))
        return
    need_data()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        lines = [{"prompt": [{"role": "user", "content": p}]} for p in prompts(options.updates * PROMPTS)]
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        if options.settings:
            every_setting(SETTINGS, lambda given: peer(path, given))
            return
        call = [sys.executable, __file__, "--one", "--updates", str(options.updates)]
        commands = {name: peer(path, SETTINGS[setting]) for name, setting in PEERS_RUN.items()}
        sides = by_turns({"Tunewright": call, **commands}, options.repeats)
    compare(sides, "answer tokens", FASTER, SMALLER)


if __name__ == "__main__":
    main()
