"""What each way of choosing what trains is worth: quality, forgetting, size, memory and time, same tokens.

    python benchmarks/methods.py                     # every method, seed 0
    python benchmarks/methods.py lora full --seeds 0 1 2
    python benchmarks/methods.py --table             # the table of what was measured so far

Answers to medical questions on the embedded model: 80 rows, two passes, 60 test rows of other diseases.
Quality is the perplexity of the right answers, forgetting that of plain texts about sums, before and after.
Intervals are bootstraps over rows, differences are paired with LoRA over the same rows. Every run is a
process of its own, so peak memory is its own; results are kept in ``--results`` and not measured twice.
The data are looked for in ``../shared/data`` beside the repository, or in ``$TUNEWRIGHT_DATA``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tunewright as tw
from tunewright.core.events import StepEnd, silent
from tunewright.core.paths import RunDir
from tunewright.data.load import load as read_rows
from tunewright.evaluate.runner import questions
from tunewright.models.load import load
from tunewright.run.asking import Asking, evaluator
from tunewright.run.compose import make_adapter
from tunewright.run.resolve import resolve
from tunewright.run.store import read_answers, read_events

DATA = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MODEL = "smollm2-135m-instruct"
TRAIN, TEST, OTHERS, LONGEST = 80, 60, 60, 900  # rows, and characters of an answer
RESAMPLES = 2000
METHODS: dict[str, dict[str, Any]] = {
    "full": {"adapt": {"method": "full"}},
    "full, bfloat16": {"adapt": {"method": "full", "weights": "bfloat16"}},
    "full, 2 layers at a time": {"adapt": {"method": "full", "sample_layers": 2, "sample_every": 5}},
    "full, GaLore": {"adapt": {"method": "full"}, "train.optim": {"name": "galore"}},
    "last 8 layers": {"adapt": {"method": "freeze", "layers": 8}},
    "norms alone": {"adapt": {"method": "freeze", "train": "norms"}},
    "lora": {"adapt": {"method": "lora", "rank": 16}},
    "full, half the rate": {"adapt": {"method": "full"}, "train.learning_rate": 6.5e-5},
    "full, twice the rate": {"adapt": {"method": "full"}, "train.learning_rate": 2.6e-4},
    "lora, half the rate": {"adapt": {"method": "lora", "rank": 16}, "train.learning_rate": 6.5e-4},
    "lora, twice the rate": {"adapt": {"method": "lora", "rank": 16}, "train.learning_rate": 2.6e-3},
    "lora rank 64": {"adapt": {"method": "lora", "rank": 64}},
    "rslora rank 64": {"adapt": {"method": "rslora", "rank": 64}},
    "lora, MLP alone": {"adapt": {"method": "lora", "rank": 16, "targets": "mlp"}},
    "lora, attention alone": {"adapt": {"method": "lora", "rank": 16, "targets": "attention"}},
    "lora+": {"adapt": {"method": "lora", "rank": 16, "b_rate": 4.0}},
    "lora, PiSSA": {"adapt": {"method": "lora", "rank": 16, "init": "pissa"}},
    "dora": {"adapt": {"method": "dora", "rank": 16}},
    "adalora": {"adapt": {"method": "adalora", "rank": 8, "start_rank": 12}},
    "vera": {"adapt": {"method": "vera", "r": 256}},
    "ia3": {"adapt": {"method": "ia3"}},
    "oft": {"adapt": {"method": "oft", "oft_block_size": 32}},
    "qlora": {"adapt": {"method": "qlora", "rank": 16}},
    "bottleneck": {"adapt": {"method": "bottleneck", "size": 64}},
    "prompt": {"adapt": {"method": "prompt"}},
    "prefix": {"adapt": {"method": "prefix"}},
    "ptuning": {"adapt": {"method": "ptuning"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", help="names of METHODS; default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--results", type=Path, default=Path("build/methods.jsonl"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"no data in {DATA}; set TUNEWRIGHT_DATA")
    if unknown := set(words.methods) - set(METHODS):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(METHODS)}")
    if words.one:
        print(json.dumps(one(words.methods[0] if words.methods else "untouched", words.seeds[0])))
        return
    if not words.table:
        measure(words.methods or list(METHODS), words.seeds, words.results)
    print("\n".join(table(read(words.results))))


def measure(methods: list[str], seeds: list[int], results: Path) -> None:
    """Every pair that is not in ``results`` yet, each in a process of its own."""
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["method"], r["seed"]) for r in read(results)}
    for seed in seeds:
        for method in ["untouched", *methods] if seed == seeds[0] else methods:
            if (method, seed) in done or (method == "untouched" and seed != 0):
                continue
            call = [sys.executable, __file__, *([] if method == "untouched" else [method])]
            ran = subprocess.run([*call, "--one", "--seeds", str(seed)], capture_output=True, text=True)
            if ran.returncode:
                print(f"{method}, seed {seed}: failed\n{ran.stderr[-2000:]}", file=sys.stderr)
                continue
            with results.open("a", encoding="utf-8") as f:
                f.write(ran.stdout.splitlines()[-1] + "\n")
            found = json.loads(ran.stdout.splitlines()[-1])
            print(
                f"{method}, seed {seed}: {nats(found['test']):.3f} nats, {found['seconds']:.0f} s",
                file=sys.stderr,
            )


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []


def one(method: str, seed: int) -> dict[str, Any]:
    """One run, and what is scored afterwards from what it saved; ``untouched`` is the model as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        train, test, others = files(Path(folder))
        if method == "untouched":
            return {
                "method": method,
                "seed": seed,
                "test": scored(MODEL, test, None),
                "others": scored(MODEL, others, None),
                "seconds": 0.0,
            }
        whole = recipe(METHODS[method], train, test, Path(folder) / "run", seed)
        clock = Clock()
        run = tw.train(whole, clock)
        facts = run.result
        steps = [e for e in read_events(RunDir(run.path)) if e["event"] == "StepEnd"]
        return {
            "method": method,
            "seed": seed,
            "rate": max(e["learning_rate"] for e in steps),
            "test": read_answers(RunDir(run.path))["tuned"].scores["perplexity"].tolist(),
            "others": scored(str(run.path), others, make_adapter(whole.recipe).reloads),
            "trained": facts["model"]["trained_parameters"],
            "peak_mb": facts["cost"]["peak_memory_mb"],
            "seconds": clock.seconds,
            "tokens": facts["cost"]["tokens"],
        }


