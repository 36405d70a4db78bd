"""What a base in few bits costs: its answers against those of the weights in the file, and merging.

    python benchmarks/quantised.py [--model smollm2-135m-instruct] [--chats 50] [--epochs 2]

The first table compares every way of quantising on some chats: perplexity of the answers, how far the
predictions are from those in float32 (mean KL divergence in nats, and how often both find the same token
likeliest), and the bytes of each weight of the linear layers. The second trains a QLoRA adapter on the other
chats and merges it: into the dequantised base, as Tunewright does, and into the weights in the file.

Data: ``../shared/data`` beside the repository, or ``$TUNEWRIGHT_DATA``.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.adapt.base import adapter_of
from tunewright.adapt.quant import merge_dequantised
from tunewright.core.records import Tokens
from tunewright.data.load import load as load_rows
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.models.causal import number_of_parameters
from tunewright.models.changes import NONE, Changes, Quantise
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded, load
from tunewright.models.precision import use_all_cores
from tunewright.models.quantised import bits_of, contents
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

DATA = Path(os.environ.get("TUNEWRIGHT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
WAYS: dict[str, tuple[str, Quantise | None]] = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "8 bits": ("float32", Quantise(bits=8)),
    "nf4, single": ("float32", Quantise(double=False)),
    "nf4, double": ("float32", Quantise()),
    "fp4, double": ("float32", Quantise(format="fp4")),
}


def read(name: str, how: Quantise | None = None, dtype: str = "float32") -> Loaded:
    return load(name, device="cpu", dtype=dtype, changes=Changes(quantise=how) if how else NONE)


@torch.no_grad()
def predictions(model: Any, rows: Sequence[Tokens], dtype: torch.dtype = torch.float32) -> Tensor:
    """Log-probabilities of every token at each place of an answer, (N, V) float32."""
    forward = ModelForward(model.eval(), compute=dtype)
    found = []
    for row in rows:
        batch = build_batch([row])
        states = forward.hidden(batch)[batch.targets.source]
        found.append(forward.head.logits(states).log_softmax(-1))
    return torch.cat(found)


def line(name: str, found: Tensor, against: Tensor, rows: Sequence[Tokens], size: str) -> str:
    ids = torch.tensor([i for row in rows for i, w in zip(row.ids, row.weights, strict=True) if w])
    perplexity = math.exp(-found.gather(1, ids[:, None]).mean().item())
    far = sum((a.exp() * (a - b)).sum().item() for a, b in zip(against, found, strict=True)) / len(ids)
    same = (found.argmax(-1) == against.argmax(-1)).float().mean().item()
    return f"  {name:24} {perplexity:10.4f} {max(far, 0.0):12.6f} {100 * same:8.1f} %{size:>10}"


def bytes_per_weight(model: Any) -> str:
    """Of the layers that are or would be quantised."""
    layers = [m for n, m in model.named_modules() if n.endswith("_proj") or bits_of(m)]
    stored = sum(t.nbytes for m in layers for t in contents(m.weight))
    return f"{stored / sum(number_of_parameters(m) for m in layers):.4f}"


def trained(name: str, rows: Sequence[Tokens], epochs: int, folder: Path) -> Any:
    """A QLoRA adapter over the base in NF4, attached."""
    adapter = adapter_of("qlora")
    torch.manual_seed(0)
    model = adapter.attach(read(name, adapter.changes.quantise).model)
    how = FitSettings(epochs=epochs, learning_rate=1e-3, tokens_per_step=1024, micro_tokens=1024)
    objective = SupervisedFineTuning("sft", SftOptions())
    job = Job(model, ModelForward(model), objective, rows, adapter=adapter)
    Fit(job, how, folder / "checkpoints", lambda event: None).run()
    adapter.save(model, folder / "adapter")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--chats", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    source = DATA / "sft_chat_tinker" / "conversations.jsonl"
    if not source.is_file():
        sys.exit(f"no data in {DATA}; set TUNEWRIGHT_DATA")
    use_all_cores()
    renderer = Renderer(read(options.model).tokenizer)
    rows = [tokens for found in renderer.conversations(load_rows([source]).examples) for tokens in found]
    held, others = rows[: options.chats], rows[options.chats :]
    places = sum(w > 0 for row in held for w in row.weights)
    head = f"  {'':24} {'perplexity':>10} {'KL, nats':>12} {'same token':>10}"
    print(f"{options.model}: answers of {len(held)} chats, {places} tokens, against float32")
    print(f"{head}{'bytes':>10}")
    exact: Tensor | None = None
    for name, (dtype, how) in WAYS.items():
        loaded = read(options.model, how, dtype)
        found = predictions(loaded.model, held, loaded.precision.dtype)
        exact = found if exact is None else exact
        print(line(name, found, exact, held, bytes_per_weight(loaded.model)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = trained(options.model, others, options.epochs, Path(folder))
        before = predictions(model, held)
        print(f"trained over NF4 on the other {len(others)} chats, against the trained model\n{head}")
        print(line("trained, not merged", before, before, held, ""), flush=True)
        print(line("into the dequantised", predictions(merge_dequantised(model), held), before, held, ""))
        plain: Any = read(
            str(Path(folder) / "adapter")
        ).model  # without base.json, so over the file's weights
        print(line("into the file's weights", predictions(plain.merge_and_unload(), held), before, held, ""))


if __name__ == "__main__":
    main()
