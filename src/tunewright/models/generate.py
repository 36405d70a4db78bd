"""Text generation for evaluation, chat and roll-outs: exact, batched, and without repeated work.

    >>> stop = Sampling(max_new_tokens=64, stop_ids=frozenset({tokenizer.eos_token_id}))  # doctest: +SKIP
    >>> outputs = generate(model, prompts, stop, decode=tokenizer.decode)  # doctest: +SKIP

Rows that finish leave the batch and waiting prompts join it; what all prompts begin with is computed once,
and so is a prompt that occurs several times (a group of samples). No result depends on which rows shared a
batch, rounding apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from tunewright.core.errors import ConfigError
from tunewright.models.decoding import Batcher, Row
from tunewright.models.sampling import Sampling
from tunewright.models.textstream import Decode
from tunewright.models.width import AtOnce

__all__ = ["AtOnce", "Generated", "Sampling", "generate", "stream"]


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote after one prompt.

    ``ids`` leave out the stop id that ended them; ``stop`` is that id with its log-probability (a policy is
    trained on it too). ``logprobs`` are the model's own: temperature 1, before top-k and top-p. ``finished``
    is False where ``max_new_tokens`` (or the model's positions) ran out. ``text`` (with ``decode`` only) ends
    before the first stop string, while ``ids`` run to the token that completes it.
    """

    ids: list[int]
    logprobs: list[float]
    finished: bool
    stop: tuple[int, float] | None = None
    text: str | None = None


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: AtOnce = "auto",
    decode: Decode | None = None,
    adapters: Sequence[str | None] | None = None,
    on_token: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Continue each prompt (token ids); results in the order of ``prompts``.

    ``batch_size`` rows are under way at once; ``auto`` takes as many as pay and as memory allows.
    ``decode`` (ids -> text) is needed for stop strings. ``adapters`` names the LoRA adapter of each prompt,
    None for the base, where a PEFT model has several; see ``models.adapters``. ``on_token(row, id)`` hears
    every token but stop ids, ``on_progress(rows finished, rows)`` every finished row. Raises ``ConfigError``
    for unusable arguments, and ``ModelError`` for a prompt the model cannot take or logits that are not
    finite.
    """
    if batch_size != "auto" and batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; use auto, or at least 1")
    if sampling.stop_strings and decode is None:
        raise ConfigError("stop_strings are found in the text: pass decode=tokenizer.decode as well")
    watch = decode if sampling.stop_strings else None
    rows = [
        Row(index, prompt, sampling, watch, adapters[index] if adapters else None)
        for index, prompt in enumerate(prompts)
    ]
    finished = 0
    for row in Batcher(model, rows, sampling).run(batch_size):
        if on_token is not None and row.stop is None:
            on_token(row.index, row.ids[-1])
        finished += row.done
        if on_progress is not None and row.done:
            on_progress(finished, len(rows))
    return [_result(row, decode) for row in rows]


def stream(model: nn.Module, prompt: Sequence[int], sampling: Sampling, decode: Decode) -> Iterator[str]:
    """The text ``generate`` gives for one prompt, in pieces: whole characters, nothing of a stop string."""
    row = Row(0, prompt, sampling, decode)
    for _ in Batcher(model, [row], sampling, alone=False).run(1):
        assert row.text is not None
        if piece := row.text.ready(final=row.done):
            yield piece


def _result(row: Row, decode: Decode | None) -> Generated:
    text = row.text.text if row.text else decode(row.ids) if decode else None
    return Generated(row.ids, row.logprobs, row.finished, row.stop, text)