class Clock:
    """Processor time between the first and the last step, of all threads, as if the first took the mean."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, StepEnd):
            self.marks.append(time.process_time())

    @property
    def seconds(self) -> float:
        return (self.marks[-1] - self.marks[0]) * len(self.marks) / (len(self.marks) - 1)


def recipe(changes: dict[str, Any], train: Path, test: Path, out: Path, seed: int) -> Any:
    values = {
        "model": MODEL,
        "data.train": str(train),
        "data.test": str(test),
        "data.split.validation": 0.0,
        "data.split.test": 0.0,
        "data.max_length": 512,
        "train.epochs": 2,
        "train.tokens_per_step": 1024,
        "train.micro_tokens": 1024,
        "train.seed": seed,
        "evaluate.metrics": ["perplexity"],
        "evaluate.baselines": [],
        "output.dir": str(out),
    }
    return resolve(None, None, {**values, **changes})


def scored(model: str, rows: Path, weights: Any) -> list[list[float]]:
    """Per row: nats of the right answers, and their tokens."""
    loaded = load(model, weights=weights)
    asked = questions(read_rows([rows]).examples)
    judge = evaluator(loaded, asked, Asking(["perplexity"], max_new_tokens=1), silent)
    return np.asarray(judge(loaded.model).scores["perplexity"]).tolist()


def files(folder: Path) -> tuple[Path, Path, Path]:
    """Training rows, test rows about other diseases, and texts about sums."""
    source = DATA / "domainqa_medquad" / "medquad_dev.jsonl"
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    short = [r for r in rows if 200 <= len(r["answer"]) <= LONGEST]
    train = short[:TRAIN]
    known = {r["focus"] for r in train}
    test = [r for r in short[TRAIN:] if r["focus"] not in known][:TEST]
    parts = {}
    for name, chosen in (("train", train), ("test", test)):
        parts[name] = folder / f"{name}.jsonl"
        lines = [
            json.dumps({"question": r["question"], "answer": " ".join(r["answer"].split())}) for r in chosen
        ]
        parts[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    sums = (DATA / "reward_gsm8k_train" / "train.jsonl").read_text("utf-8").splitlines()[:OTHERS]
    parts["others"] = folder / "others.jsonl"
    texts = [json.dumps({"text": f"{r['question']}\n{r['answer']}"}) for r in map(json.loads, sums)]
    parts["others"].write_text("\n".join(texts) + "\n", encoding="utf-8")
    return parts["train"], parts["test"], parts["others"]


def nats(rows: Any) -> float:
    """Nats a token, over rows of (nats, tokens)."""
    sums = np.asarray(rows).sum(-2)
    return float(sums[0] / sums[1])


def interval(rows: np.ndarray, than: np.ndarray | None = None) -> tuple[float, float, float]:
    """Nats a token with its 95 % bootstrap interval, or the paired difference from ``than``; rows (n, 2)."""
    draws = np.random.default_rng(0).integers(0, len(rows), (RESAMPLES, len(rows)))
    values = rows[draws].sum(1)
    found, centre = values[:, 0] / values[:, 1], nats(rows)
    if than is not None:
        others = than[draws].sum(1)
        found, centre = found - others[:, 0] / others[:, 1], centre - nats(than)
    low, high = np.percentile(found, [2.5, 97.5])
    return centre, float(low), float(high)


def table(results: list[dict[str, Any]]) -> list[str]:
    """Markdown. Rows are averaged over seeds; ``seeds`` gives the range of the perplexity over them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["method"], []).append(result)
    mean = {m: {k: np.mean([r[k] for r in rs], 0) for k in ("test", "others")} for m, rs in groups.items()}
    lines = [
        "| method | seeds | trained | rate | perplexity of answers | nats against LoRA |"
        " forgetting, nats on sums | peak MB | processor seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, runs in sorted(groups.items(), key=lambda pair: nats(mean[pair[0]]["test"])):
        test, others = mean[method]["test"], mean[method]["others"]
        value, low, high = np.exp(interval(test))
        than_lora = interval(test, mean["lora"]["test"]) if "lora" in mean else None
        forgot = interval(others, mean["untouched"]["others"]) if "untouched" in mean else None
        trained = f"{runs[0]['trained'] / 1e6:.2f} M" if "trained" in runs[0] else "0"
        cells = [
            method,
            str(len(runs)),
            trained,
            f"{runs[0]['rate']:.1g}" if "rate" in runs[0] else "",
            f"{value:.2f} [{low:.2f}, {high:.2f}]" + spread(runs),
            signed(than_lora) if method != "lora" else "",
            signed(forgot) if method != "untouched" else "",
            f"{np.median([r['peak_mb'] for r in runs]):.0f}" if "peak_mb" in runs[0] else "",
            f"{np.median([r['seconds'] for r in runs]):.0f}" if "trained" in runs[0] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(runs: list[dict[str, Any]]) -> str:
    """The perplexities of the single seeds."""
    values = np.exp([nats(r["test"]) for r in runs])
    return f"; seeds {values.min():.2f} to {values.max():.2f}" if len(runs) > 1 else ""


def signed(found: tuple[float, float, float] | None) -> str:
    return "" if found is None else f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]"


if __name__ == "__main__":
    main()
