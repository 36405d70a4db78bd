"""Policy optimisation from groups of sampled answers: GRPO and its family, without a value model.

The objective never samples. A roll-out asks it for the prompt of a row (``encode``, ``asked``), writes
answers, has them scored, and asks ``credit`` for their advantages; training then sees prompts with answers as
branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from tunewright.core.config import Section
from tunewright.core.errors import ConfigError
from tunewright.core.records import Conversation, Example, Prompt, Tokens
from tunewright.objectives.advantages import equal_groups, k3, overlong_penalty
from tunewright.objectives.base import (
    BaseObjective,
    Batch,
    Forward,
    Judged,
    LossOut,
    Mean,
    Renderer,
    segment_lengths,
)
from tunewright.objectives.options.policy import DEFAULTS
from tunewright.objectives.policy_losses import POLICY_LOSSES, Answers, Clip, importance, out_of_range


def asked(example: Example) -> Prompt:
    """A row as a question for the policy: of a conversation, all before its last assistant turn.

    That turn's text becomes ``fields["answer"]``, for rewards that compare. Raises ``ConfigError`` for a row
    without an assistant turn or with nothing before it.
    """
    if isinstance(example, Prompt):
        return example
    assert isinstance(example, Conversation), "rows of other kinds are refused by check_kind"
    turns = [i for i, message in enumerate(example.messages) if message.role == "assistant"]
    if not turns or turns[-1] == 0:
        what = "starts with its only" if turns else "has no"
        raise ConfigError(
            f"{example.meta.where()} {what} assistant turn: a question and a reference answer are needed, or"
            " a prompt row without one"
        )
    fields = {"answer": example.messages[turns[-1]].content}
    return Prompt(example.messages[: turns[-1]], fields, example.meta, example.tools)


class PolicyObjective(BaseObjective):
    """What all policy objectives share: they learn from prompts, and need roll-outs."""

    accepts = frozenset({"prompt", "conversation"})
    judged: Judged = "rewards"
    rate = 0.25  # most of a gradient from rewards is noise

    def __init__(self, name: str, options: Section, kl: float) -> None:
        super().__init__(name, options)
        self.rows_per_step = self.options.rollout.prompts
        self.updates = self.options.rollout.updates
        self.requires = frozenset({"rollouts", "reference"} if kl > 0 else {"rollouts"})

    def fitted(self, train: Sequence[Example]) -> Self:
        """The objective itself. Raises ``ConfigError`` where no reward is named."""
        if not self.options.rewards:
            raise ConfigError(
                f"objective {self.name!r} learns from rewards, but objective.rewards names none; for example"
                " objective.rewards=[exact_match]"
            )
        return self

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The prompt, all weights 0; a roll-out adds the answers as branches.

        Raises ``ConfigError`` for a prompt longer than ``max_length``: cut, it would ask something else.
        """
        self.check_kind(example)
        prompt = asked(example)
        ids = renderer.prompt(prompt.messages, prompt.tools)
        kept = renderer.limited(Tokens(ids, [0.0] * len(ids), meta=example.meta))
        if kept and len(kept[0].ids) < len(ids):
            raise ConfigError(
                f"the prompt of {example.meta.where()} has {len(ids)} tokens, and only {len(kept[0].ids)} fit"
                " data.max_length; raise it, or leave such rows out with data.over_long=drop"
            )
        return kept


