"""PEFT's methods by name, and what is known about some of them beyond what their configs say.

A method that is not mentioned here works by its config alone, also one that was registered with PEFT later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from tunewright.adapt.base import ADAPTERS, LORA_OVER_FULL, PEFT
from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest

ALIASES = {"rslora": "lora", "dora": "lora", "qlora": "lora", "longlora": "lora"}

# Why a method of PEFT cannot be used by its name, and what to do instead.
REFUSED = {
    "prompt_tuning": "its name here is prompt",
    "prefix_tuning": "its name here is prefix",
    "p_tuning": "its name here is ptuning",
    "multitask_prompt_tuning": "its virtual tokens depend on a task id for each row, which no text has;"
    " use prompt",
    "cpt": "its virtual tokens are those of labelled examples, with a loss of its own; use prompt",
    "poly": "it needs a task id for each row, which no text has; use lora",
    "xlora": "it mixes adapters that are already trained; train them with lora and combine them",
    "shadow": "its second network beside the model does not see packed texts apart; use lora",
}

# Methods whose difference no weight can hold.
UNMERGED = {
    "adaption_prompt": "its prompts stand inside attention",
    "beft": "most layers have no bias that could take up what it trained",
    "lily": "PEFT has no merging for it",
    "cartridge": "its tokens stand before the text",
}

# What a config leaves open, or says aloud where nothing should be said.
USUAL: Mapping[str, Mapping[str, Any]] = {
    "adaption_prompt": {"adapter_len": 10},  # Zhang et al. 2023, arXiv 2303.16199
    "frod": {"progressbar": False},
}

# Settings that only a part of PEFT reads which does not run here, and why.
UNREAD = {
    "alora_invocation_tokens": "PEFT looks for the tokens in its own forward pass, which packed texts do not"
    " take",
    "arrow_config": "it mixes adapters that are already trained",
    "kasa_config": "it takes away from the base for good, and its two terms of the loss would be missing",
    "layer_replication": "the base would be another model",
    "monteclora_config": "its term of the loss would be missing",
    "use_asa": "subspaces are chosen by a callback of another trainer",
    "use_qalora": "PEFT has it for GPTQ models only",
}

# Learning rate as a multiple of that of full training, where it is not that of LoRA. Measured: the best of
# six rates, half a decade apart, for a small transformer that knew some tasks and learnt another, set
# against the best rate of LoRA there.
RATES: Mapping[str, float] = {
    "randlora": 1.0,
    **dict.fromkeys(("delora", "waveft"), 3.0),
    **dict.fromkeys(("adalora", "adamss", "beft", "boft", "frod", "hira", "hra", "loha", "psoft"), 30.0),
    **dict.fromkeys(("pvera", "road", "shira", "trainable_tokens", "vblora", "vera"), 30.0),
    **dict.fromkeys(("adaption_prompt", "c3a", "cartridge", "fourierft", "ia3", "ln_tuning"), 100.0),
    **dict.fromkeys(("supertuning", "unilora"), 100.0),
}


def config_class(method: str) -> Any:
    """PEFT's config class of ``method``. Raises ``ConfigError`` with the nearest names, or saying why not."""
    kinds = {
        str(getattr(kind, "value", kind)).lower(): config
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    if method in REFUSED:
        raise ConfigError(f"adapt.method {method!r}: {REFUSED[method]}")
    if ALIASES.get(method, method) not in kinds:
        own = {name for name in ADAPTERS if name != PEFT}
        raise ConfigError(f"unknown adapter {method!r}. {nearest(method, {*own, *kinds} - REFUSED.keys())}")
    return kinds[ALIASES.get(method, method)]


def rate_prior(method: str) -> float:
    """Learning rate as a multiple of that of full training; that of LoRA where nothing else is known."""
    return RATES.get(method, LORA_OVER_FULL)
