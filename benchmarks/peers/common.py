"""What the peers' sides share: the model, what each update took, and a quiet standard output."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback


def load(folder: str, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer; further ``options`` are for the model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    return model, AutoTokenizer.from_pretrained(folder)


def lora() -> LoraConfig:
    """The adapter of all races."""
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of JSONL."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def common_settings(
    out: Path, batch: int, device_batch: int, rate: float, device: str = "cpu"
) -> dict[str, Any]:
    """What every trainer is told."""
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": device_batch,
        "gradient_accumulation_steps": batch // device_batch,
        "num_train_epochs": 1,
        "learning_rate": rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "bf16": True,
        "use_cpu": device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


class Clock(TrainerCallback):
    """When each optimizer step ended, and what was logged for it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def train(trainer: Any, clock: Clock, sizes: list[int], batch: int) -> None:
    """Train, and print the result; ``sizes`` is what each row counts, and may be filled while it trains."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with quietly():
        trainer.train()
    counts = [sum(sizes[i : i + batch]) for i in range(0, len(sizes), batch)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if next(trainer.model.parameters()).is_cuda:
        peak = torch.cuda.max_memory_allocated() / 2**20
    json.dump({"counts": counts, "ends": clock.ends, "losses": clock.losses, "peak_mb": peak}, sys.stdout)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What the libraries print goes to standard error: standard output is for the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
