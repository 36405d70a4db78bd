"""Bottleneck adapters: two thin layers with a nonlinearity between them, behind or beside a sublayer.

    houlsby   behind attention and behind the MLP   Houlsby et al. 2019, arXiv 1902.00751
    pfeiffer  behind the MLP                        Pfeiffer et al. 2020, arXiv 2005.00247
    parallel  beside the MLP                        He et al. 2021, arXiv 2110.04366

Behind a sublayer whose output is h it gives h + s up(f(down(h))), before that joins the residual stream; a
sublayer that has a norm of its own at its end (Gemma, Olmo) ends behind that. Beside the MLP it gives
mlp(x) + s up(f(down(x))).

The model's own modules and names stay as they are: a bottleneck is a further submodule of its layer and is
called by a forward hook on the last module of the sublayer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.core.errors import ModelError
from tunewright.models.causal import decoder_layers, number_of_layers

NAME = "bottleneck"  # of the submodule of a layer
ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "ffn")
ENDS = {  # the norm in which a sublayer ends, where it ends in one
    "mlp": ("post_feedforward_layernorm", "post_mlp_layernorm"),
    "attention": ("post_self_attn_layernorm", "post_attention_layernorm"),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
PLACES = {"houlsby": ("attention", "mlp"), "pfeiffer": ("mlp",), "parallel": ("mlp",)}


@dataclass(frozen=True)
class Form:
    """What all bottlenecks of a model have in common."""

    style: Literal["houlsby", "pfeiffer", "parallel"]
    size: int
    activation: Literal["relu", "gelu", "silu"]
    scale: float
    dropout: float = 0.0


class Bottleneck(nn.Module):
    """(..., H) -> (..., H): s up(f(down(x))), zero at the start. Weights are float32; it computes in the
    format of its input."""

    def __init__(self, width: int, form: Form) -> None:
        super().__init__()
        self.down = nn.Linear(width, form.size, dtype=torch.float32)
        self.up = nn.Linear(form.size, width, dtype=torch.float32)
        self.form, self.enabled = form, True
        for zero in (self.down.bias, self.up.bias, self.up.weight):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to the output of the sublayer."""
        inner = ACTIVATIONS[self.form.activation](_linear(self.down, x))
        inner = F.dropout(inner, self.form.dropout, self.training)
        return self.form.scale * _linear(self.up, inner)

    def behind(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Forward hook of the module whose output is adapted."""
        return self._added(_first(output), output)

    def beside(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Forward hook of the module that runs in parallel."""
        return self._added(args[0] if args else kwargs["hidden_states"], output)

    def _added(self, x: Tensor, output: Any) -> Any:
        if not self.enabled:
            return output
        own = _first(output)
        adapted = own + self(x).reshape(own.shape)
        return (adapted, *output[1:]) if isinstance(output, tuple) else adapted


def attach(lm: Any, form: Form) -> None:
    """Put a bottleneck into every layer of the causal language model.

    Raises ``ModelError`` for a model whose layers have another form than those known here.
    """
    width = lm.config.get_text_config().hidden_size
    for number, layer in enumerate(layers_of(lm)):
        assert NAME not in layer._modules, "this model has bottlenecks already"
        ends = {place: _hooked(lm, number, layer, place, form.style) for place in PLACES[form.style]}
        found = nn.ModuleDict({place: Bottleneck(width, form) for place in ends})
        layer.add_module(NAME, found.to(next(layer.parameters()).device).train(layer.training))
        for place, module in ends.items():
            own: Any = found[place]
            hook = own.beside if form.style == "parallel" else own.behind
            module.register_forward_hook(hook, with_kwargs=True)


def layers_of(lm: Any) -> list[Any]:
    """The layers of the text decoder; raises ``ModelError`` where they are not in one list."""
    layers = decoder_layers(lm)
    if not layers:
        raise _unknown(lm, f"no list of {number_of_layers(lm)} layers in its decoder")
    return layers


def bottlenecks_of(model: nn.Module) -> list[Bottleneck]:
    """All bottlenecks of a model, from the first layer on."""
    return [module for module in model.modules() if isinstance(module, Bottleneck)]


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within the context the bottlenecks do nothing at all."""
    active = [found for found in bottlenecks_of(model) if found.enabled]
    for found in active:
        found.enabled = False
    try:
        yield
    finally:
        for found in active:
            found.enabled = True


def _hooked(lm: Any, number: int, layer: Any, place: str, style: str) -> nn.Module:
    """The module of ``layer`` whose output is adapted."""
    core = _child(layer, ATTENTION if place == "attention" else MLP)
    if core is None:
        raise _unknown(
            lm, f"layer {number} has no module {' or '.join(MLP if place == 'mlp' else ATTENTION)}"
        )
    if "residual" in inspect.signature(core.forward).parameters:
        raise _unknown(lm, f"layer {number} adds the residual inside its {place}")
    normed = _child(layer, ENDS["mlp"]) is not None  # else post_attention_layernorm stands before the MLP
    end = _child(layer, ENDS[place]) if normed and style != "parallel" else None
    return core if end is None else end


def _child(layer: Any, names: tuple[str, ...]) -> nn.Module | None:
    return next((layer._modules[name] for name in names if layer._modules.get(name) is not None), None)


def _unknown(lm: Any, why: str) -> ModelError:
    return ModelError(
        f"bottleneck adapters do not know the layers of a {lm.config.model_type} model ({why});"
        " use lora, which needs linear layers only"
    )


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
