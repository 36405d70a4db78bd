"""Roll-outs: where the sequences of an update come from when the model writes them itself.

On the first update of a group of rows the model writes answers, rewards score them, and the objective says
what each is worth; further updates see the same answers. All is a pure function of (seed, step), the weights
and the state, so a resumed run goes on to the same bits, also between two updates on the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.core import events
from tunewright.core.errors import TrainError
from tunewright.core.hashing import seed_from
from tunewright.core.records import Tokens
from tunewright.models.runner import evaluating
from tunewright.objectives.base import Batch, Drawn, Forward
from tunewright.objectives.credit import Measured, credit, drops_equal, first_kl_weight, needs_old
from tunewright.objectives.dialogue import Ask, Question, shown_to_rewards
from tunewright.objectives.groups import (
    Group,
    is_constant,
    marked,
    metrics_of,
    restored,
    sequences_of,
    stored,
    weighted,
)
from tunewright.objectives.policy import PolicyObjective
from tunewright.objectives.rewards import RewardSet

TRIES = 3  # roll-outs of a prompt, in all, before a group of equal rewards is left out
MANY = 0.5  # share of groups with equal rewards that is worth a warning


@dataclass(frozen=True)
class Means:
    """What a roll-out works with.

    ``ask`` writes the answers. ``batches`` packs sequences within memory, the indices of them in ``rows``; a
    group longer than ``micro_tokens`` is divided, its prompt repeated. ``reference`` gives log p of the
    targets of a batch, (N,), under the untouched model, where the objective requires it.
    """

    ask: Ask
    rewards: RewardSet
    model: nn.Module
    forward: Forward
    batches: Callable[[Sequence[Tokens]], Sequence[Batch]]
    micro_tokens: int
    reference: Callable[[Batch], Tensor] | None = None


class Rollouts:
    """Implements ``objectives.base.Source`` for objectives that learn from sampled answers.

    A group of equal rewards teaches nothing. It is reported, and where the objective leaves such groups out
    its prompt is first sampled again, up to ``TRIES`` times in all; a step of which nothing is left changes
    no weight.
    """

    def __init__(
        self,
        objective: PolicyObjective,
        questions: Sequence[tuple[Tokens, Question]],
        means: Means,
        seed: int,
        observe: events.Observer = events.silent,
    ) -> None:
        self.objective, self.questions, self.means = objective, questions, means
        self.seed, self.observe = seed, observe
        self.updates = objective.updates
        self.sizes: Sequence[int] = [1] * len(questions)  # an update counts prompts
        self._kl_weight = first_kl_weight(objective)
        self._step = 0
        self._drawn: list[Tokens] = []
        self._rows: list[int] = []  # of each drawn sequence
        self._said: list[str] = []  # warnings given once

    def rows(self, epoch: int) -> Sequence[int]:
        """Every prompt once."""
        return range(len(self.questions))

    def draw(self, step: int, rows: Sequence[int]) -> Drawn:
        """Prompts with their answers as branches; sampled at the first of ``updates`` steps."""
        self._step = step
        if (step - 1) % self.updates:
            assert set(self._rows) <= set(rows), f"step {step} continues the roll-out of other rows"
            return Drawn(self._drawn, {})
        with evaluating(self.means.model), torch.no_grad():
            return self._rolled(rows)

    def state(self) -> dict[str, Any]:
        """The weight of the divergence, and the answers if a further update will see them."""
        again = self._step % self.updates != 0
        drawn = [stored(row, t) for row, t in zip(self._rows, self._drawn, strict=True)] if again else []
        return {"step": self._step, "kl_weight": self._kl_weight, "said": self._said, "drawn": drawn}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""
        self._step, self._kl_weight = state["step"], state["kl_weight"]
        self._said = list(state["said"])
        self._rows = [kept["row"] for kept in state["drawn"]]
        self._drawn = [restored(self.questions[kept["row"]][0], kept) for kept in state["drawn"]]

    def _rolled(self, rows: Sequence[int]) -> Drawn:
        first = self._answered(rows, seed_from(self.seed, "rollout", self._step))
        groups = self._filtered(first)
        self._report_constant(first)
        prompts = {group.row: self.questions[group.row][0] for group in groups}
        owners, sequences = sequences_of(groups, prompts, self.means.micro_tokens)
        measured = self._measured(groups, sequences)
        rewards = torch.tensor([group.rewards for group in groups])
        found = credit(self.objective, rewards, measured, self._kl_weight)
        metrics = {**metrics_of(first, measured), **found.metrics}
        self._kl_weight = found.kl_weight
        done = marked(sequences, measured, found, rewards.flatten())
        kept = {group.row for group, keep in zip(groups, found.kept, strict=True) if keep}
        pairs = [(row, tokens) for row, tokens in zip(owners, done, strict=True) if row in kept]
        self._rows, self._drawn = [row for row, _ in pairs], [tokens for _, tokens in pairs]
        if drops_equal(self.objective):
            metrics["left_out"] = 1 - len(kept) / len(groups)
        return Drawn(self._drawn, metrics)

    def _answered(self, rows: Sequence[int], seed: int) -> list[Group]:
        """Answers and rewards. Raises ``TrainError`` for an answer without a token."""
        asked = [self.questions[row][1] for row in rows]
        size = self.objective.options.rollout.group
        sampled = self.means.ask(asked, size, seed)
        for question, answers in zip(asked, sampled, strict=True):
            if not all(any(answer.weights) for answer in answers):
                raise TrainError(
                    f"{question.prompt.meta.where()}: the sampler returned an answer without any token"
                )
        flat = [answer for answers in sampled for answer in answers]
        shown = [
            shown_to_rewards(question.prompt, answer.turns)
            for question, answers in zip(asked, sampled, strict=True)
            for answer in answers
        ]
        scored = self.means.rewards.score(
            [prompt for prompt, _ in shown], [a.text for a in flat], [example for _, example in shown]
        )
        if scored.errors:
            self._say(
                "failed", f"{scored.failed} of {len(flat)} rewards failed and count as 0: {scored.errors[0]}"
            )
        return [
            Group(
                row,
                answers,
                scored.total[i * size : (i + 1) * size],
                {name: values[i * size : (i + 1) * size] for name, values in scored.parts.items()},
            )
            for i, (row, answers) in enumerate(zip(rows, sampled, strict=True))
        ]

    def _filtered(self, groups: list[Group]) -> list[Group]:
        """``groups``, where equal rewards are left out with those sampled again, until they differ."""
        groups = list(groups)
        for attempt in range(1, TRIES if drops_equal(self.objective) else 1):
            equal = [i for i, group in enumerate(groups) if is_constant(group)]
            if not equal:
                break
            seed = seed_from(self.seed, "rollout", self._step, "again", attempt)
            fresh = self._answered([groups[i].row for i in equal], seed)
            for i, group in zip(equal, fresh, strict=True):
                groups[i] = group
        return groups

    def _measured(self, groups: Sequence[Group], sequences: Sequence[Tokens]) -> Measured:
        answers = [answer for group in groups for answer in group.answers]
        lengths = [sum(w != 0 for w in answer.weights) for answer in answers]
        untold = any(answer.logprobs is None for answer in answers)
        old = values = reference = None
        if untold or needs_old(self.objective):
            found = self._over(sequences, self._policy)
            old, values = found[0], (found[1] if len(found) > 1 else None)
        if "reference" in self.objective.requires:
            assert self.means.reference is not None, "the objective requires a reference"
            [reference] = self._over(sequences, lambda batch: [self._referred(batch)])
        if untold:
            assert old is not None
            sampled = old
        else:
            sampled = torch.tensor([x for a in answers for x in weighted(a.logprobs or [], a.weights)])
        return Measured(lengths, sampled, old, reference, values)

    def _policy(self, batch: Batch) -> list[Tensor]:
        """Log-probabilities of the targets under the model now, and their values where it has them."""
        forward = self.means.forward
        if not self.objective.heads:
            return [forward.logprobs(batch)]
        hidden = forward.hidden(batch)
        return [forward.logprobs(batch, hidden), forward.values(batch, hidden)]

    def _referred(self, batch: Batch) -> Tensor:
        assert self.means.reference is not None
        return self.means.reference(batch)

    def _over(self, sequences: Sequence[Tokens], numbers: Callable[[Batch], list[Tensor]]) -> list[Tensor]:
        """``numbers`` of every batch, each (N,) over all targets in the order of ``sequences``."""
        parts: dict[int, list[Tensor]] = {}
        for batch in self.means.batches(sequences):
            sizes = [sequences[row].trained for row in batch.rows]
            pieces = [values.float().cpu().split(sizes) for values in numbers(batch)]
            parts |= {row: [piece[i] for piece in pieces] for i, row in enumerate(batch.rows)}
        return [torch.cat(column) for column in zip(*(parts[i] for i in range(len(sequences))), strict=True)]

    def _report_constant(self, groups: Sequence[Group]) -> None:
        equal = sum(is_constant(group) for group in groups)
        if self.objective.options.rollout.group > 1 and equal > MANY * len(groups):
            self._say(
                "constant",
                f"in {equal} of {len(groups)} groups of this step all answers got the same reward, which"
                " teaches nothing; easier or harder prompts, a finer reward, or larger groups would help",
            )

    def _say(self, topic: str, message: str) -> None:
        """A warning, once in the run."""
        if topic not in self._said:
            self._said = [*self._said, topic]
            self.observe(events.Warned(self._step, message))
