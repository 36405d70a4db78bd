"""What the fused LoRA step saves against plain PEFT, in time and in memory.

    python benchmarks/lora_layers.py                       # SmolLM2-135M, rank 16, 1024 tokens
    python benchmarks/lora_layers.py --tokens 2048 --bits 4
    python benchmarks/lora_layers.py --method dora
    python benchmarks/lora_layers.py --device cuda --tokens 8192

Both sides are the same model: ``unfuse`` and ``fuse`` switch between them. They take turns and the median of
``--repeats`` counts, of ten times as many for the layers. ``--cpu-time`` counts the processor seconds of one
thread instead of the clock: the fair measure where other programs hold the cores.

Measured are the linear layers of ``--layers`` decoder layers by themselves, forward and backward, beside the
same layers without an adapter; then a whole training step over packed random tokens. ``kept`` is what forward
leaves for backward, weights aside; the peak is that of a process that takes two whole steps and nothing else.
Last, how far the gradient is from that of the same weights in float32.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.adapt.base import adapter_of, trainable
from tunewright.adapt.fused import fuse, unfuse
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.memory import peak_mb
from tunewright.models.changes import Changes, Quantise
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded, load
from tunewright.models.precision import use_all_cores

SIDES: dict[str, Callable[[nn.Module], object]] = {"PEFT": unfuse, "fused": fuse}
DOCUMENT = 256  # tokens of each document in the packed batch
Step = Callable[[], None]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    model: str
    device: str
    dtype: str
    method: str
    bits: int
    rank: int
    tokens: int

    def load(self) -> Loaded:
        """The base model."""
        changes = {4: Changes(Quantise(4)), 8: Changes(Quantise(8)), 16: Changes()}[self.bits]
        return load(self.model, device=self.device, dtype=self.dtype, changes=changes)

    def attach(self, base: nn.Module) -> nn.Module:
        """The model with an adapter that does something, the same each time."""
        torch.manual_seed(0)
        model = adapter_of(self.method, rank=self.rank).attach(base).train()
        for name, parameter in trainable(model).items():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
        return model


def linear_layers(model: Any, count: int) -> list[Any]:
    """The LoRA layers of the first ``count`` decoder layers, in the order in which they are called."""
    layers = model.get_base_model().base_model.layers[:count]
    return [m for layer in layers for m in layer.modules() if hasattr(m, "lora_A")]


def layers_step(layers: list[Any], tokens: int, dtype: torch.dtype, bare: bool = False) -> Step:
    """Forward and backward of ``layers``; neighbours of as many inputs share one. ``bare``: no adapter."""
    device = next(layers[0].parameters()).device
    work: list[tuple[Tensor, list[nn.Module], list[Tensor]]] = []
    for layer in layers:
        if not work or work[-1][0].shape[-1] != layer.in_features:
            x = torch.randn(1, tokens, layer.in_features, device=device, dtype=dtype)
            work.append((x.requires_grad_(), [], []))
        work[-1][1].append(layer.get_base_layer() if bare else layer)
        work[-1][2].append(torch.randn(1, tokens, layer.out_features, device=device, dtype=dtype))

    def step() -> None:
        for x, together, grads in work:
            x.grad = None
            torch.autograd.backward([layer(x) for layer in together], grads)

    return step


def whole_step(model: Any, compute: torch.dtype, tokens: int, seed: int = 0) -> Step:
    """A training step of the packed path: forward, backward and AdamW, at rate zero."""
    rng, vocabulary = random.Random(seed), model.config.vocab_size
    rows = [
        Tokens([rng.randrange(20, vocabulary) for _ in range(DOCUMENT)], [0.0] + [1.0] * (DOCUMENT - 1))
        for _ in range(max(1, tokens // DOCUMENT))
    ]
    forward = ModelForward(model, compute=compute)
    batch = build_batch(rows, device=forward.device)
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.0, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (-forward.logprobs(batch).mean()).backward()
        optimizer.step()

    return step


def medians(model: nn.Module, steps: dict[str, Step], repeats: int, clock: Clock) -> dict[str, float]:
    """Milliseconds of each step by the name of its side; they take turns, the first turn does not count."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            SIDES.get(name, unfuse)(model)
            _wait()
            start = clock()
            step()
            _wait()
            if turn:
                found[name].append((clock() - start) * 1e3)
    return {name: statistics.median(values) for name, values in found.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def kept(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Collects what is saved for the backward pass, weights aside, by its place in memory."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            found[place] = tensor  # held, or another would come to lie in its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def kept_mb(model: nn.Module, step: Step) -> dict[str, float]:
    """MB of it on either side."""
    sizes = {}
    for side, switch in SIDES.items():
        switch(model)
        with kept(model) as found:
            step()
        sizes[side] = sum(tensor.untyped_storage().nbytes() for tensor in found.values()) / 2**20
    return sizes


def peak_of(side: str, setup: Setup) -> float:
    """Highest memory of this process after two whole steps, in MB."""
    loaded = setup.load()
    model = setup.attach(loaded.model)
    SIDES[side](model)
    step = whole_step(model, loaded.precision.dtype, setup.tokens)
    step()
    step()
    return peak_mb(loaded.precision.device)


def gradient(model: nn.Module, side: str, dtype: torch.dtype, seed: int) -> Tensor:
    """The adapter's gradient over two documents with the base in ``dtype``."""
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    SIDES[side](model)
    whole_step(model, dtype, 2 * DOCUMENT, seed)()
    return torch.cat([p.grad.flatten() for p in trainable(model).values() if p.grad is not None])


def error(model: nn.Module, dtype: torch.dtype, batches: int = 3) -> dict[str, float]:
    """Distance of the gradient from that in float32 relative to its length, the mean over ``batches``."""
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for seed in range(batches):
        truth = gradient(model, "PEFT", torch.float32, seed)
        for side in SIDES:
            apart = gradient(model, side, dtype, seed) - truth
            found[side].append(float(apart.norm() / truth.norm()))
    return {side: statistics.mean(values) for side, values in found.items()}


def report(what: str, times: dict[str, float], memory: dict[str, dict[str, float]]) -> None:
    """One line a side, and the ratios."""
    print(f"{what}:")
    for name, value in times.items():
        sizes = "".join(f"   {kind} {of[name]:8.1f} MB" for kind, of in memory.items() if name in of)
        print(f"  {name:12} {value:8.1f} ms{sizes}")
    less = ", ".join(f"{kind} memory x{of['fused'] / of['PEFT']:.2f}" for kind, of in memory.items())
    print(f"  fused against PEFT: x{times['PEFT'] / times['fused']:.2f} as fast, {less}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--method", default="lora", choices=("lora", "rslora", "dora"))
    parser.add_argument("--bits", type=int, default=16, choices=(4, 8, 16), help="of the base's weights")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.cpu_time:
        torch.set_num_threads(1)
    else:
        use_all_cores()
    setup = Setup(
        options.model,
        options.device,
        options.dtype,
        options.method,
        options.bits,
        options.rank,
        options.tokens,
    )
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as alone:
        peak = {side: alone.apply(peak_of, (side, setup)) for side in SIDES}  # while this process is small
    loaded = setup.load()
    model, dtype = setup.attach(loaded.model), loaded.precision.dtype
    print(f"{loaded.ref.name}, {loaded.precision.reason}, {options.bits}-bit base,")
    threads = torch.get_num_threads()
    print(f"{options.method} of rank {options.rank}, {options.tokens} tokens, {threads} thread(s)")

    make = partial(layers_step, linear_layers(model, options.layers), options.tokens, dtype)
    layers, bare = make(), make(bare=True)
    times = medians(model, {"no adapter": bare, **dict.fromkeys(SIDES, layers)}, 10 * options.repeats, clock)
    report(f"linear layers of {options.layers} decoder layers", times, {"kept": kept_mb(model, layers)})

    step = whole_step(model, dtype, options.tokens)
    times = medians(model, dict.fromkeys(SIDES, step), options.repeats, clock)
    report("whole training step", times, {"kept": kept_mb(model, step), "peak": peak})

    if options.bits == 16 and dtype != torch.float32:
        print("distance of the adapter's gradient from that in float32, relative to its length:")
        print("  " + ", ".join(f"{side} {value:.1%}" for side, value in error(model, dtype).items()))


if __name__ == "__main__":
    main()
