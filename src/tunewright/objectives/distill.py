"""Distillation: a student learns to say what a larger model would have said.

Per target token t with weight w_t, teacher P_t and student Q_t softened by temperature T, and s the share of
the ordinary cross-entropy:

    loss = sum_t w_t [ (1 - s) T^2 D(P_t, Q_t) - s log q_t(x_t) ] / sum_t w_t

D is one of ``divergences.DIVERGENCES``. With another vocabulary (``uld``) D compares probabilities by rank, T
stands for T^2, and answer tokens beyond the shorter of the two tokenisations have the cross-entropy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from tunewright.core.config import build
from tunewright.core.records import Example, Text, Tokens
from tunewright.objectives.base import BaseObjective, Batch, Forward, Judged, LossOut, Mean, Renderer
from tunewright.objectives.divergences import DIVERGENCES, POWER, TopK, matched, ranked
from tunewright.objectives.options.distill import DistillOptions
from tunewright.objectives.sft import SupervisedFineTuning
from tunewright.objectives.teacher import Asked, Teacher, vocabulary_of

ULD_SFT_WEIGHT = 0.4  # the paper's cross-entropy + 1.5 x distance, as shares (Boizard et al. 2024)


class Distillation(BaseObjective):
    """Learn from a teacher's probabilities, or from the answers it writes.

    Used in three steps: ``resolved`` settles how the vocabularies are compared, the run then makes the
    teacher that ``asked`` and ``cached`` describe, and ``with_teacher`` hands it over.
    """

    accepts = frozenset({"conversation", "labelled", "text"})
    judged: Judged = "distilled"

    def __init__(self, name: str, options: DistillOptions) -> None:
        super().__init__(name, options)
        self.requires = frozenset({"teacher", "student_answers"} if options.on_policy > 0 else {"teacher"})
        self.size: int | None = None
        self.teacher: Teacher | None = None
        self._written = SupervisedFineTuning(name, options)

    def resolved(self, student: Mapping[str, int], teacher: Mapping[str, int]) -> Self:
        """A copy that knows how these vocabularies (token -> id) are compared.

        Raises ``ConfigError`` if they differ where they must not, or if a setting has then no use.
        """
        mode = vocabulary_of(self.options.vocabulary, student, teacher)
        values = {**self.options.model_dump(), "vocabulary": mode}
        found = copy(self)
        found.options = build(DistillOptions, values, where=f"{self.name} (the vocabularies need {mode})")
        found.size = max(student.values()) + 1 if mode == "same" else None
        return found

    @property
    def uses_teacher_text(self) -> bool:
        """Whether the teacher writes the answers of the training rows first and is not needed after that."""
        return bool(self.options.vocabulary == "text")

    @property
    def cached(self) -> bool:
        """Whether the teacher is asked once before training (``CachedTeacher``), not in every step."""
        return self.options.top_k > 0 and self.options.on_policy == 0 and not self.uses_teacher_text

    @property
    def asked(self) -> Asked:
        """What the teacher must be able to say."""
        return Asked(self.options.temperature, self.options.top_k, self.size)

    def with_teacher(self, teacher: Teacher) -> Self:
        """A copy that learns from ``teacher``."""
        assert self.options.vocabulary in ("same", "uld"), "call resolved() first; text needs no teacher here"
        assert teacher.asked == self.asked, f"asked for {self.asked}, but this teacher says {teacher.asked}"
        found = copy(self)
        found.teacher = teacher
        return found

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """As ``sft`` or, for plain documents, ``text``."""
        self.check_kind(example)
        if isinstance(example, Text):
            return renderer.documents(example)
        return self._written.encode(example, renderer)

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """The formula above, without its division."""
        if self.uses_teacher_text:
            return self._written.loss(forward, batch)
        distance, cross_entropy, known = forward.per_target(batch, partial(self._parts, batch)).unbind(-1)
        weights, share, known = batch.targets.weights, self._sft_weight, known.detach()
        total = (weights * ((1 - share) * distance + share * cross_entropy)).sum()
        metrics = {
            "divergence": Mean((weights * distance).sum().detach(), (weights * known).sum()),
            "cross_entropy": Mean((weights * cross_entropy).sum().detach(), weights.sum()),
        }
        if self.options.vocabulary == "uld":
            metrics["aligned"] = Mean((weights * known).sum(), weights.sum())
        return LossOut(total, metrics)

    @property
    def _sft_weight(self) -> float:
        if self.options.sft_weight == "auto":
            return ULD_SFT_WEIGHT if self.options.vocabulary == "uld" else 0.0
        return float(self.options.sft_weight)

    def _parts(self, batch: Batch, logits: Tensor, rows: Tensor) -> Tensor:
        """Distance, cross-entropy, and 1 where there was a teacher's token to compare with: (n, 3)."""
        assert self.teacher is not None, "with_teacher() first"
        said = self.teacher.distribution(batch, rows)
        student = (logits[:, : self.size] / self.options.temperature).log_softmax(-1)
        cross_entropy = F.cross_entropy(logits, batch.targets.ids[rows], reduction="none")
        if self.options.vocabulary == "uld":
            assert isinstance(said, TopK)
            distance, known = _by_rank(said, student)
        else:
            distance, known = self._by_token(said, student), torch.ones_like(cross_entropy)
        scale = self.options.temperature ** POWER[self._name]
        return torch.stack([scale * distance, cross_entropy, known], dim=-1)

    @property
    def _name(self) -> str:
        return "uld" if self.options.vocabulary == "uld" else str(self.options.divergence)

    def _by_token(self, said: Tensor | TopK, student: Tensor) -> Tensor:
        p, q = matched(said, student) if isinstance(said, TopK) else (said, student)
        if self._name == "js":
            return DIVERGENCES["js"](p, q, self.options.js_weight)
        return DIVERGENCES[self._name](p, q)


def _by_rank(said: TopK, student: Tensor) -> tuple[Tensor, Tensor]:
    """Distance by rank and whether it is known; where it is not, it is 0 and has no gradient. (n,) each."""
    known = torch.nonzero(~said.rest.isnan())[:, 0]
    teacher = TopK(said.logprobs[known], said.rest[known], None)
    found = DIVERGENCES["uld"](*ranked(teacher, student[known]))
    zeros = torch.zeros_like(said.rest)
    return zeros.index_put((known,), found), zeros.index_fill(0, known, 1.0)
