"""AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): all layers start at one rank, and ranks are taken away where
they help least, until the mean is the one asked for.

PEFT has the layers B diag(E) A and the choice of what to take away; when to do it is known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from tunewright.adapt.lora import check_rank
from tunewright.adapt.options.lora import AdaLoraOptions
from tunewright.adapt.peft_method import PeftMethod
from tunewright.adapt.targets import resolved

NAME = "default"
MOMENTS = {"sensitivity": "exp_avg_ipt", "uncertainty": "exp_avg_unc"}  # ours -> PEFT's running statistics
KEPT = "kept"


class AdaLora(PeftMethod):
    """LoRA with ranks that move to where they help most."""

    options: AdaLoraOptions
    stands_for: Mapping[str, str] = {
        "target_modules": "adapt.targets",
        "r": "adapt.rank",
        "target_r": "adapt.rank",
        "init_r": "adapt.start_rank",
        "lora_alpha": "adapt.alpha",
        "lora_dropout": "adapt.dropout",
        "tinit": "adapt.warm",
        "tfinal": "adapt.settle",
        "deltaT": "adapt.every",
        "total_step": "the length of the run",
        "orth_reg_weight": "adapt.orthogonality",
        "rank_pattern": "training",
        "alpha_pattern": "adapt.method lora with adapt.patterns",
        "use_rslora": "adapt.method rslora",
        "use_dora": "adapt.method dora",
        "loftq_config": "adapt.method qlora",
        "init_lora_weights": "adapt.method lora with adapt.init",
        "trainable_token_indices": "adapt.method lora with adapt.new_tokens",
    }

    def __init__(self, method: str, options: AdaLoraOptions) -> None:
        super().__init__(method, options)
        self.label = f"AdaLoRA rank {options.start_rank} to {options.rank}"

    def config(self, model: Any) -> PeftConfig:
        """PEFT's config for ``model``; its schedule is filled in when the number of steps is known."""
        options = self.options
        for name, layer in resolved(model, options.targets)[1].items():
            check_rank("adapt.start_rank", options.start_rank, name, layer)
        return self._make(
            {
                **self._targets(model),
                "init_r": options.start_rank,
                "target_r": options.rank,
                "lora_alpha": 2 * options.start_rank if options.alpha is None else options.alpha,
                "lora_dropout": options.dropout,
                "deltaT": options.every,
                "orth_reg_weight": options.orthogonality,
                "total_step": 1,
                **(options.model_extra or {}),
            }
        )

    def penalty(self, model: Any) -> Tensor | None:
        """Weight times the mean of |AAᵀ - 1| and |BᵀB - 1|, Frobenius norms (equation 4)."""
        if not self.options.orthogonality:
            return None
        norms = []
        for name, factor in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                gram = factor @ factor.T if ".lora_A." in name else factor.T @ factor
                norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.options.orthogonality * torch.stack(norms).mean()

    def updated(self, model: Any, step: int, steps: int) -> None:
        """Note how much each rank mattered in this update, and take away what is over the budget."""
        config = model.peft_config[NAME]
        config.total_step = steps
        config.tinit, config.tfinal = int(self.options.warm * steps), int(self.options.settle * steps)
        if step > steps - config.tfinal and config.rank_pattern is None:
            return  # so short a run, or one planned from its end, has taken no rank away: nothing settles
        model.base_model.update_and_allocate(step)

    def state(self, model: Any) -> dict[str, Tensor]:
        """PEFT's running statistics of the ranks, and which ranks are kept."""
        allocator = model.base_model.rankallocator
        found = {
            f"{ours}/{name}": value.detach().cpu().contiguous()
            for ours, theirs in MOMENTS.items()
            for name, value in getattr(allocator, theirs).items()
        }
        kept = model.peft_config[NAME].rank_pattern or {}
        return found | {f"{KEPT}/{name}": torch.tensor(mask) for name, mask in kept.items()}

    def restore(self, model: Any, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        allocator, kept = model.base_model.rankallocator, {}
        device = next(model.parameters()).device
        allocator.reset_ipt()
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == KEPT:
                kept[name] = value.tolist()
                continue
            getattr(allocator, MOMENTS[kind])[name] = value.to(device, copy=True)
            allocator.ipt[name] = torch.zeros_like(value, device=device)  # its presence says: not the first
        model.peft_config[NAME].rank_pattern = kept or None

    def save(self, model: Any, directory: Path) -> None:
        """As PEFT writes it, without the ranks that are zero in the weights as they are now.

        These may be the weights of an earlier step than the last, which had other ranks. A layer with
        none left keeps one: readers take an empty matrix for a damaged file.
        """
        config = model.peft_config[NAME]
        last = config.rank_pattern
        ranks = {name: (e != 0).view(-1).tolist() for name, e in _values(model)}
        config.rank_pattern = {n: m if any(m) else [True, *m[1:]] for n, m in ranks.items()}
        super().save(model, directory)
        config.rank_pattern = last


def _values(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """The diagonals E by the names that PEFT's rank pattern has for them."""
    return ((name, p) for name, p in model.base_model.model.named_parameters() if f".lora_E.{NAME}" in name)
