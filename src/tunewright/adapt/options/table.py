"""The settings of every way of choosing what trains. Reading them loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright.core.config import Section, build
from tunewright.core.names import Registry

_HERE = "tunewright.adapt.options"

OPTIONS: Registry[type[Section]] = Registry(
    "adapter",
    {
        "full": f"{_HERE}.weights:FullOptions",
        "freeze": f"{_HERE}.weights:FreezeOptions",
        "head": f"{_HERE}.weights:HeadOptions",
        "lora": f"{_HERE}.lora:LoraOptions",
        "rslora": f"{_HERE}.lora:LoraOptions",
        "dora": f"{_HERE}.lora:LoraOptions",
        "qlora": f"{_HERE}.lora:QloraOptions",
        "longlora": f"{_HERE}.lora:LongLoraOptions",
        "adalora": f"{_HERE}.lora:AdaLoraOptions",
        "bottleneck": f"{_HERE}.modules:BottleneckOptions",
        "prompt": f"{_HERE}.virtual:PromptOptions",
        "prefix": f"{_HERE}.virtual:PrefixOptions",
        "ptuning": f"{_HERE}.virtual:PTuningOptions",
    },
    group="tunewright.adapter_options",
)
_ANY = "any method of PEFT"
_PEFT: Registry[type[Section]] = Registry(_ANY, {_ANY: f"{_HERE}.lora:PeftOptions"})


def options_of(method: str, values: dict[str, Any], beside: Sequence[str] = ()) -> Section:
    """The settings of ``method`` from plain ``values``; ``beside`` as in ``build``.

    A method that is not in the table may be one of PEFT's, which only PEFT can tell; its settings are checked
    when the adapter is made. Raises ``ConfigError`` for a bad value or an unknown setting.
    """
    section = OPTIONS[method] if method in OPTIONS else _PEFT[_ANY]
    return build(section, values, where=method, beside=beside)
