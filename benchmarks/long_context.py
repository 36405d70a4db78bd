"""Perplexity at once, twice and four times the trained length, before and after LongLoRA.

    python benchmarks/long_context.py                     # under 8 minutes on 1 core
    python benchmarks/long_context.py --steps 2 --pretrain 2    # a rehearsal; its numbers mean nothing

A small Llama is trained from nothing on texts of 128 tokens, so that 256 and 512 tokens are really beyond
what it knows. Then LongLoRA trains it on texts of 512 tokens, once for each way of stretching positions, with
shifted groups of a quarter of the text; once more with dense attention, once without norms and embeddings.
``lora`` at 128 tokens sees as many tokens and shows what more training alone is worth.

The texts are medical questions and answers, one document for each disease, from ../shared/data. Documents
that are measured were never trained on; all systems read the same 512 tokens of each, in pieces of 128, 256
or 512. Intervals (95 %) are over documents. At last, time and memory of one training step with shifted groups
and with dense attention, each in a process of its own, and the share of scores that the groups compute.
Seconds are those of the processor, so that they mean the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from tunewright.adapt.base import adapter_of
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch, packed
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.compare import paired
from tunewright.evaluate.metrics import METRICS
from tunewright.models.attention import packed_attention
from tunewright.models.forward import ModelForward
from tunewright.models.rope import stretched
from tunewright.models.shifted import group_of, shift, shifted_attention
from tunewright.objectives.base import make_objective, per_segment
from tunewright.objectives.options.table import options_of

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "domainqa_medquad" / "medquad_dev.jsonl"
TRAINED, FACTOR = 128, 4
LONG = TRAINED * FACTOR
VOCABULARY, DOCUMENTS, STEP = 2048, 64, 1024  # tokens known, documents measured, tokens of an update
SHARE = 0.25  # of a text, the group of shifted attention
PERPLEXITY = METRICS["perplexity"]
CASES: dict[str, dict[str, Any]] = {
    "none": {"rope": "none"},
    "linear": {"rope": "linear"},
    "dynamic": {"rope": "dynamic"},
    "yarn": {"rope": "yarn"},
    "linear, dense attention": {"rope": "linear", "group": 0.0},
    "linear, low-rank updates only": {"rope": "linear", "also_train": "nothing"},
}


@dataclass(frozen=True)
class Texts:
    """Token ids of whole documents, on two sides of a split."""

    train: list[list[int]]
    held_out: list[list[int]]


def read_texts() -> Texts:
    """One document for each disease; every third is held out. The tokenizer knows the others only."""
    documents: dict[str, str] = {}
    for line in DATA.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = f"{row['question']} {' '.join(row['answer'].split())} "
        documents[row["focus"].lower()] = documents.get(row["focus"].lower(), "") + text
    texts = [documents[name] for name in sorted(documents)]
    known = [text for i, text in enumerate(texts) if i % 3]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(known, trainer)
    held_out = [ids for text in texts[::3] if len(ids := tokenizer.encode(text).ids) >= LONG]
    return Texts([tokenizer.encode(text).ids for text in known], held_out[:DOCUMENTS])


def pieces(documents: list[list[int]], length: int) -> list[Tokens]:
    """Whole pieces of ``length`` tokens; every token but the first of each is learnt."""
    weights = [0.0] + [1.0] * (length - 1)
    return [
        Tokens(ids[at : at + length], weights)
        for ids in documents
        for at in range(0, len(ids) - length + 1, length)
    ]


def small_llama() -> Any:
    """A million weights, a context of 128."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=TRAINED,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config)


def fit(model: nn.Module, adapter: Any, rows: list[Tokens], steps: int, rate: float) -> float:
    """Train on ``rows`` for so many steps; returns seconds."""
    how = FitSettings(
        epochs=100, max_steps=steps, learning_rate=rate, tokens_per_step=STEP, micro_tokens=STEP, warmup=0.1
    )
    objective = make_objective("text", options_of("text", {}))
    job = Job(model, ModelForward(model), objective, rows, adapter=adapter)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        Fit(job, how, Path(folder), lambda event: None).run()
    return time.process_time() - begun


