"""Llama models by their shape alone, with random weights: what speed depends on, without a download."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """Sizes as in a config; rows are ``length`` tokens long."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    words: int
    tied: bool
    length: int = 2048

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the linear layers of one block."""
        shared = self.key_heads * self.head_dim
        attention = [(self.hidden, self.hidden), *[(shared, self.hidden)] * 2, (self.hidden, self.hidden)]
        return [*attention, *[(self.inner, self.hidden)] * 2, (self.hidden, self.inner)]

    @property
    def linear(self) -> int:
        """Weights of all linear layers but the output layer."""
        return self.layers * sum(a * b for a, b in self.matrices)

    @property
    def sides(self) -> int:
        """Rows and columns of all linear layers: a LoRA of rank r has r times as many weights."""
        return self.layers * sum(a + b for a, b in self.matrices)

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.words * self.hidden

    @property
    def config(self) -> Any:
        return LlamaConfig(
            vocab_size=self.words,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=max(self.length, 8192),
            tie_word_embeddings=self.tied,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )


SHAPES = (
    Shape("tiny", 64, 128, 2, 4, 2, 512, True, 64),
    Shape("1B", 2048, 8192, 16, 32, 8, 128256, True),  # as Llama 3.2 1B
    Shape("8B", 4096, 14336, 32, 32, 8, 128256, False),  # as Llama 3.1 8B
)


def write_model(shape: Shape, folder: Path, device: str) -> Path:
    """A model of random weights in bfloat16 with a tokenizer, as files, so that all sides load the same."""
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(shape.config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder
