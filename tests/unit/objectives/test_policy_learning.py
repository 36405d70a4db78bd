"""A tiny model learns to answer with an even digit, from a reward alone."""

import copy

import pytest
import torch

from tests.tiny import tiny_model
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling, generate
from tunewright.models.score import attach
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import GROUPWISE, options_of
from tunewright.objectives.ppo import Sampled

STOP, VOCABULARY, EVEN = 1, 24, [10, 12, 14, 16, 18]  # ids 10 to 19 are the digits
PROMPTS = [[3, 4, 5], [6, 7], [8], [9, 20, 21, 22]]
LONGEST = 3


class Job:
    """A model, its objective and optimizer; 20 lines of roll-out stand in for the real one."""

    def __init__(self, name, rate, **values):
        torch.manual_seed(0)
        self.model = tiny_model("llama", VOCABULARY, seed=3)
        self.reference = ModelForward(copy.deepcopy(self.model))
        rollout = {"group": 8, "max_new_tokens": LONGEST, **values.pop("rollout", {})}
        self.objective = make_objective(name, options_of(name, {"rollout": rollout, **values}))
        attach(self.model, self.objective.heads)
        self.forward = ModelForward(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.step = 0

    def chance_of_even(self):
        """The probability, averaged over the prompts, that an answer starts with an even digit."""
        with torch.no_grad():
            batch = build_batch([Tokens([*p, 0], [0.0] * len(p) + [1.0]) for p in PROMPTS])
            seen = self.forward.per_target(batch, lambda logits, _: logits.softmax(-1)[:, EVEN].sum(-1))
        return float(seen.mean())

    def sampled(self):
        """Answers with their stop, log-probabilities under the sampler and rewards; one row per answer."""
        self.step += 1
        group = self.objective.options.rollout.group
        sampling = Sampling(LONGEST, temperature=1.0, seed=self.step, stop_ids=frozenset({STOP}))
        found = generate(self.model, [p for p in PROMPTS for _ in range(group)], sampling)
        ids = [g.ids + ([g.stop[0]] if g.stop else []) for g in found]
        logprobs = [g.logprobs + ([g.stop[1]] if g.stop else []) for g in found]
        return ids, logprobs, torch.tensor([float(answer[0] in EVEN) for answer in ids])

    def rolled(self, ids, tracks, advantages=None):
        """Prompts with their answers as branches; ``tracks`` hold a list per answer."""
        branches = [
            Tokens(
                answer,
                [1.0] * len(answer),
                extras={} if advantages is None else {"advantage": advantages[i]},
                tracks={name: values[i] for name, values in tracks.items()},
            )
            for i, answer in enumerate(ids)
        ]
        group = len(ids) // len(PROMPTS)
        return [
            Tokens(p, [0.0] * len(p), branches=tuple(branches[i * group : (i + 1) * group]))
            for i, p in enumerate(PROMPTS)
        ]

    def train(self, sequences):
        """One update, in two micro-batches."""
        batches = [build_batch(sequences[:1]), build_batch(sequences[1:])]
        count = sum(float(self.objective.count(batch)) for batch in batches)
        for batch in batches:
            (self.objective.loss(self.forward, batch).total / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("name", GROUPWISE)
def test_a_group_method_learns_even_digits(name):
    job = Job(name, 5e-3, rollout={"equal": "keep"})
    assert job.chance_of_even() < 0.3
    while job.chance_of_even() < 0.9 and job.step < 40:
        ids, logprobs, rewards = job.sampled()
        lengths = torch.tensor([len(answer) for answer in ids])
        credit = job.objective.credit(rewards.view(4, 8), lengths.view(4, 8))
        job.train(job.rolled(ids, {"sampled": logprobs}, credit.advantages.flatten().tolist()))
    assert job.chance_of_even() > 0.9


def test_ppo_learns_even_digits_and_brings_the_divergence_to_its_target():
    """The first weight is far too large: it must come down for the policy to move as far as it may."""
    target, weight, divergences = 2.5, 0.5, []
    kl = {"weight": weight, "target": target, "horizon": 64}
    job = Job("ppo", 5e-3, kl=kl, clip={"value": 1.0}, rollout={"updates": 2})
    assert job.chance_of_even() < 0.3
    for _ in range(40):
        ids, logprobs, rewards = job.sampled()
        batch = build_batch(job.rolled(ids, {}))
        with torch.no_grad():
            old, values = job.forward.logprobs(batch), job.forward.values(batch)
            sampled = Sampled(old, values, [len(answer) for answer in ids], job.reference.logprobs(batch))
        credit = job.objective.credit(rewards, sampled, weight)
        divergences.append(float((old - sampled.reference).sum()) / len(ids))
        weight = job.objective.next_kl(weight, divergences[-1], len(ids))
        tracks = {"old": old, "value": values, "advantage": credit.advantages, "return": credit.returns}
        split = {name: [part.tolist() for part in v.split(sampled.lengths)] for name, v in tracks.items()}
        for _ in range(job.objective.updates):
            job.train(job.rolled(ids, {**split, "sampled": logprobs}))
    assert job.chance_of_even() > 0.9
    assert weight < 0.2 and sum(divergences[-10:]) / 10 == pytest.approx(target, rel=0.3)
