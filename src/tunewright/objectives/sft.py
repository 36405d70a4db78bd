"""Supervised fine-tuning and continued pre-training: next-token cross-entropy on weighted tokens."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.core.errors import ConfigError
from tunewright.core.records import Conversation, Example, Tokens, as_conversation
from tunewright.objectives.base import BaseObjective, Batch, Forward, LossOut, Renderer


class CrossEntropy(BaseObjective):
    """loss = -sum_t w_t log p(x_t | x_<t) / sum_t w_t, over all sequences of the step."""

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum of weighted negative log-likelihoods."""
        return LossOut(-(forward.logprobs(batch) * batch.targets.weights).sum())


class SupervisedFineTuning(CrossEntropy):
    """Learn to write the assistant turns of conversations; a class label counts as the answer."""

    accepts = frozenset({"conversation", "labelled"})

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """One sequence, or one per trained turn where the chat template rewrites history."""
        return renderer.conversation(self._written(example))

    def encode_all(self, examples: Sequence[Example], renderer: Renderer) -> list[list[Tokens]]:
        """All at once."""
        return renderer.conversations([self._written(example) for example in examples])

    def _written(self, example: Example) -> Conversation:
        self.check_kind(example)
        conversation = as_conversation(example)
        if conversation is None:
            raise ConfigError(
                f"objective {self.name!r} learns to write answers, but the label of {example.meta.where()}"
                " is no text; use classify, regress or kto"
            )
        return conversation


class ContinuedPretraining(CrossEntropy):
    """Learn to continue plain documents; chunks end where the text ends."""

    accepts = frozenset({"text"})

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The document's chunks; every token but the first of each chunk is predicted."""
        self.check_kind(example)
        return renderer.documents(example)
