"""Operations on saved adapters by name: add up, take out of a tuned model, fold into the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunewright.adapt.combine import Made, extract
from tunewright.core.errors import ConfigError, ModelError
from tunewright.core.paths import write_json
from tunewright.data.render import Renderer
from tunewright.models.base_record import base_record
from tunewright.models.causal import causal_lm
from tunewright.models.changes import NONE
from tunewright.models.load import Loaded, load, resolve
from tunewright.models.save import own_stop_ids, save_companions, save_model
from tunewright.run.compose import merged_copy

PROBE = 8  # tokens that are read before and after merging


def extracted(tuned: str, base: str, out: str | Path, *, rank: int, rest: str = "refuse") -> Made:
    """The difference of two models as an adapter of ``base``, with what is needed to use it beside it."""
    one, two = (load(name, device="cpu", weights=torch.float32) for name in (tuned, base))
    for loaded in (one, two):
        if loaded.ref.adapter is not None:
            raise ModelError(f"{loaded.ref.name} is an adapter already; give two whole models")
    made = extract(one.model, two.model, out, rank=rank, names=(tuned, base), rest=rest)
    save_companions(causal_lm(one.model), one.tokenizer, made.path, own_stop_ids(one.model))
    write_json(made.path / "base.json", base_record(two, NONE))
    return made


def merged(adapter: str, out: str | Path) -> dict[str, Any]:
    """Fold an adapter into its base and write the whole model, in float32; returns the parity of the two.

    Raises ``ModelError`` if the merged model answers otherwise than the adapter did.
    """
    target, ref = Path(out), resolve(adapter)
    if target.exists():
        raise ConfigError(f"{target} exists; choose another directory")
    if ref.adapter is None:
        raise ModelError(f"{adapter} is no adapter; there is nothing to merge")
    before = load(adapter, device="cpu", dtype="float32", weights=torch.float32)
    ids = _probe(before)
    with torch.inference_mode():
        expected = before.model(input_ids=ids).logits.float()
    tokenizer, writes = before.tokenizer, not before.judges
    stop_ids = Renderer(tokenizer).stop_ids | own_stop_ids(before.model)
    del before
    model = merged_copy(ref.adapter)
    with torch.inference_mode():
        found = model.eval()(input_ids=ids).logits.float()
    error = float((found - expected).norm() / expected.norm())
    if not error < 1e-3:
        raise ModelError(
            f"{adapter}: merged, it answers otherwise than before (relative error of the logits {error:.2g});"
            " nothing was written"
        )
    save_model(model, tokenizer, target, stop_ids, writes=writes)
    return {"path": str(target), "logit_error": error}


def _probe(loaded: Loaded) -> torch.Tensor:
    """A few token ids that every vocabulary has."""
    size = int(causal_lm(loaded.model).config.get_text_config().vocab_size)
    ids: torch.Tensor = torch.arange(1, PROBE + 1)[None] * 37 % size
    return ids


def weights_for(adapters: Sequence[str], given: Sequence[float] | None) -> list[float]:
    """The weights of a combination: as given, or the mean."""
    return list(given) if given else [1 / len(adapters)] * len(adapters)
