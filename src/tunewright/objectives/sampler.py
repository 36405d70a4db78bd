"""What writes the answers that a policy learns from.

Every sampler continues prompts of token ids and says, for each token, how likely the model that wrote it
thought it. A dialogue with tools is many such continuations, see ``objectives.dialogue``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from torch import nn

from tunewright.core.errors import ConfigError
from tunewright.core.records import Message
from tunewright.models.generate import AtOnce, Generated, Sampling, generate


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer.

    ``ids`` end with the stop token where the model ended the answer itself (``finished``). ``logprobs`` are
    those of the model that wrote it at temperature 1, one per id, or ``None`` where it cannot tell.
    ``weights`` are 1 for what the model wrote and 0 for what others put between. ``text`` is what rewards
    see: the answer, or the last one of a dialogue, whose ``turns`` stand between the prompt and that answer.
    """

    ids: list[int]
    logprobs: list[float] | None
    weights: list[float]
    finished: bool
    text: str
    turns: tuple[Message, ...] = ()


class Sampler(Protocol):
    """Writes answers."""

    def sample(self, prompts: Sequence[Sequence[int]], group: int, seed: int) -> list[list[Sampled]]:
        """``group`` answers to each prompt, in order; the same for the same arguments and weights."""
        ...


Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class TransformersSampler:
    """The model in training itself: finished rows leave the batch, and a group shares its prompt's pass."""

    model: nn.Module
    sampling: Sampling
    decode: Decode
    batch_size: AtOnce = "auto"
    on_progress: Callable[[int, int], None] | None = None  # of each call, see ``generate``

    def sample(self, prompts: Sequence[Sequence[int]], group: int, seed: int) -> list[list[Sampled]]:
        """See ``Sampler``. Raises ``ModelError`` for a prompt that the model has no room for."""
        rows = [prompt for prompt in prompts for _ in range(group)]
        found = generate(
            self.model,
            rows,
            replace(self.sampling, seed=seed),
            batch_size=self.batch_size,
            on_progress=self.on_progress,
        )
        answers = [self._answer(generated) for generated in found]
        return [answers[start : start + group] for start in range(0, len(answers), group)]

    def _answer(self, found: Generated) -> Sampled:
        ids, logprobs = list(found.ids), list(found.logprobs)
        if found.stop is not None:
            ids.append(found.stop[0])
            logprobs.append(found.stop[1])
        return Sampled(ids, logprobs, [1.0] * len(ids), found.finished, self.decode(found.ids))


def split_stop(ids: Sequence[int], stop_ids: frozenset[int]) -> tuple[list[int], bool]:
    """The answer without the stop token at its end, and whether there is one."""
    stopped = bool(ids) and ids[-1] in stop_ids
    return list(ids[:-1] if stopped else ids), stopped


def need_vllm() -> None:
    """Raise ``ConfigError`` where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "objective.rollout.sampler.kind 'vllm' needs the extra: pip install 'tunewright[vllm]'"
        )


class VllmSampler:
    """The engine vLLM (0.11 or later) on the same machine; it gets the adapter anew for every roll-out.

    This class has never been run where it was written, because the engine needs a GPU. What it relies on:
    ``LLM(model=, enable_lora=, max_lora_rank=, seed=)``; ``LLM.generate(prompts, sampling_params,
    lora_request=)`` with prompts ``{"prompt_token_ids": …}``; outputs whose ``token_ids`` end with the stop
    token; and log-probabilities before the temperature is applied (``logprobs_mode`` "raw_logprobs", the
    default). ``save`` writes the adapter, as PEFT does, to the folder it is given.
    """

    def __init__(
        self, model: str, rank: int, save: Callable[[Path], None], sampling: Sampling, decode: Decode
    ) -> None:
        """Raises ``ConfigError`` where vLLM is not installed."""
        need_vllm()
        self._vllm: Any = importlib.import_module("vllm")
        self._request: Any = importlib.import_module("vllm.lora.request").LoRARequest
        self._engine = self._vllm.LLM(model=model, enable_lora=True, max_lora_rank=rank, seed=0)
        self._save, self._sampling, self._decode = save, sampling, decode
        self._versions = count(1)

    def sample(self, prompts: Sequence[Sequence[int]], group: int, seed: int) -> list[list[Sampled]]:
        """See ``Sampler``; the weights are those of the adapter now."""
        with TemporaryDirectory(prefix="tunewright-") as folder:
            self._save(Path(folder))
            version = next(self._versions)  # an adapter is known by its number, and never read twice
            outputs = self._engine.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                self._vllm.SamplingParams(
                    n=group,
                    temperature=self._sampling.temperature,
                    max_tokens=self._sampling.max_new_tokens,
                    stop_token_ids=sorted(self._sampling.stop_ids),
                    seed=seed % 2**31,
                    logprobs=0,
                ),
                lora_request=self._request(f"policy-{version}", version, folder),
            )
        return [[self._answer(found) for found in output.outputs] for output in outputs]

    def _answer(self, found: Any) -> Sampled:
        ids = [int(token) for token in found.token_ids]
        logprobs = [float(at[token].logprob) for token, at in zip(ids, found.logprobs, strict=True)]
        body, stopped = split_stop(ids, self._sampling.stop_ids)
        return Sampled(ids, logprobs, [1.0] * len(ids), stopped, self._decode(body))
