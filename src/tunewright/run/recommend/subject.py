"""The model that is to learn, with the small adapter whose gradients are read and which the race trains."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tunewright.adapt.base import Adapter, adapter_of
from tunewright.core.errors import ConfigError, DataError, RenderError
from tunewright.core.records import Example, Tokens
from tunewright.data.render import Renderer
from tunewright.models.causal import causal_lm, number_of_layers
from tunewright.models.forward import ModelForward
from tunewright.models.layer_cache import LayerCache, lower_layers
from tunewright.models.load import Loaded, load
from tunewright.models.load import resolve as resolve_model
from tunewright.models.quantised import is_quantised
from tunewright.objectives.base import Objective, make_objective
from tunewright.objectives.options.table import options_of
from tunewright.run.compose import context_of, seed_adapter
from tunewright.run.recommend.goal import Family
from tunewright.run.recommend.settings import DetectiveSettings

RANK = 8
TOP = 5  # one in so many layers carries the adapter, from above; measured in docs/recommend.md
OBJECTIVE: dict[Family, str] = {"chat": "sft", "document": "text"}


@dataclass(frozen=True)
class Subject:
    """The model with its adapter attached, and all that turns rows into losses. ``notes`` are to be said;
    ``unwritten`` are rows that the chat template cannot write, with the reason, as they come up."""

    loaded: Loaded
    model: nn.Module
    adapter: Adapter
    forward: ModelForward
    renderer: Renderer
    objective: Objective
    family: Family
    notes: tuple[str, ...] = ()
    unwritten: dict[str, None] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Hidden size of the model."""
        return int(causal_lm(self.model).config.get_text_config().hidden_size)

    def rendered(self, examples: Sequence[Example]) -> list[list[Tokens]]:
        """The sequences of each example within the limit that have something to learn; often one, perhaps
        none. Of a document it is the first piece."""
        try:
            found = self.objective.encode_all(examples, self.renderer)
        except RenderError:
            found = [self._written(example) for example in examples]
        pieces = [sequences[:1] if self.family == "document" else sequences for sequences in found]
        return [[tokens for tokens in sequences if tokens.trained] for sequences in pieces]

    def _written(self, example: Example) -> list[Tokens]:
        try:
            return self.objective.encode(example, self.renderer)
        except RenderError as error:
            self.unwritten[str(error)] = None
            return []


def learnable(rows: Sequence[Sequence[Tokens]], what: str) -> list[list[Tokens]]:
    """Rows with something to learn; raises ``DataError`` naming ``what`` where fewer than two are left."""
    kept = [list(sequences) for sequences in rows if sequences]
    if len(kept) < 2:
        raise DataError(
            f"{what}: {len(rows) - len(kept)} of {len(rows)} rows have nothing to learn within the tokens"
            " that are read; raise --max-length"
        )
    return kept


def make_subject(settings: DetectiveSettings, family: Family, directory: Path, tokens: int = 0) -> Subject:
    """Load the model and attach the adapter to its upper layers; states of those below are kept in
    ``directory``, so that each text runs through them once, if there is room for those of ``tokens`` tokens.

    Raises ``ConfigError`` for a model that no adapter can be put on.
    """
    loaded = load(settings.model)
    _check(loaded)
    layers = number_of_layers(loaded.model)
    top = list(range(layers - max(1, layers // TOP), layers))
    seed_adapter(settings.seed)
    adapter = adapter_of("lora", rank=RANK, init="orthogonal", layers_to_transform=top)
    model = adapter.attach(loaded.model)
    model.eval()
    forward = ModelForward(model, compute=loaded.precision.dtype)
    notes = [*loaded.notes, *_keep_states(forward, directory, tokens)]
    limit = min(settings.max_length, context_of(loaded))
    renderer = Renderer(loaded.tokenizer, max_length=limit)
    name = OBJECTIVE[family]
    objective = make_objective(name, options_of(name, {}))
    return Subject(loaded, model, adapter, forward, renderer, objective, family, tuple(notes))


def _check(loaded: Loaded) -> None:
    name = loaded.ref.name
    if loaded.judges:
        raise ConfigError(f"{name} was trained to judge text with a head; give a model that writes")
    if resolve_model(name).adapter is not None:
        raise ConfigError(
            f"{name} is an adapter; give its base, or a run that ended with output.final=merged"
        )
    if is_quantised(loaded.model):
        raise ConfigError(f"{name} is stored in 4 or 8 bits; give the model's own weights")


def _keep_states(forward: ModelForward, directory: Path, tokens: int) -> list[str]:
    """Let ``forward`` keep the states of ``tokens`` tokens below the adapter; what is in the way is returned
    in words."""
    count, fault = lower_layers(forward.model)
    width = causal_lm(forward.model).config.get_text_config().hidden_size
    needed, free = tokens * width * forward.compute.itemsize, shutil.disk_usage(directory).free
    if fault is None and needed > free // 2:
        fault = (
            f"the states of lower layers would take {needed / 2**20:,.0f} MB of {free / 2**20:,.0f} MB free"
        )
    cache = LayerCache.begun(forward, count, directory) if count and fault is None else fault
    if isinstance(cache, LayerCache):
        forward.below = cache
        return []
    return [f"every pass runs through all layers, which takes longer: {cache}"] if cache else []
