"""The scores that a trained reward model gives to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from tunewright.adapt.fused import fuse
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import digest
from tunewright.core.records import Conversation, Message, Ranking, Tokens
from tunewright.data.render import Renderer
from tunewright.engine.batch import packed
from tunewright.models.forward import ModelForward
from tunewright.models.load import Loaded, load
from tunewright.models.score import heads_of
from tunewright.run.compose import context_of


def load_scorer(path: str, *, device: str, dtype: str) -> Loaded:
    """The reward model at ``path``; raises ``ConfigError`` if it has no head that gives one reward."""
    loaded = load(path, device=device, dtype=dtype)
    check_scorer(loaded)
    if loaded.ref.adapter is not None:
        fuse(loaded.model)  # the same arithmetic as in training
    return loaded


def check_scorer(loaded: Loaded) -> None:
    """Raise ``ConfigError`` for a model that gives no rewards: one without a head, or a classifier."""
    head = heads_of(loaded.model).get("score")
    if head is None or head.weight.shape[0] != 1 or head.facts.get("task") != "reward":
        has = "no score head" if head is None else f"a head for {head.facts.get('task', 'something else')}"
        raise ConfigError(
            f"{loaded.ref.name} is no reward model: it has {has}; train one with objective reward, and name"
            " its run"
        )


def score_answers(
    loaded: Loaded, prompts: Sequence[Sequence[Message]], answers: Sequence[str], micro_tokens: int = 2048
) -> list[float]:
    """The reward of each answer to its prompt, all read with the reward model's own tokenizer and template.

    An answer is read as if it had ended where it does, so one that was cut off is judged as it stands.
    Raises ``ConfigError`` for a model that is no reward model.
    """
    check_scorer(loaded)
    renderer = Renderer(loaded.tokenizer, max_length=context_of(loaded))
    chats = [
        Conversation((*prompt, Message("assistant", answer)))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return score_texts(loaded, renderer, chats, micro_tokens)


def score_texts(
    loaded: Loaded, renderer: Renderer, conversations: Sequence[Conversation], micro_tokens: int = 2048
) -> list[float]:
    """The reward of the last turn of each conversation, read exactly as in the training of the model.

    A prompt that several have in common is computed once for as many as fit into ``micro_tokens``.
    ``renderer`` is one for the reward model's own tokenizer. Raises ``RenderError`` for a conversation that
    does not end in an assistant turn, and ``DataError`` for a prompt that leaves no room for an answer.
    """
    groups: dict[str, list[int]] = {}
    for i, chat in enumerate(conversations):
        groups.setdefault(digest([chat.messages[:-1], chat.tools]), []).append(i)
    owners: list[list[int]] = []
    sequences: list[Tokens] = []
    for indices in groups.values():
        for tokens, answered in _read(renderer, [conversations[i] for i in indices]):
            for start, end in _pieces(tokens, micro_tokens):
                owners.append([indices[k] for k in answered[start:end]])
                sequences.append(replace(tokens, branches=tokens.branches[start:end]))
    forward = ModelForward(loaded.model, compute=loaded.precision.dtype)
    found = branch_scores(sequences, forward, micro_tokens)
    scores = dict(
        pair for owner, row in zip(owners, found, strict=True) for pair in zip(owner, row, strict=True)
    )
    return [scores[i] for i in range(len(conversations))]


def branch_scores(
    sequences: Sequence[Tokens],
    forward: ModelForward,
    micro_tokens: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[list[float]]:
    """What the head ``score`` gives to every branch of each sequence."""
    found: list[list[float]] = [[] for _ in sequences]
    done = 0
    forward.model.eval()
    with torch.inference_mode():
        for batch in packed(sequences, micro_tokens, forward.device):
            scores = iter(forward.scores(batch)[:, 0].tolist())
            for i in batch.rows:
                next(scores)  # that of the prompt itself
                found[i] = [next(scores) for _ in sequences[i].branches]
            done += len(batch.rows)
            on_progress(done)
    return found


def _read(renderer: Renderer, chats: Sequence[Conversation]) -> list[tuple[Tokens, list[int]]]:
    """Answers to one prompt as its branches, and which they are; each by itself where they do not fit so."""
    together = _branches(renderer, chats)
    if together:
        return [(together[0], list(range(len(chats))))]
    if len(chats) == 1:
        raise DataError(
            f"{chats[0].meta.where()}: the prompt leaves no room for an answer in the {renderer.max_length}"
            " tokens that the reward model can read; shorten it"
        )
    return [(tokens, [i]) for i, chat in enumerate(chats) for tokens, _ in _read(renderer, [chat])]


def _branches(renderer: Renderer, chats: Sequence[Conversation]) -> list[Tokens]:
    first = chats[0]
    answers = tuple(chat.messages[-1:] for chat in chats)
    return renderer.branches(
        Ranking(first.messages[:-1], answers, (0.0,) * len(chats), first.meta, first.tools)
    )


def _pieces(tokens: Tokens, micro_tokens: int) -> list[tuple[int, int]]:
    """Stretches of branches that fit into ``micro_tokens`` together with the prompt; at least one in each."""
    found, start, size = [], 0, len(tokens.ids)
    for i, branch in enumerate(tokens.branches):
        if i > start and size + len(branch.ids) > micro_tokens:
            found.append((start, i))
            start, size = i, len(tokens.ids)
        size += len(branch.ids)
    return [*found, (start, len(tokens.branches))]
