"""Does ``tunewright plan`` say how much memory a run will take? For every method: predicted against measured.

    python benchmarks/memory_plan.py [--only lora full …] [--steps 12] [--device cpu] [--limit 15]

Each line is one short real run on the embedded model, planned in one process and trained in another: the
plan's ``memory.peak_mb`` beside the run's own ``cost.peak_memory_mb`` (``ru_maxrss``, on a GPU the most that
torch had allocated). Ends with status 1 if any prediction is off by more than the limit, in per cent.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

CASES: dict[str, tuple[str, ...]] = {
    "lora": ("adapt.method=lora",),
    "lora, micro_tokens 2048": ("adapt.method=lora", "train.micro_tokens=2048"),
    "lora, float32": ("adapt.method=lora", "model.dtype=float32"),
    "lora, all checkpointed": ("adapt.method=lora", "train.memory.checkpoint_layers=30"),
    "lora, attention alone": ("adapt.method=lora", "adapt.targets=attention"),
    "rslora": ("adapt.method=rslora",),
    "dora": ("adapt.method=dora",),
    "qlora": ("adapt.method=qlora",),
    "qlora, 8 bits": ("adapt.method=qlora", "adapt.bits=8"),
    "full": ("adapt.method=full",),
    "full, micro_tokens 2048": ("adapt.method=full", "train.micro_tokens=2048"),
    "full, half checkpointed": ("adapt.method=full", "train.memory.checkpoint_layers=15"),
    "full, bfloat16": ("adapt.method=full", "adapt.weights=bfloat16"),
    "full, 8-bit AdamW": ("adapt.method=full", "train.optim.name=adamw_8bit"),
    "full, GaLore": ("adapt.method=full", "train.optim.name=galore"),
    "full, update in backward": (
        "adapt.method=full",
        "train.memory.update=in_backward",
        "train.optim.clip_norm=0",
        "train.tokens_per_step=512",
    ),
    "freeze": ("adapt.method=freeze",),
    "bottleneck": ("adapt.method=bottleneck",),
    "prompt": ("adapt.method=prompt",),
    "prefix": ("adapt.method=prefix",),
    "ptuning": ("adapt.method=ptuning",),
    "ia3": ("adapt.method=ia3",),
    "adalora": ("adapt.method=adalora",),
    "vera": ("adapt.method=vera",),
    "oft": ("adapt.method=oft",),
    "lora, PiSSA": ("adapt.method=lora", "adapt.init=pissa_niter_4"),
    "full, 2 layers at a time": ("adapt.method=full", "adapt.sample_layers=2"),
    "head": ("adapt.method=head", "objective=classify", "data.train={classes}"),
    "lora, classes": ("adapt.method=lora", "objective=classify", "data.train={classes}"),
    "lora, DPO": ("adapt.method=lora", "objective=dpo", "data.train={pairs}"),
    "norms": ("adapt.method=freeze", "adapt.train=norms"),
    "longlora": ("adapt.method=longlora", "data.max_length=32768"),
    "lora, answers": (
        "adapt.method=lora",
        "evaluate.max_new_tokens=48",
        "data.split.test=0.3",
        "train.micro_tokens=256",
    ),
}
COMMON = (
    "model.name=smollm2-135m-instruct",
    "train.tokens_per_step=1024",
    "train.micro_tokens=512",
    "train.learning_rate=0.0001",
    "evaluate.max_new_tokens=4",
    "evaluate.every=1000",
    "data.split.test=0.03",
    "data.split.validation=0.03",
)
WORDS = [
    "refund",
    "order",
    "card",
    "ticket",
    "morning",
    "customer",
    "the",
    "a",
    "of",
    "to",
    "please",
    "answer",
    "with",
    "your",
    "account",
    "number",
]


class Row(NamedTuple):
    """One case: MB planned and measured, the phase of the peak, MB of freed pieces in it, seconds of each."""

    name: str
    planned: float
    measured: float
    phase: str
    pieces: float
    seconds: tuple[float, float]

    @property
    def error(self) -> float:
        """How far the plan is off, in per cent of what was measured."""
        return 100.0 * (self.planned / self.measured - 1.0)


def write_rows(folder: Path, count: int = 120) -> None:
    """Chats of two turns, some 60 to 400 tokens long; the same as pairs of answers; texts with a class."""
    rng = random.Random(0)

    def text(longest: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(20, longest)))

    kinds: dict[str, list[dict[str, Any]]] = {"rows": [], "pairs": [], "classes": []}
    for i in range(count):
        asked, answer = {"role": "user", "content": f"{i}: {text(150)}"}, text(180)
        kinds["rows"].append({"messages": [asked, {"role": "assistant", "content": answer}]})
        kinds["pairs"].append({"prompt": asked["content"], "chosen": answer, "rejected": text(90)})
        kinds["classes"].append({"text": asked["content"], "label": ("card", "order", "refund")[i % 3]})
    for name, rows in kinds.items():
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def call(*words: str) -> tuple[dict[str, Any], float]:
    """``tunewright WORDS… --json`` in a process of its own, and the seconds it took."""
    begun = time.perf_counter()
    program = "import sys; from tunewright.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--json"], capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise SystemExit(f"tunewright {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), time.perf_counter() - begun


def measure(name: str, words: tuple[str, ...], folder: Path) -> Row:
    """Plan the case, then run it."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"data: {{train: {folder / 'rows.jsonl'}}}\n", encoding="utf-8")
    out = folder / "runs" / name.replace(" ", "-").replace(",", "")
    files = {path.stem: path for path in folder.glob("*.jsonl")}
    judges = any(word.startswith("objective=") for word in words)  # and then nothing is written
    common = [word for word in COMMON if not (judges and word.startswith("evaluate.max_new_tokens"))]
    words = (*common, *(word.format(**files) for word in words), f"output.dir={out}")
    plan, planning = call("plan", str(recipe), *words)
    result, training = call("train", str(recipe), *words)
    memory = plan["memory"]
    measured = result["cost"]["peak_memory_mb"]
    pieces = memory["parts_mb"].get("freed pieces", 0)
    return Row(name, memory["peak_mb"], measured, memory["phase"], pieces, (planning, training))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], help="names of cases, or beginnings of names")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=15.0)
    options = parser.parse_args()
    words = (f"train.max_steps={options.steps}", f"model.device={options.device}")
    rows = []
    print(f"{'':28} {'planned':>8} {'measured':>8} {'error':>7}   peak in  pieces   plan, run (s)")
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        for name, own in CASES.items():
            if options.only and not any(name.startswith(start) for start in options.only):
                continue
            row = measure(name, (*words, *own), Path(folder))
            rows.append(row)
            print(
                f"{row.name:28} {row.planned:8.0f} {row.measured:8.0f} {row.error:+6.1f}%"
                f"   {row.phase:8} {row.pieces:6.0f}"
                f" {row.seconds[0]:6.1f} {row.seconds[1]:6.1f}",
                flush=True,
            )
    worst = max(rows, key=lambda row: abs(row.error))
    within = sum(abs(row.error) <= options.limit for row in rows)
    print(f"{within} of {len(rows)} within {options.limit:g} %; worst: {worst.name}, {worst.error:+.1f}%")
    sys.exit(within < len(rows))


if __name__ == "__main__":
    main()
