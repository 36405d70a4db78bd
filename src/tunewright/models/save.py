"""Write a model so that plain transformers reads it, with what it takes to stop and to chat."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from tunewright.core.paths import write_text
from tunewright.models.classifier import mark_adapter, sequence_classifier
from tunewright.models.score import heads_of, is_head
from tunewright.models.score_files import write_heads


def stopping_config(model: Any, stop_ids: Iterable[int], pad_id: int | None) -> GenerationConfig:
    """The model's generation config with every id that ends a turn; without it a tuned model never stops.

    What ended a text before still does: ``stop_ids`` are added to the model's own.
    """
    config = GenerationConfig.from_dict(model.generation_config.to_dict() if model.generation_config else {})
    config.eos_token_id = sorted({*stop_ids, *own_stop_ids(model)})
    config.pad_token_id = pad_id
    config.do_sample = False
    config.temperature = config.top_p = config.top_k = None
    return config


def own_stop_ids(model: Any) -> frozenset[int]:
    """The ids at which the model's own generation config stops."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def save_model(
    model: Any, tokenizer: Any, directory: Path, stop_ids: Iterable[int], *, writes: bool = True
) -> None:
    """Whole model in transformers' format: safetensors, tokenizer, chat template, generation config.

    Heads stand beside it. One that only judges (not ``writes``) becomes a ``…ForSequenceClassification``,
    where transformers has one of that form.
    """
    directory.mkdir(parents=True, exist_ok=True)
    judge = None if writes else sequence_classifier(model, tokenizer.pad_token_id)
    if judge is not None:
        judge.save_pretrained(directory)
    else:
        state = {name: value for name, value in model.state_dict().items() if not is_head(name)}
        model.save_pretrained(directory, state_dict=state)
    if heads_of(model):
        write_heads(model, directory, writes=writes)
    save_companions(model, tokenizer, directory, stop_ids)


def save_heads(model: Any, tokenizer: Any, adapter: Path, *, writes: bool) -> None:
    """The heads beside a saved adapter, if there are any; in its file too, where PEFT knows their form."""
    if heads_of(model):
        write_heads(model, adapter, writes=writes)
        if not writes:
            mark_adapter(model, adapter, tokenizer.pad_token_id)


def save_companions(model: Any, tokenizer: Any, directory: Path, stop_ids: Iterable[int]) -> None:
    """What stands beside the weights: tokenizer, chat template, generation config."""
    tokenizer.save_pretrained(directory)
    if tokenizer.chat_template:
        write_text(directory / "chat_template.jinja", tokenizer.chat_template)
    stopping_config(model, stop_ids, tokenizer.pad_token_id).save_pretrained(directory)