def measured(model: nn.Module, documents: list[list[int]]) -> dict[int, np.ndarray]:
    """Length of the pieces -> negative log-likelihood and tokens of each document, (n, 2)."""
    forward, found = ModelForward(model.eval()), {}
    for length in (TRAINED, 2 * TRAINED, LONG):
        sums: list[float] = []
        for batch in packed(pieces([ids[:LONG] for ids in documents], length), 4096):
            with torch.no_grad():
                sums += zip(batch.rows, per_segment(forward.logprobs(batch), batch).tolist(), strict=True)
        by_piece = torch.tensor([value for _, value in sorted(sums)])
        nll = -by_piece.view(len(documents), -1).sum(1)
        count = (length - 1) * (LONG // length)
        found[length] = PERPLEXITY.rows(nll.tolist(), [count] * len(documents))
    return found


def stretched_copy(base: Any, adapter: Any) -> Any:
    """The same weights, positions as the adapter wants them."""
    config = type(base.config).from_dict(base.config.to_dict())
    if adapter.changes.rope:
        stretched(config, adapter.changes.rope)
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(base.state_dict())
    return model


def show(name: str, found: dict[int, np.ndarray], note: str = "") -> None:
    cells = []
    for rows in found.values():
        e = interval(PERPLEXITY, rows)
        cells.append(f"{e.value:8.2f} [{e.low:.2f}, {e.high:.2f}]".ljust(26))
    print(f"{name:40}{''.join(cells)}{note}", flush=True)


def perplexities(options: argparse.Namespace) -> None:
    """Train everything, print the first table."""
    texts = read_texts()
    short, long = pieces(texts.train, TRAINED), pieces(texts.train, LONG)
    base, full = small_llama(), adapter_of("full")
    seconds = fit(full.attach(base), full, short, options.pretrain, 3e-3)
    tokens = STEP * options.pretrain
    print(
        f"{sum(p.numel() for p in base.parameters()):,} weights, trained on {tokens:,} tokens in pieces of"
        f" {TRAINED} in {seconds:.0f} s; {len(texts.train)} documents, {sum(map(len, texts.train)):,} tokens"
    )
    print(
        f"n = {len(texts.held_out)} documents held out, {LONG} tokens of each;"
        f" {options.steps} steps of {STEP:,}\n"
    )
    print(
        f"{'perplexity':40}"
        + "".join(f"   {n // TRAINED}x ({n})".ljust(26) for n in (TRAINED, 2 * TRAINED, LONG))
    )
    untouched = measured(base, texts.held_out)
    show("untouched", untouched)
    after: dict[str, dict[int, np.ndarray]] = {}
    cases = {"lora at 128, no stretch": None, **CASES}
    for name, case in cases.items():
        settings = {"rank": 16, **(case or {}), **({} if case is None else {"factor": FACTOR})}
        adapter = adapter_of("lora" if case is None else "longlora", **settings)
        model = stretched_copy(base, adapter)
        if case and len(case) == 1 and case["rope"] != "none":
            show(f"{name}: stretched, not trained", measured(model, texts.held_out))
        torch.manual_seed(1)
        model = adapter.attach(model)
        seconds = fit(model, adapter, short if case is None else long, options.steps, options.rate)
        after[name] = measured(model, texts.held_out)
        show(f"{name}: trained", after[name], f"{seconds:.0f} s")
    print()
    for a, b in (
        ("linear, dense attention", "linear"),
        ("linear, low-rank updates only", "linear"),
        *(("none", name) for name in ("linear", "dynamic", "yarn")),
    ):
        d = paired(PERPLEXITY, after[a][LONG], after[b][LONG])
        print(f"at {LONG}: {b} - {a}: {d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}]")


def costs(options: argparse.Namespace) -> None:
    """Print the second table: one step of the embedded model's attention, and of the whole model."""
    print(
        f"\n{'one training step':27}{'scores':>9}{'seconds dense':>15}{'shifted':>9}"
        f"{'MB dense':>10}{'shifted':>9}"
    )
    for what in STEPS:
        for length in options.lengths:
            cells = [child(what, length, share) for share in (0.0, SHARE)]
            share = scores(length, group_of(length, SHARE)) / scores(length, length)
            (slow, much), (fast, little) = cells
            print(
                f"{what:10}{length:10,} tokens{share:9.0%}{slow:15.2f}{fast:9.2f}{much:10.0f}{little:9.0f}",
                flush=True,
            )


def scores(length: int, group: int) -> int:
    """Query-key pairs of two heads, one of them shifted, those after the query counted as well."""
    count = 0

    def counting(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
        return q

    q = torch.zeros(1, 2, length, 1)
    shifted_attention(q, q, q, group, counting)
    return count


def child(what: str, length: int, share: float) -> tuple[float, float]:
    """Seconds and peak memory in MB of one step, in a process of its own."""
    words = [sys.executable, __file__, "--child", what, str(length), str(share)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def attention_step(length: int, share: float) -> Callable[[], None]:
    """Forward and backward of attention alone: nine heads on three keys, as in the embedded model."""
    q, k, v = (torch.randn(1, h, length, 64, dtype=torch.bfloat16, requires_grad=True) for h in (9, 3, 3))
    segments = [(0, length, None)]
    return lambda: packed_attention(q, k, v, segments, 0.125, share=share).sum().backward()


def model_step(length: int, share: float) -> Callable[[], None]:
    """Forward and backward of six layers of the embedded model's width, with LoRA."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=length,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = adapter_of("lora", rank=16).attach(model).train()
    shift(model, share)
    forward = ModelForward(model, compute=torch.bfloat16)
    batch = build_batch([Tokens([i % VOCABULARY for i in range(length)], [0.0] + [1.0] * (length - 1))])
    return lambda: forward.logprobs(batch).sum().backward()


STEPS = {"attention": attention_step, "model": model_step}


def one_step(what: str, length: int, share: float) -> None:
    """Print seconds (the faster of two) and by how many MB resident memory rose at most (Linux)."""
    torch.manual_seed(0)
    step, seconds = STEPS[what](length, share), []
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark so far is forgotten
    before = resident("VmRSS")
    for _ in range(2):
        begun = time.process_time()
        step()
        seconds.append(time.process_time() - begun)
    print(min(seconds), resident("VmHWM") - before)


def resident(what: str) -> float:
    """A line of the system's account of this process, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrain", type=int, default=1400, help="steps on short pieces")
    parser.add_argument("--steps", type=int, default=100, help="steps of each adapter")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of each adapter")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        what, length, share = options.child
        one_step(what, int(length), float(share))
        return
    if not DATA.exists():
        raise SystemExit(f"skipped: the long texts are not there ({DATA})")
    perplexities(options)
    costs(options)


if __name__ == "__main__":
    main()
