"""Train on real data and print before and after, with intervals.

    python benchmarks/real_data.py medquad       # answers to medical questions: perplexity, ROUGE-L
    python benchmarks/real_data.py banking       # ten intents as generated labels: accuracy, macro-F1
    python benchmarks/real_data.py intents       # all 77 intents with a head, against naive Bayes
    python benchmarks/real_data.py intents 8     # the same with 8 training and 8 test rows of each
    python benchmarks/real_data.py dpo           # 300 preference pairs: margin and accuracy on held-out ones
    python benchmarks/real_data.py reward        # a reward model on the same pairs, against two baselines
    python benchmarks/real_data.py check         # what `data check` finds in every file

The data are looked for in ``../shared/data`` beside the repository, or in ``$TUNEWRIGHT_DATA``; without
them the script says so and ends. Takes a few minutes per data set on 2 cores.
"""

import csv
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import tunewright as tw
from tunewright.cli.console import ConsoleObserver
from tunewright.cli.output import metric_lines, verdict_lines
from tunewright.core.records import Example, Preference, as_conversation
from tunewright.data.check_view import check_lines
from tunewright.data.load import load
from tunewright.run.recipe import parse_override
from tunewright.run.resolve import resolve

DATA = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
INTENTS = (
    "card_arrival",
    "lost_or_stolen_card",
    "exchange_rate",
    "cash_withdrawal_charge",
    "pending_transfer",
    "top_up_failed",
    "change_pin",
    "verify_my_identity",
    "age_limit",
    "refund_not_showing_up",
)
SEED_COLUMNS = {
    "prompt": "{instruction}\n\n{instances.0.input}",
    "completion": "instances.0.output",
}


