"""TRL's side of ``benchmarks/race_sft.py``; runs in ``.venv-bench`` and prints one JSON document.

The rows come rendered, so that both sides train on the same tokens in the same order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import Clock, common_settings, load, lora, quietly, read, train
from datasets import Dataset
from trl import SFTConfig, SFTTrainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path, help="JSONL: ids, weights")
    parser.add_argument("--model", required=True, help="directory of the base model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--batch", type=int, default=8, help="rows of an update")
    parser.add_argument("--device-batch", type=int, default=8, help="rows computed together")
    parser.add_argument("--padding-free", action="store_true")
    parser.add_argument("--weights", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    rows = read(options.rows)
    data = Dataset.from_list(
        [{"input_ids": r["ids"], "completion_mask": [int(w > 0) for w in r["weights"]]} for r in rows]
    )
    model, tokenizer = load(options.model, getattr(torch, options.weights))
    clock = Clock()
    with quietly():
        config = SFTConfig(
            **common_settings(options.out, options.batch, options.device_batch, options.rate),
            max_length=None,
            shuffle_dataset=False,
            train_sampling_strategy="sequential",
            completion_only_loss=True,
            padding_free=options.padding_free,
            gradient_checkpointing=options.checkpointing,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=None if options.full else lora(),
            callbacks=[clock],
        )
    train(trainer, clock, [len(row["ids"]) for row in rows], options.batch)


if __name__ == "__main__":
    main()
