"""TRL's side of ``benchmarks/race_dpo.py``; runs in ``.venv-bench`` and prints one JSON document."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common import Clock, common_settings, load, lora, quietly, read, train
from datasets import Dataset
from trl import DPOConfig, DPOTrainer


class Rendered(DPOTrainer):  # type: ignore[misc]
    """The rows are tokens already."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path, help="JSONL: prompt_ids, chosen_ids, rejected_ids")
    parser.add_argument("--model", required=True, help="directory of the base model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--batch", type=int, default=8, help="pairs of an update")
    parser.add_argument("--device-batch", type=int, default=8, help="pairs computed together")
    parser.add_argument("--padding-free", action="store_true")
    parser.add_argument("--precompute", action="store_true")
    parser.add_argument("--weights", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    rows = read(options.rows)
    model, tokenizer = load(options.model, getattr(torch, options.weights))
    clock = Clock()
    with quietly():
        config = DPOConfig(
            **common_settings(options.out, options.batch, options.device_batch, options.rate),
            max_length=None,
            train_sampling_strategy="sequential",
            padding_free=options.padding_free,
            precompute_ref_log_probs=options.precompute,
            gradient_checkpointing=options.checkpointing,
        )
        trainer = Rendered(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora(),
            callbacks=[clock],
        )
    train(trainer, clock, [1] * len(rows), options.batch)


if __name__ == "__main__":
    main()
