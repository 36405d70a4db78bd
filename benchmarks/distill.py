"""How much of a teacher is left in a student of half its layers, with and without distillation.

    python benchmarks/distill.py                          # under 20 minutes on 2 cores
    python benchmarks/distill.py --teacher runs/tickets   # a finished run of the quickstart
    python benchmarks/distill.py --steps 2 --rows 4       # a rehearsal; its numbers mean nothing

The teacher is the embedded model, tuned on the bundled tickets as the quickstart does it. The student is the
untouched embedded model without every second layer, which alone can say nothing sensible any more. It is
trained twice on the same rows, in the same order, for the same number of steps: once to say what the teacher
would say (distill, its defaults), once to say what the rows say (sft). All are asked the same test rows.

Prints the exact match of the three with intervals, the paired differences, parameters, and the speed at which
teacher and student write: tokens per second, measured in turn on the same prompts, fastest of ``--repeats``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

import tunewright as tw
from tunewright.cli.console import ConsoleObserver
from tunewright.core.paths import RunDir
from tunewright.data.render import Renderer
from tunewright.evaluate.compare import paired
from tunewright.evaluate.metrics import METRICS
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load
from tunewright.run.quickstart import HERE, TICKETS
from tunewright.run.resolve import resolve
from tunewright.run.store import read_answers

METRIC = "exact_match"
PROMPTS, NEW_TOKENS = 32, 32  # of the speed test


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="what teacher and student are made of"
    )
    parser.add_argument("--teacher", help="a finished run to learn from")
    parser.add_argument("--epochs", type=int, default=5, help="of either student")
    parser.add_argument("--rate", type=float, default=5e-4, help="of either student, which learns much anew")
    parser.add_argument("--steps", type=int, help="stop every training after so many steps")
    parser.add_argument("--rows", type=int, help="ask so many test rows only")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, options.out or Path(folder))


def compare(options: argparse.Namespace, out: Path) -> None:
    """Train the teacher and both students, then say how they differ."""
    short = {
        "train.max_steps": options.steps,
        "evaluate.rows": options.rows,
        "evaluate.metrics": [METRIC],
        "evaluate.baselines": [],
    }
    teacher = options.teacher or str(train(out / "teacher", {**short, "model.name": options.model}).path)
    student = half_of(options.model, out / "half")
    common = {
        **short,
        "model.name": str(student),
        "adapt.method": "full",
        "train.learning_rate": options.rate,
        "train.epochs": options.epochs,
    }
    distilled = train(
        out / "distilled",
        {
            **common,
            "objective": {"name": "distill", "teacher": teacher},
            "evaluate.baselines": ["zero_shot", "teacher"],
        },
    )
    tuned = train(out / "sft", common)
    print_scores(distilled, tuned)
    print_sizes(teacher, str(distilled.path), options.repeats)
    print_cost({"distilled": distilled, "sft": tuned})


def train(directory: Path, overrides: dict[str, Any]) -> tw.Run:
    """The recipe of the quickstart with ``overrides``."""
    given = {"data.train": str(TICKETS), "output.dir": str(directory), **overrides}
    return tw.train(resolve(HERE / "recipe.yaml", None, given), ConsoleObserver())


def half_of(name: str, folder: Path) -> Path:
    """The model with layers 0, 2, 4 … of its own, saved in ``folder``."""
    loaded = load(name, device="cpu", dtype="float32")
    model: Any = loaded.model
    model.model.layers = nn.ModuleList(model.model.layers[::2])
    model.config.num_hidden_layers = len(model.model.layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[::2]
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def print_scores(distilled: tw.Run, tuned: tw.Run) -> None:
    """Exact match of every system, and the paired differences of the student by distillation."""
    rows = {name: a.scores[METRIC] for name, a in read_answers(RunDir(distilled.path)).items()}
    rows = {
        "teacher": rows["teacher"],
        "half, untouched": rows["zero_shot"],
        "half, distilled": rows["tuned"],
    }
    rows["half, sft"] = read_answers(RunDir(tuned.path))["tuned"].scores[METRIC]
    same = [(run.path / "data" / "test.jsonl").read_bytes() for run in (distilled, tuned)]
    assert same[0] == same[1], "the two students were asked different rows"
    systems = {
        **distilled.result["metrics"][0]["systems"],
        "sft": tuned.result["metrics"][0]["systems"]["tuned"],
    }
    found = [systems[name] for name in ("teacher", "zero_shot", "tuned", "sft")]
    print(f"\n{METRIC}, n = {len(rows['teacher'])}")
    for name, score in zip(rows, found, strict=True):
        print(f"  {name:16} {score['value']:6.1%}   {score['low']:6.1%} … {score['high']:6.1%}")
    for other in ("teacher", "half, sft"):
        found = paired(METRICS[METRIC], rows[other], rows["half, distilled"]).to_dict()
        low, high = (f"{100 * found[bound]:+.1f}" for bound in ("low", "high"))
        print(f"  distilled minus {other:10} {100 * found['value']:+6.1f} points   {low} … {high}")


def print_sizes(teacher: str, student: str, repeats: int) -> None:
    """Parameters, and tokens per second; an adapter is merged first, so that it costs the teacher nothing."""
    models = {name: load(path) for name, path in (("teacher", teacher), ("student", student))}
    rows = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()[:PROMPTS]]
    speeds: dict[str, float] = dict.fromkeys(models, 0.0)
    whole = {name: m.model.merge_and_unload() if m.ref.adapter else m.model for name, m in models.items()}
    prompts = [
        Renderer(models["teacher"].tokenizer).plain_ids("\n".join(m["content"] for m in row["messages"][:-1]))
        for row in rows
        if "messages" in row
    ]
    for _ in range(repeats):
        for name, model in whole.items():
            begun = time.perf_counter()
            found = generate(model, prompts, Sampling(max_new_tokens=NEW_TOKENS))
            seconds = time.perf_counter() - begun
            speeds[name] = max(speeds[name], sum(len(g.ids) for g in found) / seconds)
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in whole.items()}
    print()
    for name in models:
        print(f"  {name:16} {sizes[name]:,} parameters, {speeds[name]:.0f} tokens/s")
    print(f"  ratio            x{sizes['student'] / sizes['teacher']:.2f} in size, ", end="")
    print(f"x{speeds['student'] / speeds['teacher']:.2f} in speed")


def print_cost(runs: dict[str, tw.Run]) -> None:
    """Seconds of training, and of asking the teacher."""
    print()
    for name, run in runs.items():
        seconds = run.result["cost"]["seconds"]
        asked = f", asking the teacher {seconds['teacher']:.0f} s" if "teacher" in seconds else ""
        print(f"  {name:16} training {seconds['train']:.0f} s, {run.result['counts']['steps']} steps{asked}")


if __name__ == "__main__":
    main()
