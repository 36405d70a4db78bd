"""Direct preference optimisation against TRL: the same pairs in the same updates, speed and peak memory.

    python benchmarks/race_dpo.py
    python benchmarks/race_dpo.py --settings      # every setting of TRL once, to find its fastest

Pairs of at most 768 tokens a side, LoRA of rank 16 on the embedded model in bfloat16, 8 pairs an update, the
untouched model as the reference; the time that its log-probabilities take counts on both sides.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
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
    need_data,
    order,
    timed,
)

from tunewright.adapt.base import adapter_of
from tunewright.core.records import Preference, Tokens
from tunewright.data.load import load as read_rows
from tunewright.data.render import Renderer
from tunewright.engine.loop import Job
from tunewright.models.embedded import embedded_path
from tunewright.models.forward import ModelForward
from tunewright.models.load import load, load_tokenizer
from tunewright.models.precision import use_all_cores
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of
from tunewright.run.reference import answer_sums, before_training

LONGEST, BATCH, RANK, RATE = 768, 8, 16, 1e-4
FASTER, SMALLER = (6.0, 9.0), (0.25, 0.25)  # must and aim: times TRL's speed, share of its memory
SETTINGS = {
    "padded 8": ["--device-batch", "8"],
    "padded 8, weights in bfloat16": ["--device-batch", "8", "--weights", "bfloat16"],
    "one by one": ["--device-batch", "1"],
    "one by one, weights in bfloat16": ["--device-batch", "1", "--weights", "bfloat16"],
    "one by one, bfloat16, reference before": [
        "--device-batch",
        "1",
        "--weights",
        "bfloat16",
        "--precompute",
    ],
    "padding-free 8, weights in bfloat16": ["--device-batch", "8", "--padding-free", "--weights", "bfloat16"],
}
PEERS_RUN = {"TRL, 8 together": "padded 8", "TRL, fastest": "one by one, weights in bfloat16"}


def rendered(count: int) -> list[Tokens]:
    """Pairs whose two sides have at most ``LONGEST`` tokens each, as they stand in the file."""
    tokenizer, _ = load_tokenizer(MODEL)
    renderer, objective = Renderer(tokenizer), make_objective("dpo", options_of("dpo", {}))
    found: list[Tokens] = []
    for example in read_rows([DATA / "pref_demo" / "dpo_en_demo.json"]).examples:
        assert isinstance(example, Preference)
        for tokens in objective.encode(example, renderer):
            if max(len(tokens.ids) + len(branch.ids) for branch in tokens.branches) <= LONGEST:
                found.append(tokens)
    return found[:count]


def ours(rows: list[Tokens], micro_tokens: int) -> Result:
    """Our side: the reference first, then the loop."""
    use_all_cores()
    adapter = adapter_of("lora", rank=RANK)
    loaded = load(MODEL, dtype="bfloat16")
    torch.manual_seed(0)
    model = adapter.attach(loaded.model)
    forward = ModelForward(model, compute=loaded.precision.dtype)
    begun = time.perf_counter()
    reference = before_training(adapter, model, forward)
    sums = answer_sums(rows, reference, forward.device, micro_tokens)
    marked = [
        row.with_branches_marked([{"reference": value} for value in both])
        for row, both in zip(rows, sums, strict=True)
    ]
    before = time.perf_counter() - begun
    job = Job(model, forward, make_objective("dpo", options_of("dpo", {})), marked, adapter=adapter)
    lanes = torch.get_num_threads()  # as train.lanes=auto has it
    return {**timed(job, BATCH, RATE, micro_tokens, lambda row: 1, lanes), "before": before}


def written(rows: list[Tokens], path: Path) -> Path:
    """The rendered pairs for the peer."""
    lines = [
        json.dumps(
            {"prompt_ids": row.ids, "chosen_ids": row.branches[0].ids, "rejected_ids": row.branches[1].ids}
        )
        for row in rows
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def peer(rows: Path, settings: list[str]) -> list[str]:
    """The command of TRL's side."""
    call = [str(PEER_PYTHON), str(PEERS / "trl_dpo.py"), str(rows), "--model", str(embedded_path(MODEL))]
    return [*call, "--rate", str(RATE), "--batch", str(BATCH), "--out", str(rows.parent / "trl"), *settings]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", action="store_true")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micro-tokens", type=int, default=3072)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(rendered(options.rows), options.micro_tokens)))
        return
    need_data()
    rows = rendered(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = written([rows[row] for row in order(len(rows), BATCH)], Path(folder) / "rows.jsonl")
        if options.settings:
            every_setting(SETTINGS, lambda given: peer(path, given))
            return
        call = [sys.executable, __file__, "--one", "--rows", str(options.rows)]
        call += ["--micro-tokens", str(options.micro_tokens)]
        commands = {name: peer(path, SETTINGS[setting]) for name, setting in PEERS_RUN.items()}
        report(by_turns({"Tunewright": call, **commands}, options.repeats))


def report(sides: dict[str, Speed]) -> None:
    """The losses of all sides, their speed and memory."""
    for losses in zip(*(side.runs[-1]["losses"] for side in sides.values()), strict=True):
        print("  losses of an update:" + "".join(f" {loss:8.4f}" for loss in losses))
    compare(sides, "pairs", FASTER, SMALLER)


if __name__ == "__main__":
    main()
