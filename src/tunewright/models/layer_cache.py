"""Lower layers that never train run once per text: the states that they give are kept on disk.

The state of a token depends on its own text alone, whatever else is packed beside it. So it is kept by text,
and from the second epoch on a batch begins at the first layer that trains, with the states of its texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from tunewright.core.hashing import digest
from tunewright.models.causal import causal_lm, decoder_layers
from tunewright.models.fingerprint import fingerprint
from tunewright.models.forward import ModelForward
from tunewright.models.frozen import drops_at_random
from tunewright.models.shifted import is_shifted
from tunewright.models.states import StateStore, segment_keys
from tunewright.models.virtual import virtual_tokens

# Settings of configs by which a layer gets more from below than the states that enter it.
ENTANGLED = {
    "num_kv_shared_layers": "upper layers read keys and values of lower ones",
    "hidden_size_per_layer_input": "each layer reads an embedding of its own",
    "altup_num_inputs": "several streams of states run through the layers",
}
WRONG = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)  # from a model without its layers


class Lower(NamedTuple):
    """How many layers lie below all that trains, and why their states cannot be kept, if they cannot."""

    number: int
    fault: str | None = None


def lower_layers(model: Any) -> Lower:
    """The layers that never train, as far as it can be told without running ``model``, ready to train.

    Layers that only thaw later count as trained, so what is said here holds for the whole of training.
    """
    lm, layers = causal_lm(model), decoder_layers(model)
    if not layers:
        return Lower(0, f"the layers of {type(lm).__name__} are not in one list")
    if virtual_tokens(model):
        return Lower(0, "virtual tokens that train stand before every text")
    if any(p.requires_grad for p in _before(lm, layers[0])):
        return Lower(0, "the embeddings train, or what stands beside them")
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    count = trained.index(True) if any(trained) else len(layers)
    if count == 0:
        return Lower(0, "the first layer trains")
    above = {module for layer in layers[count:] for module in layer.modules()}
    if drops_at_random(m for m in lm.modules() if m not in above):
        return Lower(count, "what does not train drops states at random")
    if any(is_shifted(module) for layer in layers[:count] for module in layer.modules()):
        return Lower(count, "attention is sparse while training and dense otherwise (adapt.group)")
    text = lm.config.get_text_config()
    faults = [why for name, why in ENTANGLED.items() if getattr(text, name, None)]
    return Lower(count, f"in a {text.model_type} model {faults[0]}" if faults else None)


@dataclass
class LayerCache:
    """What a ``ModelForward`` does ``below`` its first trained layer, for each batch: see ``begun``.

    States are kept in the number format of the computation. Also those that were computed just now are taken
    from the store: then the state of a text depends on the batch it first stood in and on nothing else, and
    a run that was killed comes to the same bits.
    """

    layers: Sequence[nn.Module]  # those that never train, from below
    path: Path
    dtype: torch.dtype  # of what is kept
    live: torch.dtype  # of the states between layers
    tupled: bool  # whether a layer returns its states in a tuple
    device: torch.device
    runs: int = 0  # batches that the layers read
    store: StateStore | None = None

    @classmethod
    def begun(cls, forward: ModelForward, count: int, directory: Path) -> LayerCache | str:
        """A cache of what the ``count`` lowest layers of ``forward`` give, with what ``directory`` holds.

        Tries it on a few tokens; returns what is wrong where the model does not come to the same.
        """
        layers = decoder_layers(forward.model)[:count]
        path = directory / f"layers-{lower_digest(forward, count)[:24]}.bin"
        seen = _tried(forward, layers)
        if isinstance(seen, str):
            return seen
        live = _states(seen).dtype
        cache = cls(layers, path, forward.compute, live, isinstance(seen, tuple), forward.device)
        if path.exists():
            cache.store = StateStore.reopened(path)
        return cache

    @contextmanager
    def __call__(self, batch: Any) -> Iterator[None]:
        """Within it the decoder begins above the layers where all texts of ``batch`` are known; where one is
        not, all of the batch runs through the layers."""
        keys = segment_keys(batch)
        if self.store is not None and all(key in self.store for key in keys):
            with _skipped(self.layers, self._formed(self.store.read(keys))):
                yield
            return
        self.runs += 1
        counts = [length for _, length, _ in batch.segments]
        with _changed(self.layers[-1], partial(self._kept, keys, counts)):
            yield

    def _kept(self, keys: Sequence[bytes], counts: Sequence[int], out: Any) -> Any:
        """What the last of the layers gave, after it was stored."""
        states = _states(out)[0]
        if self.store is None:
            self.store = StateStore(self.path, states.shape[1], self.dtype)
        self.store.add(keys, states, counts)
        return self._formed(self.store.read(keys))

    def _formed(self, states: Tensor) -> Any:
        """(T, H) from the store, as a layer returns it."""
        found = states.to(self.device).to(self.live)[None]
        return (found,) if self.tupled else found


def lower_digest(forward: ModelForward, count: int) -> str:
    """Hash of all that decides the states above the ``count`` lowest layers, the tokens aside."""
    lm = causal_lm(forward.model)
    above = {id(t) for layer in decoder_layers(lm)[count:] for t in layer.state_dict(keep_vars=True).values()}
    weights = lm.get_decoder().state_dict(keep_vars=True).values()
    below = [t for t in weights if isinstance(t, Tensor) and id(t) not in above and not t.requires_grad]
    versions = [torch.__version__, transformers.__version__]
    return digest([fingerprint(lm.config, below), *versions, str(forward.compute), count])


def _before(lm: Any, first: nn.Module) -> list[nn.Parameter]:
    """The parameters that a decoder has ahead of its first layer, embeddings among them."""
    own, found = set(first.parameters()), []
    for parameter in lm.get_decoder().parameters():
        if parameter in own:
            break
        found.append(parameter)
    return [*found, *lm.get_input_embeddings().parameters()]


def _tried(forward: ModelForward, layers: Sequence[nn.Module]) -> Any:
    """What the last of ``layers`` returns for a few tokens, or words for what went wrong."""
    model, batch = forward.model, _few_tokens(forward)
    was_training, seen = model.training, []

    def run(training: bool, of: Any = batch) -> Tensor:
        model.train(training)
        with torch.enable_grad():
            return forward.hidden(of).detach()

    def note(out: Any) -> Any:
        seen.append(out)
        return out

    try:
        with torch.random.fork_rng(_gpus(forward.device)):
            with _changed(layers[-1], note):
                run(training=True)
                whole = run(training=False)
            training, still = map(_states, seen)
            if training.requires_grad:
                return f"something trains below layer {len(layers)} of the model"
            if training.shape != (1, batch.ids.shape[0], training.shape[-1]):
                return f"states between layers have the shape {tuple(training.shape)}"
            if not _same(training, still):
                return "the layers that do not train give other states while training"
            run(training=False, of=_few_tokens(forward, 20))  # so that nothing is left of the first
            with _skipped(layers, seen[-1]):
                again = run(training=False)
    except WRONG as error:  # then it is said, and the layers run every time
        return f"the model cannot begin at layer {len(layers)} ({type(error).__name__}: {error})"
    finally:
        model.train(was_training)
    return seen[-1] if _same(again, whole) else f"layers above layer {len(layers)} read more than its states"


def _few_tokens(forward: ModelForward, first: int = 1) -> Any:
    """Two short texts in one batch, of the ids from ``first`` on."""
    vocabulary = causal_lm(forward.model).config.get_text_config().vocab_size
    ids = torch.arange(first, first + 9, device=forward.device) % vocabulary
    positions = torch.cat([torch.arange(5), torch.arange(4)]).to(forward.device)
    return SimpleNamespace(ids=ids, positions=positions, segments=((0, 5, None), (5, 4, None)))


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def _states(out: Any) -> Tensor:
    """The states in what a layer returns."""
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states


@contextmanager
def _changed(layer: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """Within it ``layer`` returns ``change`` of what it would return."""
    handle = layer.register_forward_hook(lambda module, args, out: change(out))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skipped(layers: Sequence[nn.Module], out: Any) -> Iterator[None]:
    """Within it the first of ``layers`` returns ``out`` unseen, and the others what they are given."""
    before = [layer.__dict__.get("forward") for layer in layers]
    wrap = (lambda states: (states,)) if isinstance(out, tuple) else (lambda states: states)
    for place, layer in enumerate(layers):
        layer.forward = partial(_given, wrap) if place else partial(_ready, out)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _ready(out: Any, *args: Any, **kwargs: Any) -> Any:
    return out


def _given(wrap: Callable[[Tensor], Any], states: Tensor, *args: Any, **kwargs: Any) -> Any:
    return wrap(states)
