"""TRL's side of ``race_sft.py`` and ``gpu.py``; runs in ``.venv-bench`` and prints one JSON document.

The rows come rendered, so that both sides train on the same tokens in the same order.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if "--unsloth" in sys.argv:
    import unsloth  # it must come before what it changes

import torch
from common import Clock, common_settings, load, lora, quietly, read, train
from datasets import Dataset
from transformers import BitsAndBytesConfig
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quantise", action="store_true", help="the base in 4 bits")
    parser.add_argument("--liger", action="store_true")
    parser.add_argument("--unsloth", action="store_true")
    options = parser.parse_args()
    rows = read(options.rows)
    data = Dataset.from_list(
        [{"input_ids": r["ids"], "completion_mask": [int(w > 0) for w in r["weights"]]} for r in rows]
    )
    model, tokenizer = by_unsloth(options) if options.unsloth else by_transformers(options)
    clock = Clock()
    with quietly():
        config = SFTConfig(
            **common_settings(options.out, options.batch, options.device_batch, options.rate, options.device),
            max_length=None,
            shuffle_dataset=False,
            train_sampling_strategy="sequential",
            completion_only_loss=True,
            padding_free=options.padding_free,
            gradient_checkpointing=options.checkpointing,
            use_liger_kernel=options.liger,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=None if options.full or options.unsloth else lora(),
            callbacks=[clock],
        )
    train(trainer, clock, [len(row["ids"]) for row in rows], options.batch)


def by_transformers(options: argparse.Namespace) -> tuple[Any, Any]:
    """Model and tokenizer, the base in 4 bits (NF4, scales in 8) where that is asked for."""
    if not options.quantise:
        return load(options.model, getattr(torch, options.weights))
    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return load(options.model, torch.bfloat16, quantization_config=bits, device_map={"": options.device})


def by_unsloth(options: argparse.Namespace) -> tuple[Any, Any]:
    """Model with its adapter and tokenizer, as Unsloth makes them."""
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        options.model,
        max_seq_length=max(len(row["ids"]) for row in read(options.rows)),
        dtype=torch.bfloat16,
        load_in_4bit=options.quantise,
        full_finetuning=options.full,
    )
    if options.full:
        return model, tokenizer
    shape = lora()
    adapted = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=shape.r,
        lora_alpha=shape.lora_alpha,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        use_gradient_checkpointing="unsloth" if options.checkpointing else False,
    )
    return adapted, tokenizer


if __name__ == "__main__":
    main()
