"""Heads in the form in which plain transformers and PEFT know them: ``…ForSequenceClassification``.

Such a model has one linear layer without bias, ``score``, on the state of the last token. A head of that form
is saved so that they read it; any other (mean pooling, a bias, several heads) is read by Tunewright alone.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from tunewright.core.errors import ModelError
from tunewright.core.paths import write_json, written_atomically
from tunewright.models.bottleneck_files import KIND
from tunewright.models.causal import causal_lm
from tunewright.models.score import heads_of

KEY = "base_model.model.score.weight"  # as PEFT names it in an adapter file
PROMPTED = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
HEADLESS = (*PROMPTED, "ADAPTION_PROMPT", "TRAINABLE_TOKENS", KIND)  # whose files have no place for a head
PROBLEMS = {"single": "single_label_classification", "multi": "multi_label_classification"}


def sequence_classifier(model: Any, pad_id: int | None) -> Any | None:
    """The sequence classifier of transformers with this trunk and head, sharing their weights.

    ``None`` where transformers has no such model: another form of head, or an architecture without one.
    """
    lm = causal_lm(model)
    heads = heads_of(model)
    if set(heads) != {"score"} or heads["score"].pooling != "last" or heads["score"].bias is not None:
        return None
    make: Any = AutoModelForSequenceClassification.from_config
    try:
        with torch.device("meta"):
            found = make(_config(lm.config, heads["score"], pad_id))
    except ValueError:  # transformers has no classifier of this architecture
        return None
    if not isinstance(getattr(found, "score", None), nn.Linear) or found.score.bias is not None:
        return None
    setattr(found, found.base_model_prefix, lm.base_model)
    found.score.weight = heads["score"].weight
    return found.eval()


def mark_adapter(model: Any, directory: Path, pad_id: int | None) -> None:
    """Make the PEFT adapter in ``directory`` one of a sequence classifier, if ``model`` is such.

    The head goes into the weights of the adapter. There is no ``config.json`` beside them, which would make
    transformers look for a whole model there; the labels stand in ``heads.json``.
    """
    found, record = sequence_classifier(model, pad_id), directory / "adapter_config.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    if found is None or facts["peft_type"] in HEADLESS:
        return
    weights = load_file(directory / "adapter_model.safetensors")
    weights[KEY] = found.score.weight.detach().cpu().contiguous()
    with written_atomically(directory / "adapter_model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    kept = [name for name in facts.get("modules_to_save") or () if name != "score"]
    write_json(record, {**facts, "task_type": "SEQ_CLS", "modules_to_save": [*kept, "score"]})


def refuse_foreign(name: str, folder: Path) -> None:
    """Raise ``ModelError`` for a classifier that others made: what its scores mean is nowhere written."""
    classifies = False
    if (folder / "adapter_config.json").is_file():
        facts = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        classifies = facts.get("task_type") == "SEQ_CLS"
    elif (folder / "config.json").is_file():
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        classifies = any(n.endswith("ForSequenceClassification") for n in facts.get("architectures") or ())
    if classifies:
        raise ModelError(
            f"{name} is a sequence classifier without heads.json, so it was not made by Tunewright; use the"
            " language model that it was made from"
        )


def _config(config: Any, head: Any, pad_id: int | None) -> Any:
    """The model's config with the labels where transformers looks for them."""
    own, outputs = copy.deepcopy(config), head.weight.shape[0]
    labels = head.facts.get("labels") or [f"LABEL_{i}" for i in range(outputs)]
    own.id2label = dict(enumerate(labels))
    own.label2id = {label: i for i, label in enumerate(labels)}
    own.problem_type = PROBLEMS.get(head.facts.get("kind"), "regression")
    text = own.get_text_config()
    if text.pad_token_id is None:
        text.pad_token_id = pad_id
    return own
