"""How fast ``tunewright.models.generate`` is, against transformers' own ``model.generate``.

    python benchmarks/generation.py                       # 48 prompts, 40 new tokens, CPU in bfloat16
    python benchmarks/generation.py --device cuda --repeats 5
    python benchmarks/generation.py --attention eager sdpa tunewright --batch-sizes 16 32 48

Both sides continue the same 48 prompts (60 to 150 tokens, with and without a beginning of 300 tokens that
all share) greedily by exactly ``--new-tokens`` tokens. The peer gets left-padded batches in the given order,
16 at a time. Sides alternate and the fastest of ``--repeats`` counts, because other programs may use the
machine. Speed is generated tokens per second, prompt passes included. ``--cpu-time`` counts the processor
seconds of one thread instead of the clock: the fair measure where other programs hold the cores.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import torch

import tunewright.models.attention  # noqa: F401  registers its attention under "tunewright"
from tunewright.models.generate import Sampling, generate
from tunewright.models.load import load

PREFIX = 300


def prompts(shared: bool, vocabulary: int, count: int = 48) -> list[list[int]]:
    """Random ids: the speed does not depend on what the text says."""
    rng = random.Random(0)
    prefix = [rng.randrange(20, vocabulary) for _ in range(PREFIX if shared else 0)]
    return [
        prefix + [rng.randrange(20, vocabulary) for _ in range(rng.randint(60, 150))] for _ in range(count)
    ]


@torch.inference_mode()
def peer(model: torch.nn.Module, rows: list[list[int]], new: int, batch_size: int = 16) -> int:
    """``model.generate`` in padded batches; returns the number of tokens generated."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=model.device)
        model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=new, min_new_tokens=new, pad_token_id=0
        )
    return len(rows) * new


def ours(model: torch.nn.Module, rows: list[list[int]], new: int, batch_size: int) -> int:
    """``generate`` without stop ids; returns the number of tokens generated."""
    outputs = generate(model, rows, Sampling(max_new_tokens=new), batch_size=batch_size)
    return sum(len(output.ids) for output in outputs)


def speed(run: Callable[[], int], clock: Callable[[], float]) -> float:
    """Tokens per second of one run."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    tokens = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return tokens / (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 48])
    parser.add_argument("--attention", nargs="+", default=["sdpa"])
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.cpu_time:
        torch.set_num_threads(1)
    model = load(options.model, device=options.device, weights=torch.bfloat16).model
    for shared in (False, True):
        rows = prompts(shared, model.config.vocab_size)
        runs: dict[str, Callable[[], int]] = {}
        for attention in options.attention:
            for size in options.batch_sizes:
                runs[f"ours {attention} batch {size}"] = lambda a=attention, s=size: (
                    model.set_attn_implementation(a) or ours(model, rows, options.new_tokens, s)  # noqa: B023
                )
        runs["transformers sdpa batch 16"] = lambda: (
            model.set_attn_implementation("sdpa") or peer(model, rows, options.new_tokens)  # noqa: B023
        )
        best = dict.fromkeys(runs, 0.0)
        for _ in range(options.repeats):
            for name, run in runs.items():
                best[name] = max(best[name], speed(run, clock))
        base = best["transformers sdpa batch 16"]
        print(f"48 prompts of 60-150 tokens{f' behind {PREFIX} shared ones' if shared else ''}:")
        for name, value in best.items():
            print(f"  {name:28} {value:8.1f} tok/s   x{value / base:.2f}")


if __name__ == "__main__":
    main()
