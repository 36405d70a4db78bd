"""Few-shot evaluation against transformers: 200 questions behind the same 4 examples, 32 new tokens each.

    python benchmarks/race_fewshot.py [--questions 200] [--repeats 3]

MedQuAD questions with short answers as examples, the embedded model in bfloat16. The peer is transformers'
``generate`` in left-padded batches of 16 with torch's fused attention; both continue greedily by exactly 32
tokens, in one process by turns. Prints the medians, and how many of the answers are the same to the last
token: the order of sums differs, so a few fall over where two tokens are nearly as likely.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

import torch
from race import DATA, MODEL, need_data, verdict

import tunewright.models.attention  # noqa: F401  registers its attention under "tunewright"
from tunewright.core.records import Message
from tunewright.data.render import Renderer
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores

SHOTS, NEW, BATCH = 4, 32, 16
LONGEST = 400  # characters of an example's answer
FASTER = (4.0, 8.0)  # must and aim: times the peer's speed


def prompts(renderer: Renderer, count: int) -> list[list[int]]:
    """Every question behind the same examples."""
    lines = (DATA / "domainqa_medquad" / "medquad_dev.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    random.Random(0).shuffle(rows)
    shots = [row for row in rows if len(row["answer"]) <= LONGEST][:SHOTS]
    before = [
        Message(role, text)
        for row in shots
        for role, text in (("user", row["question"]), ("assistant", row["answer"]))
    ]
    asked = [row for row in rows if row not in shots][:count]
    return [renderer.prompt([*before, Message("user", row["question"])]) for row in asked]


def ours(model: torch.nn.Module, rows: list[list[int]]) -> list[list[int]]:
    """Answers as an evaluation makes them."""
    return [found.ids for found in generate(model, rows, Sampling(max_new_tokens=NEW))]


@torch.inference_mode()
def peer(model: torch.nn.Module, rows: list[list[int]]) -> list[list[int]]:
    """Answers of ``model.generate``."""
    found = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        made = model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0
        )
        found += made[:, width:].tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    need_data()
    use_all_cores()
    loaded = load(MODEL, dtype="bfloat16")
    rows = prompts(Renderer(loaded.tokenizer), options.questions)
    sides = {"Tunewright": ours, "transformers": peer}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    answers = {}
    for _ in range(options.repeats):
        for name, side in sides.items():
            loaded.model.set_attn_implementation("sdpa")
            begun = time.perf_counter()
            answers[name] = side(loaded.model, rows)
            seconds[name].append(time.perf_counter() - begun)
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:12} {median:7.1f} s {len(rows) * NEW / median:7.1f} tokens/s")
    same = sum(a == b for a, b in zip(*answers.values(), strict=True))
    lengths = sorted(map(len, rows))
    print(f"{len(rows)} prompts of {lengths[0]} to {lengths[-1]} tokens; {same} answers are the same")
    times = statistics.median(seconds["transformers"]) / statistics.median(seconds["Tunewright"])
    print(verdict("times transformers' speed", times, *FASTER))


if __name__ == "__main__":
    main()
