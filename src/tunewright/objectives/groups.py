"""The answers of a roll-out as sequences: prompts with branches, and the numbers beside their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tunewright.core.records import Tokens
from tunewright.objectives.advantages import equal_groups
from tunewright.objectives.credit import Credited, Measured
from tunewright.objectives.sampler import Sampled


class Group(NamedTuple):
    """The answers to one row, their rewards, and each reward by itself."""

    row: int
    answers: list[Sampled]
    rewards: list[float]
    parts: dict[str, list[float]]


def sequences_of(
    groups: Sequence[Group], prompts: Mapping[int, Tokens], limit: int
) -> tuple[list[int], list[Tokens]]:
    """The row of each sequence, and the sequence: a prompt with its answers as branches.

    A group that is longer than ``limit`` tokens is divided, with the prompt before each part.
    """
    owners: list[int] = []
    sequences: list[Tokens] = []
    for group in groups:
        prompt = prompts[group.row]
        branches = [Tokens(a.ids, a.weights, meta=prompt.meta) for a in group.answers]
        for part in divided(len(prompt.ids), branches, limit):
            owners.append(group.row)
            sequences.append(replace(prompt, branches=tuple(part)))
    return owners, sequences


def is_constant(group: Group) -> bool:
    """Whether all answers have the same reward."""
    return bool(equal_groups(torch.tensor([group.rewards]))[0])


def divided(prompt: int, branches: Sequence[Tokens], limit: int) -> list[list[Tokens]]:
    """``branches`` in order, in parts that fit ``limit`` together with their prompt; at least one in each."""
    parts: list[list[Tokens]] = []
    used = limit
    for branch in branches:
        if not parts or used + len(branch.ids) > limit:
            parts.append([])
            used = prompt
        parts[-1].append(branch)
        used += len(branch.ids)
    return parts


def weighted(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """``values`` where the weight is not 0."""
    return [value for value, weight in zip(values, weights, strict=True) if weight]


def marked(sequences: Sequence[Tokens], measured: Measured, found: Credited, rewards: Tensor) -> list[Tokens]:
    """``sequences`` whose branches carry what is known of each token and answer; ``rewards`` (S,)."""
    known = {"sampled": measured.sampled, "old": measured.old, "reference": measured.reference}
    tracks = {**{name: values for name, values in known.items() if values is not None}, **found.tracks}
    extras = {"reward": rewards, **({} if found.advantages is None else {"advantage": found.advantages})}
    streams = {name: iter(values.tolist()) for name, values in tracks.items()}
    singles = {name: iter(values.tolist()) for name, values in extras.items()}

    def branch(tokens: Tokens) -> Tokens:
        own = {name: [next(s) if w else 0.0 for w in tokens.weights] for name, s in streams.items()}
        return replace(tokens, tracks=own, extras={name: next(s) for name, s in singles.items()})

    return [replace(tokens, branches=tuple(branch(b) for b in tokens.branches)) for tokens in sequences]


def metrics_of(groups: Sequence[Group], measured: Measured) -> dict[str, float]:
    """Means over the answers as they were first sampled; ``kl_reference`` in nats per answer."""
    answers = [answer for group in groups for answer in group.answers]
    metrics = {"reward": _mean([r for group in groups for r in group.rewards])}
    for name in groups[0].parts:
        metrics[f"reward:{name}"] = _mean([r for group in groups for r in group.parts[name]])
    metrics["answer_tokens"] = _mean([sum(w != 0 for w in answer.weights) for answer in answers])
    metrics["finished"] = _mean([answer.finished for answer in answers])
    if len(groups[0].answers) > 1:
        metrics["constant_groups"] = _mean([is_constant(group) for group in groups])
    if measured.divergence is not None:
        metrics["kl_reference"] = float(measured.divergence.mean())
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def stored(row: int, tokens: Tokens) -> dict[str, Any]:
    """A sequence as plain JSON values; its prompt is that of the row."""
    names = ("ids", "weights", "extras", "tracks")
    return {"row": row, "branches": [{name: getattr(b, name) for name in names} for b in tokens.branches]}


def restored(prompt: Tokens, facts: dict[str, Any]) -> Tokens:
    """The inverse of ``stored``."""
    return replace(prompt, branches=tuple(Tokens(**branch, meta=prompt.meta) for branch in facts["branches"]))