class GroupPolicy(PolicyObjective):
    """One row of ``POLICY_LOSSES``; the answers to a prompt are compared with each other.

    A batch holds ``extras["advantage"]`` per answer and may hold, per sampled token, ``tracks`` "old" (needed
    from the second update on), "sampled" (needed unless ``importance_cap`` is 0) and "reference" (needed
    where ``kl`` > 0 and the method counts the divergence in the loss).
    """

    def __init__(self, name: str, options: Section) -> None:
        """Raises ``ConfigError`` for groups of one answer where the method compares answers."""
        super().__init__(name, options, options.kl)  # type: ignore[attr-defined]
        self.rule, defaults = POLICY_LOSSES[name], DEFAULTS[name]
        clip, rollout = self.options.clip, self.options.rollout
        self.clip = Clip(_or(clip.low, defaults.low), _or(clip.high, defaults.high))
        self.overlong = _or(self.options.overlong, defaults.overlong)
        self.drops_equal = _or(rollout.equal, defaults.equal) == "drop"
        self.rule.advantages(torch.zeros(2, rollout.group))  # refuses a group it cannot compare

    @property
    def kl_in_reward(self) -> bool:
        """Whether the divergence from the reference is taken off the rewards, and not added to the loss."""
        return self.options.kl > 0 and self.rule.divergence is None

    def credit(self, rewards: Tensor, lengths: Tensor, divergence: Tensor | None = None) -> GroupCredit:
        """Advantages of a whole roll-out; ``rewards`` and ``lengths`` (in tokens) are (P, G).

        ``divergence`` (P, G), needed where ``kl_in_reward``, is the sum of log p - log p_reference over each
        answer. The statistics of a method that compares over the roll-out leave dropped groups out.
        """
        assert (divergence is not None) == self.kl_in_reward, (
            "divergence is given where, and only where, used"
        )
        limit = self.options.rollout.most_tokens
        shaped = rewards + overlong_penalty(lengths, limit, self.overlong)
        if divergence is not None:
            shaped = shaped - self.options.kl * divergence
        kept = (
            ~equal_groups(rewards) if self.drops_equal else torch.ones_like(rewards[:, 0], dtype=torch.bool)
        )
        advantages = torch.zeros_like(shaped)
        if kept.any():
            advantages[kept] = self.rule.advantages(shaped[kept])
        return GroupCredit(advantages, kept)

    def count(self, batch: Batch) -> Tensor:
        """Tokens, or answers that have a token to learn from, as the method says."""
        if self.rule.counts == "tokens":
            return batch.targets.weights.sum()
        return (segment_lengths(batch) > 0).sum().float()

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """The policy loss summed over ``count``; the importance weight scales it, but not the divergence."""
        logprobs = forward.logprobs(batch)
        answers = answers_of(batch, logprobs, batch.extras["advantage"][batch.targets.segment])
        ratio = self.rule.ratio(answers)
        correction, metrics = corrected(answers, batch, self.options.rollout.importance_cap)
        loss = correction * self.rule.surrogate(ratio, answers, self.clip)
        if self.options.kl > 0 and self.rule.divergence is not None:
            log_ratio = logprobs - batch.tracks["reference"]
            loss = loss + self.options.kl * self.rule.divergence(log_ratio, ratio)
        share = self.rule.share(answers, self.options.rollout.most_tokens)
        metrics |= policy_metrics(answers, batch, ratio, out_of_range(ratio, answers, self.clip))
        return LossOut((loss * share).sum(), metrics)


class GroupCredit(NamedTuple):
    """Advantages (P, G), zero in the groups that are left out, and which groups are kept, (P,) bool."""

    advantages: Tensor
    kept: Tensor


def answers_of(batch: Batch, logprobs: Tensor, advantages: Tensor) -> Answers:
    """The sampled tokens of ``batch``; without ``tracks["old"]`` the policy is still that of the roll-out."""
    old = batch.tracks.get("old", logprobs.detach())
    targets = batch.targets
    return Answers(logprobs, old, advantages, targets.weights, targets.segment, len(batch.segments))


def corrected(answers: Answers, batch: Batch, cap: float) -> tuple[Tensor, dict[str, Mean]]:
    """The importance weight of each token, (N,), and how far the sampler is from the trainer.

    ``sampler_gap``: mean |log p_trainer - log p_sampler|; ``importance``: mean weight. The weights are 1
    where ``cap`` is 0; else the roll-out must have recorded the sampler's log-probabilities.
    """
    ones = torch.ones_like(answers.old)
    sampled = batch.tracks.get("sampled")
    if sampled is None:
        assert cap == 0, "an importance correction needs tracks['sampled'] from the roll-out"
        return ones, {}
    correction = importance(answers.old, sampled, cap) if cap > 0 else ones
    return correction, {
        "sampler_gap": _mean((answers.old - sampled).abs(), answers),
        "importance": _mean(correction, answers),
    }


def policy_metrics(answers: Answers, batch: Batch, ratio: Tensor, clipped: Tensor) -> dict[str, Mean]:
    """Means over the tokens of a step.

    ``ratio`` of the new probability to the old; ``clipped``: share of tokens beyond the clip range;
    ``kl_old`` and ``kl``: divergence from the policy of the roll-out and from the reference, nats per token
    (k3); ``entropy``: -log p of the sampled tokens, which has the entropy as its mean while the policy is the
    one that sampled them.
    """
    logprobs = answers.logprobs.detach()
    found = {
        "ratio": ratio.detach(),
        "clipped": clipped,
        "kl_old": k3(answers.old - logprobs),
        "entropy": -logprobs,
    }
    if "reference" in batch.tracks:
        found["kl"] = k3(logprobs - batch.tracks["reference"])
    return {name: _mean(values, answers) for name, values in found.items()}


def _mean(values: Tensor, answers: Answers) -> Mean:
    return Mean((values * answers.weights).sum(), answers.weights.sum())


def _or(value: Any, default: Any) -> Any:
    """``value``, or the method's own where it is left to it."""
    return default if value == "auto" else value
