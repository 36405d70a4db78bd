"""Small tokenizers and models made inside a test: real algorithms, random or tiny content, no downloads.

    from tests.tiny import tiny_model, tiny_tokenizer

A tokenizer is trained on a few sentences in well under a second; a model has two layers and random weights.
Both are the same in every process for the same arguments.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "fixtures" / "templates"
FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "phi3")
OTHERS = ("gpt2", "phi")  # learnt positions and Conv1D layers; attention beside the MLP, biases everywhere
KINDS = ("bytelevel", "metaspace", "unigram")
FAMILY_TOKENS = {
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "dropsystem": ("[INST]", "[/INST]"),
}
QWEN3_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPECIAL = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")

_CORPUS = (
    "The quick brown fox jumps over the lazy dog. A ticket was opened by the customer this morning.\n\n"
    "You are a helpful assistant.\nuser assistant system Instruction: Response:\n"
    "What is the capital of France? The capital of France is Paris. It's 12:30, isn't it?\n"
    "def add(a, b):\n    return a + b\n\n\nprint(add(2, 40))  # 42\n  - one\n  - two\n\n\n"
    "Größe, café, naïve — 'quoted' \"text\" (and more); see <tag> or [link] {json: 1}.\n"
    "Numbers 0 1 2 3 4 5 6 7 8 9 100 2024. Please refund the order; thank you very much!\n"
    "Bitte erstatten Sie den Betrag. これは日本語です。你好，世界。\n"
) * 4


def template_text(name: str) -> str:
    """The chat template in ``tests/fixtures/templates/<name>.jinja``."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def tiny_tokenizer(
    kind: str = "bytelevel",
    *,
    extra_special: tuple[str, ...] | list[str] = (),
    template: str | None = "chatml",
    vocab_size: int = 420,
) -> PreTrainedTokenizerFast:
    """A small trained tokenizer with ``<s> </s> <pad>`` and the ChatML tokens; ids 0 to 4 in that order.

    ``kind`` is ``bytelevel`` (BPE as in GPT-2 and Qwen), ``metaspace`` (BPE with byte fallback as in Llama 2
    and Mistral) or ``unigram`` (SentencePiece as in T5). ``template`` is the name of a fixture, the template
    itself (anything that contains ``{``), or ``None``. A fresh object each time: change it as you like.
    """
    special = (*SPECIAL, *(token for token in extra_special if token not in SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(kind, special, vocab_size)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token=None if kind == "bytelevel" else "<unk>",
        additional_special_tokens=list(special[3:]),
        clean_up_tokenization_spaces=False,
    )
    if template is not None:
        tokenizer.chat_template = template if "{" in template else template_text(template)
    return tokenizer


def chat_tokenizer(name: str, kind: str = "bytelevel") -> PreTrainedTokenizerFast:
    """A tokenizer for the fixture template ``name`` with the added tokens of real models of its family."""
    tokenizer = tiny_tokenizer(kind, extra_special=FAMILY_TOKENS.get(name, ()), template=name)
    if name == "qwen3":  # in Qwen3 these are added tokens, but not special ones
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in QWEN3_TOKENS])
    return tokenizer


@lru_cache(maxsize=32)
def _trained(kind: str, special: tuple[str, ...], vocab_size: int) -> str:
    """The trained tokenizer as JSON, so that every caller gets an object of its own."""
    if kind == "bytelevel":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special),
            initial_alphabet=alphabet,
            show_progress=False,
        )
    elif kind == "metaspace":
        # Byte tokens are part of the vocabulary but not control tokens, as in Llama 2.
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = _metaspace_decoder()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[*special, "<unk>", *_byte_tokens()], show_progress=False
        )
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size, special_tokens=[*special, "<unk>"], unk_token="<unk>", show_progress=False
        )
    else:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    tokenizer.train_from_iterator([_CORPUS], trainer)
    return _without_byte_specials(tokenizer.to_str())


def _byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _without_byte_specials(text: str) -> str:
    """The trainer can only reserve byte tokens as added tokens; here they become ordinary vocabulary."""
    state = json.loads(text)
    byte_tokens = set(_byte_tokens())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in byte_tokens]
    return json.dumps(state)


def _metaspace_decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def tiny_model(
    family: str = "llama", vocab_size: int = 420, *, seed: int = 0, **overrides: object
) -> PreTrainedModel:
    """A two-layer random causal language model, float32, in eval mode, the same for the same arguments.

    ``overrides`` are settings of the model's configuration, e.g. ``hidden_size=32`` or
    ``tie_word_embeddings=True``. Hidden size 64, 4 heads of 16, 2 key/value heads, 512 positions.
    """
    if family not in (*FAMILIES, *OTHERS):
        raise ValueError(f"unknown family {family!r}; known: {', '.join((*FAMILIES, *OTHERS))}")
    settings: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    if family in ("gemma2", "gemma3"):
        settings |= {"query_pre_attn_scalar": 16, "sliding_window": 64}
    if family in OTHERS:  # their configurations know no size of heads of its own
        del settings["head_dim"]
    if family == "gpt2":  # which has as many key/value heads as heads, and an MLP width of another name
        del settings["num_key_value_heads"]
        settings["n_inner"] = settings.pop("intermediate_size")
    model_type = "gemma3_text" if family == "gemma3" else family
    config = CONFIG_MAPPING[model_type](**{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()