def main() -> None:
    if not DATA.is_dir():
        sys.exit(f"no data in {DATA}; set TUNEWRIGHT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        commands = {"medquad": medquad, "banking": banking, "intents": intents, "check": check}
        commands |= {"dpo": dpo, "reward": reward}
        commands[sys.argv[1]](Path(folder))


def medquad(folder: Path) -> None:
    """300 questions with answers of at most 1,200 characters; no question on both sides of the split."""
    source = DATA / "domainqa_medquad" / "medquad_dev.jsonl"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    short = [r for r in rows if len(r["answer"]) <= 1200][:300]
    pairs = [{"question": r["question"], "answer": r["answer"]} for r in short]
    file = folder / "medquad.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in pairs), encoding="utf-8")
    report(
        file,
        {
            "data.split.test": 0.15,
            "train.epochs": 2,
            "train.tokens_per_step": 1024,
            "train.micro_tokens": 1024,
            "data.max_length": 512,
            "evaluate.metrics": ["perplexity", "rouge_l"],
            "evaluate.max_new_tokens": 192,
        },
        folder,
    )


def banking(folder: Path) -> None:
    """Ten intents; the label is written out as the answer."""
    parts = {name: DATA / "cls_banking77" / f"{name}.csv" for name in ("train", "test")}
    files = {name: folder / f"{name}.csv" for name in parts}
    for name, source in parts.items():
        with source.open(encoding="utf-8", newline="") as f:
            rows = [r for r in csv.DictReader(f) if r["category"] in INTENTS]
        with files[name].open("w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, ["text", "category"])
            writer.writeheader()
            writer.writerows(rows)
    overrides = {
        "data.test": str(files["test"]),
        "data.columns": {"text": "text", "label": "category"},
        "train.epochs": 2,
        "train.tokens_per_step": 512,
        "train.micro_tokens": 1024,
        "evaluate.metrics": ["accuracy", "macro_f1"],
        "evaluate.baselines": ["zero_shot", "few_shot"],
        "evaluate.shots": len(INTENTS),
    }
    report(files["train"], overrides, folder)


NAIVE_BAYES = 0.860  # on all of train.csv, tested on all of test.csv
INTENTS_77 = {
    "data.columns": {"text": "text", "label": "category"},
    "data.split.validation": 0.05,
    "data.max_length": 128,
    "adapt.rank": 16,
    "objective": {"name": "classify", "pooling": "mean"},
    "train.epochs": 3,
    "train.tokens_per_step": 512,  # about 37 questions
    "train.micro_tokens": 2048,
    "evaluate.baselines": ["majority", "naive_bayes"],
}


def intents(folder: Path) -> None:
    """All 77 intents: LoRA and a head. Further words: how many rows of each intent, settings of the recipe.

    Train and test are the files' own; a share of the training rows is kept for validation.
    """
    each = next((int(word) for word in sys.argv[2:] if word.isdigit()), None)
    words = settings_given()
    files = {name: folder / f"{name}.csv" for name in ("train", "test")}
    for name, target in files.items():
        with (DATA / "cls_banking77" / f"{name}.csv").open(encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
        rows = draw(rows, each) if each else rows
        with target.open("w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, ["text", "category"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    begun = time.monotonic()
    report(files["train"], INTENTS_77 | {"data.test": str(files["test"])} | words, folder)
    seconds = time.monotonic() - begun
    result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    reached = next(m for m in result["metrics"] if m["name"] == "accuracy")["systems"]["tuned"]
    print(
        f"accuracy {reached['value']:.3f} ({reached['low']:.3f} to {reached['high']:.3f}),"
        f" {reached['n']} rows, {seconds:.0f} s; naive Bayes on all rows has {NAIVE_BAYES:.3f}:"
        f" {'beaten' if reached['value'] > NAIVE_BAYES else 'not beaten'}"
    )


PAIRS = {
    "data.split.test": 0.25,
    "data.split.validation": 0.1,
    "data.max_length": 768,
    "train.epochs": 2,
    "train.tokens_per_step": 8192,  # about eight pairs
}


def dpo(folder: Path) -> None:
    """LoRA and DPO on 300 pairs of answers of an assistant. Further words: settings of the recipe."""
    settings = PAIRS | {"objective": {"name": "dpo", "beta": 0.1}, "train.learning_rate": 1e-4}
    report(DATA / "pref_demo" / "dpo_en_demo.json", settings | settings_given(), folder)


def reward(folder: Path) -> None:
    """A reward model on the same pairs."""
    settings = PAIRS | {"objective": {"name": "reward"}, "train.learning_rate": 2e-4}
    report(DATA / "pref_demo" / "dpo_en_demo.json", settings | settings_given(), folder)


def settings_given() -> dict:
    """Words of the command line such as ``train.max_steps=2``."""
    return dict(parse_override(word) for word in sys.argv[2:] if "=" in word)


def draw(rows: list[dict], each: int) -> list[dict]:
    """``each`` rows of every category, drawn with a seed."""
    found: dict[str, list[dict]] = {}
    for row in random.Random(0).sample(rows, len(rows)):
        found.setdefault(row["category"], []).append(row)
    return [row for category in sorted(found) for row in found[category][:each]]


def report(file: Path, overrides: dict, folder: Path) -> None:
    """One run with the embedded model; prints what the run's own report says."""
    given = {"data.train": str(file), "output.dir": str(folder / "run"), **overrides}
    run = tw.train(resolve(None, None, given), ConsoleObserver())
    result = run.result
    print("questions on both sides of the split:", len(repeated_questions(run.path / "data")))
    print(json.dumps({k: result[k] for k in ("counts", "cost", "training")}, indent=1))
    print("\n".join(metric_lines(result["metrics"]) + verdict_lines(result["verdict"])))


def repeated_questions(data: Path) -> set[str]:
    """Prompts, case and white space aside, that stand in the test file and in training or validation."""
    sides = []
    for names in (("test",), ("train", "validation")):
        files = [file for name in names if (file := data / f"{name}.jsonl").stat().st_size]
        examples = load(files).examples
        sides.append({" ".join(prompt_text(e).lower().split()) for e in examples})
    return sides[0] & sides[1]


def prompt_text(example: Example) -> str:
    """The first question of a chat; all turns before the answers of a pair."""
    if isinstance(example, Preference):
        return "\n".join(message.content for message in example.prompt)
    return (as_conversation(example) or example).messages[0].content


def check(folder: Path) -> None:
    """``data check`` on every file."""
    for pattern, columns in (
        ("sft_chat_tinker/*.jsonl", None),
        ("sft_seed_tasks/*.jsonl", SEED_COLUMNS),
        ("pref_demo/*.json", None),
        ("messy_raw/messy.jsonl", None),
    ):
        for path in sorted(DATA.glob(pattern)):
            print(f"===== {path.relative_to(DATA)}")
            print("\n".join(check_lines(tw.check([path], columns=columns))))


if __name__ == "__main__":
    main()
