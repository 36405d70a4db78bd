"""Whether ``data recommend`` finds the right data set, over seeds, and what it costs.

    python benchmarks/detective.py                  # under 15 minutes on 2 cores
    python benchmarks/detective.py --seeds 2        # a first look
    python benchmarks/detective.py --controls       # only the controls, under a minute

Candidates are slices of five published sets: medical questions (MedQuAD), banking intents, countdown sums,
general chat and school maths (GSM8K), and a sixth that is half the right one and half another, in turn. The
problem is 32 examples that stand in no candidate: medical ones for all seeds, maths for some. A seed picks
the examples, the slices, the projection and the start of the adapter. Asked of each seed:

- of the five, is the right one first by its gradients alone?
- of all six, after the race, is the right one first and the half one second?

Controls, to see that neither length nor format decides: all rows dealt to five sets at random must score
alike; the right set with the words of each answer in random order must fall behind the right set.

The data are looked for in ``../shared/data`` beside the repository, or in ``$TUNEWRIGHT_DATA``.
"""

import argparse
import csv
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tunewright.run.recommend.detective import recommend
from tunewright.run.recommend.settings import DetectiveSettings

DATA = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
PROBLEM, SLICE = 32, 64  # rows
SETTINGS = {"rows": 24, "max_length": 192, "finalists": 3, "race_tokens": 4096, "replies": 0}
Pair = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--maths-seeds", type=int, default=3)
    parser.add_argument("--controls", action="store_true")
    given = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"no data in {DATA}; set TUNEWRIGHT_DATA")
    pools = pools_of()
    with tempfile.TemporaryDirectory() as folder:
        if not given.controls:
            contest(pools, "medical", given.seeds, Path(folder))
            contest(pools, "maths", min(given.seeds, given.maths_seeds), Path(folder))
        controls(pools, Path(folder))


def pools_of() -> dict[str, list[Pair]]:
    """All rows of each data set as (question, answer); of chats with one turn each way."""
    with (DATA / "cls_banking77" / "train.csv").open(encoding="utf-8", newline="") as f:
        banking = [(row["text"], row["category"]) for row in csv.DictReader(f)]
    chats = [row["messages"] for row in rows_of("sft_chat_tinker/conversations.jsonl")]
    return {
        "medical": [(r["question"], r["answer"]) for r in rows_of("domainqa_medquad/medquad_dev.jsonl")],
        "banking": banking,
        "countdown": [
            (r["prompt"], r["one_solution"]) for r in rows_of("reward_countdown/dev_train_3num.jsonl")
        ],
        "chat": [(c[-2]["content"], c[-1]["content"]) for c in chats],
        "maths": [(r["question"], r["answer"]) for r in rows_of("reward_gsm8k_train/train.jsonl")],
    }


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def contest(pools: dict[str, list[Pair]], right: str, seeds: int, folder: Path) -> None:
    """All seeds with a problem of the set ``right``."""
    first = gradient_first = halves = 0
    others = [name for name in pools if name != right]
    spent = []
    for seed in range(seeds):
        begun = time.process_time()
        sets, problem = drawn(pools, right, others[seed % len(others)], seed)
        five = {name: rows for name, rows in sets.items() if name != "half"}
        by_gradients = ranking(folder, problem, five, seed, finalists=0)
        after_race = ranking(folder, problem, sets, seed)
        spent.append(time.process_time() - begun)
        gradient_first += by_gradients["order"][0] == right
        first += after_race["order"][0] == right
        halves += after_race["order"][:2] == [right, "half"]
        print(f"{right} problem, seed {seed}, half {others[seed % len(others)]}, {spent[-1]:.0f} s of CPU")
        print(f"  five, gradients: {by_gradients['scores']}")
        print(f"  six, gradients:  {after_race['scores']}")
        print(f"  six, raced:      {' > '.join(after_race['order'])}   {after_race['gains']}")
        print(f"  {after_race['verdict']}", flush=True)
    print(
        f"{right}: first by gradients among five {gradient_first}/{seeds}, first of six after the race"
        f" {first}/{seeds}, the half one second {halves}/{seeds}; {sum(spent) / max(seeds, 1):.0f} s a seed\n"
    )


def drawn(
    pools: dict[str, list[Pair]], right: str, other: str, seed: int
) -> tuple[dict[str, list[Pair]], list[Pair]]:
    """Six candidates, and a problem; no row, and no question of ``right``, stands in two of them."""
    order = {name: shuffled(distinct(rows), seed) for name, rows in pools.items()}
    sets = {name: rows[:SLICE] for name, rows in order.items()}
    half = SLICE // 2
    sets["half"] = order[right][SLICE : SLICE + half] + order[other][SLICE : SLICE + half]
    return sets, order[right][SLICE + half : SLICE + half + PROBLEM]


def distinct(rows: list[Pair]) -> list[Pair]:
    """The first row of each question."""
    return list({question: (question, answer) for question, answer in reversed(rows)}.values())[::-1]


def shuffled(rows: list, seed: int) -> list:
    return random.Random(seed).sample(rows, len(rows))


def ranking(
    folder: Path, problem: list[Pair], sets: dict[str, list[Pair]], seed: int, **changes: int
) -> dict:
    """Order, scores and gains by the names of the sets."""
    files = {name: written(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}
    found = recommend(
        written(folder / "problem.jsonl", problem),
        shuffled(list(files.values()), seed),  # so that the order of the files cannot help
        DetectiveSettings(**{**SETTINGS, "seed": seed, **changes}),
        states=folder / "states",
    )
    ranked = found["candidates"]
    by_score = sorted(ranked, key=lambda c: -c["gradient"]["score"])
    return {
        "order": [Path(c["name"]).stem for c in ranked],
        "by_name": {Path(c["name"]).stem: c["gradient"] for c in ranked},
        "scores": ", ".join(f"{Path(c['name']).stem} {c['gradient']['score']:+.3f}" for c in by_score),
        "gains": ", ".join(f"{c['race']['gain']['value']:+.3f}" for c in ranked if c["race"]),
        "verdict": found["verdict"]["word"],
    }


def written(path: Path, rows: list[Pair]) -> Path:
    path.write_text(
        "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows), encoding="utf-8"
    )
    return path


def controls(pools: dict[str, list[Pair]], folder: Path) -> None:
    """Sets dealt at random, and the right set with its answers in disorder."""
    sets, problem = drawn(pools, "medical", "chat", 0)
    names = [name for name in sets if name != "half"]
    dealt = shuffled([row for name in names for row in sets[name]], 0)
    mixed = {f"dealt{i}": dealt[i :: len(names)] for i in range(len(names))}
    found = ranking(folder, problem, mixed, 0, finalists=0)
    print(f"control, all rows dealt at random: {found['scores']}")
    print(f"  intervals: {intervals(found)}")
    words = random.Random(0)
    disorder = [(q, " ".join(words.sample(a.split(), len(a.split())))) for q, a in sets["medical"]]
    changed = {**{n: sets[n] for n in names}, "disordered": disorder}
    found = ranking(folder, problem, changed, 0, finalists=0)
    print(f"control, words of the right answers in random order: {found['scores']}")
    print(f"  intervals: {intervals(found)}")


def intervals(found: dict) -> str:
    return ", ".join(f"{name} [{g['low']:+.3f}, {g['high']:+.3f}]" for name, g in found["by_name"].items())


if __name__ == "__main__":
    main()
