"""Transfer learning: the model stays as it is, only a new head on its states trains."""

from __future__ import annotations

from typing import Any

from torch import nn

from tunewright.adapt.base import Method
from tunewright.adapt.options.weights import HeadOptions

# AdamW moves each weight of a head by about the rate, and so a score by the rate times the sum of the states'
# sizes. Measured on 77 intents with the states of a model 576 wide: 0.01 for 3, 10 and 30 epochs alike.
HEAD_OVER_FULL = 100.0


class HeadOnly(Method):
    """Nothing of the model trains. The objective brings the head, so it must be one that has a head.

    Its ``rate`` is for states whose mean size |h| is 1; others divide it.
    """

    label = "head only"
    whole = True
    rate = HEAD_OVER_FULL

    def __init__(self, method: str, options: HeadOptions) -> None:
        self.options = options

    def attach(self, model: Any) -> nn.Module:
        """Freeze everything that is there."""
        model.requires_grad_(False)
        return model  # type: ignore[no-any-return]
