"""TRL's side of ``benchmarks/race_grpo.py``; runs in ``.venv-bench`` and prints one JSON document."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common import Clock, common_settings, load, lora, quietly, read, train
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

COUNTS: list[int] = []  # answer tokens of each update


def length(completions: list[Any], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """A reward that costs nothing: what counts is the time of everything else."""
    COUNTS.append(sum(map(len, completion_ids)))
    return [float(len(answer[0]["content"])) for answer in completions]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path, help="JSONL: prompt (messages)")
    parser.add_argument("--model", required=True, help="directory of the base model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--group", type=int, required=True, help="answers to a prompt")
    parser.add_argument("--prompts", type=int, required=True, help="prompts of an update")
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--device-batch", type=int, required=True, help="answers trained on together")
    parser.add_argument("--paged", action="store_true", help="sample by transformers' continuous batching")
    parser.add_argument("--weights", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    rows = read(options.rows)
    model, tokenizer = load(options.model, getattr(torch, options.weights))
    clock, answers = Clock(), options.group * options.prompts
    with quietly():
        config = GRPOConfig(
            **common_settings(options.out, answers, options.device_batch, options.rate),
            num_generations=options.group,
            generation_batch_size=answers,
            max_completion_length=options.new_tokens,
            shuffle_dataset=False,
            use_transformers_continuous_batching=options.paged,
            gradient_checkpointing=False,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=length,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora(),
            callbacks=[clock],
        )
    train(trainer, clock, COUNTS, 1)


if __name__ == "__main__":
    main()
