"""Supervised fine-tuning against TRL: the same rows in the same updates, tokens a second and peak memory.

    python benchmarks/race_sft.py                 # LoRA of rank 16
    python benchmarks/race_sft.py --full          # all weights, kept in float32
    python benchmarks/race_sft.py --settings      # every setting of TRL once, to find its fastest

MedQuAD questions and answers of at most 512 tokens, 8 rows an update, the embedded model in bfloat16. TRL
runs twice: with the 8 rows computed together, and in the fastest of its settings that keeps documents apart,
as ``--settings`` found it. ``make bench-setup`` installs it. Prints the losses of all sides: the updates are
the same, so they must agree.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from picture import save
from race import (
    DATA,
    MODEL,
    PEER_PYTHON,
    PEERS,
    Result,
    Speed,
    by_turns,
    compare,
    every_setting,
    matmul_rate,
    need_data,
    order,
    timed,
)

from tunewright.adapt.base import adapter_of
from tunewright.core.records import Conversation, Message, Tokens
from tunewright.data.render import Renderer
from tunewright.engine.loop import Job
from tunewright.evaluate.charts import Series
from tunewright.models.embedded import embedded_path
from tunewright.models.forward import ModelForward
from tunewright.models.load import load, load_tokenizer
from tunewright.models.precision import use_all_cores
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of

LONGEST, BATCH, RANK = 512, 8, 16
RATES = {"lora": 1e-3, "full": 1e-4}
SETTINGS = {
    "padded 8": ["--device-batch", "8"],
    "padded 2": ["--device-batch", "2"],
    "one by one": ["--device-batch", "1"],
    "padding-free 8": ["--device-batch", "8", "--padding-free"],
    "padding-free 4": ["--device-batch", "4", "--padding-free"],
    "one by one, weights in bfloat16": ["--device-batch", "1", "--weights", "bfloat16"],
    "padded 8, weights in bfloat16": ["--device-batch", "8", "--weights", "bfloat16"],
    "padding-free 8, weights in bfloat16": ["--device-batch", "8", "--padding-free", "--weights", "bfloat16"],
    "padded 8, checkpointing": ["--device-batch", "8", "--checkpointing"],
}
TOGETHER = "padded 8"
FASTEST = {"lora": "one by one, weights in bfloat16", "full": "one by one"}
# What is asked: times TRL's speed, and share of its memory; must and aim.
ASKED = {"lora": ((4.0, 5.0), (0.25, 0.25)), "full": ((3.0, 4.0), (1 / 3, 1 / 3))}


def rendered(count: int) -> list[Tokens]:
    """Rows of at most ``LONGEST`` tokens, mixed: the file is sorted by subject."""
    tokenizer, _ = load_tokenizer(MODEL)
    renderer = Renderer(tokenizer)
    lines = (DATA / "domainqa_medquad" / "medquad_dev.jsonl").read_text("utf-8").splitlines()
    random.Random(0).shuffle(lines)
    found: list[Tokens] = []
    for line in lines:
        row = json.loads(line)
        turns = (Message("user", row["question"]), Message("assistant", row["answer"]))
        (tokens,) = renderer.conversation(Conversation(turns))
        if tokens.size <= LONGEST:
            found.append(tokens)
        if len(found) == count:
            break
    return found


def ours(rows: list[Tokens], method: str, micro_tokens: int) -> Result:
    """Our side."""
    use_all_cores()
    adapter = adapter_of(method, **({"rank": RANK} if method == "lora" else {}))
    loaded = load(MODEL, dtype="bfloat16", weights=adapter.weights)
    torch.manual_seed(0)
    model = adapter.attach(loaded.model)
    forward = ModelForward(model, compute=loaded.precision.dtype)
    objective = make_objective("sft", options_of("sft", {}))
    job = Job(model, forward, objective, rows, adapter=adapter)
    lanes = torch.get_num_threads() if method == "lora" else 1  # as train.lanes=auto has it
    return timed(job, BATCH, RATES[method], micro_tokens, lambda row: row.size, lanes)


def written(rows: list[Tokens], path: Path) -> Path:
    """The rendered rows for the peer."""
    lines = [json.dumps({"ids": row.ids, "weights": row.weights}) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def peer(rows: Path, method: str, settings: list[str]) -> list[str]:
    """The command of TRL's side."""
    call = [str(PEER_PYTHON), str(PEERS / "trl_sft.py"), str(rows), "--model", str(embedded_path(MODEL))]
    call += ["--rate", str(RATES[method]), "--batch", str(BATCH), "--out", str(rows.parent / "trl")]
    return [*call, *(["--full"] if method == "full" else []), *settings]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--settings", action="store_true")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micro-tokens", type=int, default=2048)
    parser.add_argument("--picture", type=Path, help="draw the losses of all sides into this file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    method = "full" if options.full else "lora"
    if options.one:
        print(json.dumps(ours(rendered(options.rows), method, options.micro_tokens)))
        return
    need_data()
    with tempfile.TemporaryDirectory() as folder:
        race(method, options, Path(folder))


def race(method: str, options: argparse.Namespace, folder: Path) -> None:
    rows = rendered(options.rows)
    path = written([rows[row] for row in order(len(rows), BATCH)], folder / "rows.jsonl")
    if options.settings:
        every_setting(SETTINGS, lambda given: peer(path, method, given))
        return
    call = [sys.executable, __file__, "--one", "--rows", str(options.rows)]
    call += ["--micro-tokens", str(options.micro_tokens), *(["--full"] if method == "full" else [])]
    peers = {"TRL, 8 together": TOGETHER, "TRL, fastest": FASTEST[method]}
    commands = {name: peer(path, method, SETTINGS[setting]) for name, setting in peers.items()}
    sides = by_turns({"Tunewright": call, **commands}, options.repeats)
    report(method, sides, rows)
    if options.picture:
        curves = {name: side.runs[-1]["losses"] for name, side in sides.items()}
        lines = [
            Series(
                name, [(float(i), loss) for i, loss in enumerate(losses, start=1)], "plain" if i else "strong"
            )
            for i, (name, losses) in enumerate(curves.items())
        ]
        save(options.picture, lines, "update", "training loss")


def report(method: str, sides: dict[str, Speed], rows: list[Tokens]) -> None:
    """Both sides, the ratios, the share of the machine's rate, and how far the losses are apart."""
    mine = sides["Tunewright"]
    rate = matmul_rate(torch.bfloat16)
    share = mine.per_second * flops(method, rows) / rate / 1e9
    print(f"products of this machine: {rate:.0f} GFLOP/s in bfloat16; Tunewright uses {share:.0%} of them")
    for losses in zip(*(side.runs[-1]["losses"] for side in sides.values()), strict=True):
        print("  losses of an update:" + "".join(f" {loss:8.4f}" for loss in losses))
    compare(sides, "tokens", *ASKED[method])


def flops(method: str, rows: list[Tokens]) -> float:
    """Operations that a trained token needs at least: two for every weight forward, two for the gradient of
    the input, two for that of a weight that trains; the head for tokens with a weight; attention."""
    model: Any = load(MODEL, dtype="bfloat16").model
    layers, config = model.model.layers, model.config
    linear = sum(p.numel() for p in layers.parameters() if p.dim() == 2)
    sides = sum(sum(p.shape) for p in layers.parameters() if p.dim() == 2)
    head = config.vocab_size * config.hidden_size
    tokens, learnt = sum(row.size for row in rows), sum(sum(w > 0 for w in row.weights) for row in rows)
    pairs = sum(row.size**2 / 2 for row in rows) * config.num_hidden_layers * config.hidden_size
    each = 6 * linear if method == "full" else 4 * linear + 6 * RANK * sides
    of_head = (6 if method == "full" else 4) * head
    return each + of_head * learnt / tokens + 12 * pairs / tokens


if __name__ == "__main__":
    main()
