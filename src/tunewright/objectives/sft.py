"""Supervised fine-tuning and continued pre-training: next-token cross-entropy on weighted tokens."""

from __future__ import annotations

from tunewright.core.errors import ConfigError
from tunewright.core.records import Example, Text, Tokens, as_conversation, kind_of
from tunewright.objectives.base import Batch, Forward, LossOut, Renderer


class CrossEntropy:
    """loss = -sum_t w_t log p(x_t | x_<t) / sum_t w_t, over all sequences of the step."""

    requires: frozenset[str] = frozenset()

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum of weighted negative log-likelihoods, and the sum of weights."""
        weights = batch.targets.weights
        return LossOut(-(forward.logprobs(batch) * weights).sum(), weights.sum())


class SupervisedFineTuning(CrossEntropy):
    """Learn to write the assistant turns of conversations; a class label counts as the answer."""

    accepts = frozenset({"conversation", "labelled"})

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """One sequence, or one per trained turn where the chat template rewrites history."""
        conversation = as_conversation(example)
        if conversation is None:
            raise ConfigError(_wrong_kind("sft", example, "conversations and class labels"))
        return renderer.conversation(conversation)


class ContinuedPretraining(CrossEntropy):
    """Learn to continue plain documents; chunks end where the text ends."""

    accepts = frozenset({"text"})

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The document's chunks; every token but the first of each chunk is predicted."""
        if not isinstance(example, Text):
            raise ConfigError(_wrong_kind("text", example, "plain text"))
        return renderer.documents(example)


def _wrong_kind(name: str, example: Example, wanted: str) -> str:
    return f"objective {name!r} learns from {wanted}, but {example.meta.where()} is a {kind_of(example)} row"
