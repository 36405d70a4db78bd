"""On-policy distillation: in a share of the rows the student answers itself, and the teacher marks it.

A student that only reads good answers never learns what to do after a mistake of its own (Agarwal et al.
2024, GKD, arXiv 2306.13649). So here a row is, by a seeded draw of its own, either as it is stored or its
prompt with an answer that the student samples now, at temperature 1, as a branch. Who marks it is the
objective's business; this source knows no teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tunewright.core.hashing import seed_from, unit_interval
from tunewright.core.records import Tokens
from tunewright.models.runner import evaluating
from tunewright.objectives.base import Drawn
from tunewright.objectives.sampler import Sampled, Sampler


class StudentAnswers:
    """Implements ``objectives.base.Source``; a pure function of (seed, step, rows) and of the weights.

    ``stored`` are the sequences of the rows. ``share`` of those with an answer get one from ``sampler``,
    which samples ``model``; none is longer, its prompt included, than ``limit`` tokens.
    """

    updates = 1

    def __init__(
        self,
        stored: Sequence[Tokens],
        model: nn.Module,
        sampler: Sampler,
        draw: tuple[float, int],
        limit: int,
    ) -> None:
        self.stored, self.model, self.sampler, self.limit = stored, model, sampler, limit
        self.share, self.seed = draw
        self.sizes: Sequence[int] = [tokens.size for tokens in stored]

    def rows(self, epoch: int) -> Sequence[int]:
        """All of them."""
        return range(len(self.stored))

    def draw(self, step: int, rows: Sequence[int]) -> Drawn:
        """The sequences of the rows in their order, some with the student's answer in place of the stored."""
        prompts = {
            row: prompt for row in rows if self._chosen(step, row) and (prompt := asked(self.stored[row]))
        }
        answers = self._answers(step, list(prompts.values()))
        own = dict(zip(prompts, answers, strict=True))
        found = [
            continued(prompts[row], own[row], self.limit) if row in own else self.stored[row] for row in rows
        ]
        metrics = {"on_policy": len(own) / len(rows)}
        if own:
            metrics["answer_tokens"] = sum(len(a.ids) for a in answers) / len(own)
            metrics["finished"] = sum(a.finished for a in answers) / len(own)
        return Drawn(found, metrics)

    def state(self) -> dict[str, Any]:
        """Nothing: every step samples anew."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""

    def _chosen(self, step: int, row: int) -> bool:
        return unit_interval(self.seed, "student answers", step, row) < self.share

    def _answers(self, step: int, prompts: Sequence[Tokens]) -> list[Sampled]:
        if not prompts:
            return []
        with evaluating(self.model), torch.no_grad():
            seed = seed_from(self.seed, "student answers", step)
            found = self.sampler.sample([prompt.ids for prompt in prompts], 1, seed)
        return [answer for [answer] in found]


def asked(tokens: Tokens) -> Tokens | None:
    """What stands before the last answer that is learnt, without weights; ``None`` where there is no answer.

    The renderer sees to it that this is what the model would be asked with.
    """
    learnt = [s for s in tokens.spans if s.role == "assistant" and any(tokens.weights[s.start : s.end])]
    if not learnt or learnt[-1].start == 0:
        return None
    end = learnt[-1].start
    spans = tuple(span for span in tokens.spans if span.end <= end)
    return Tokens(tokens.ids[:end], [0.0] * end, spans, meta=tokens.meta, task=tokens.task)


def continued(prompt: Tokens, answer: Sampled, limit: int) -> Tokens:
    """``prompt`` with ``answer`` as its branch, every token of weight 1, cut at ``limit`` tokens in all."""
    ids = answer.ids[: max(limit - len(prompt.ids), 1)]
    branch = Tokens(ids, [1.0] * len(ids), meta=prompt.meta, task=prompt.task)
    return Tokens(prompt.ids, prompt.weights, prompt.spans, (branch,), meta=prompt.meta, task=prompt.task)
