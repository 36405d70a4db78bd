"""The batch behind ``generate``: prompts enter, tokens come out, finished rows leave."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache

from tunewright.core.errors import ModelError
from tunewright.models.kvcache import ROOM, behind, branched, empty_cache, joined
from tunewright.models.resting import resting
from tunewright.models.runner import Runner, evaluating
from tunewright.models.sampling import Sampling, choose, draw
from tunewright.models.textstream import Decode, TextStream
from tunewright.models.width import AtOnce, rows_at_once

SHARED_FROM = 16  # a common beginning shorter than this is not worth a pass of its own
# Columns per prompt pass: bounds its memory and, as prompts are sorted by length, its padding. A processor is
# busy with far fewer than an accelerator.
PREFILL_TOKENS = {"cpu": 1024}
PREFILL_TOKENS_ELSEWHERE = 8192
REARRANGE_AT = 4  # rows are dropped or admitted once one in so many is finished or one place in so many free


class Row:
    """One prompt on its way: what has been written after it, and whether it is done."""

    def __init__(
        self,
        index: int,
        prompt: Sequence[int],
        sampling: Sampling,
        decode: Decode | None,
        adapter: str | None = None,
    ) -> None:
        self.index = index
        self.prompt = list(prompt)
        self.adapter = adapter
        self.limit = sampling.max_new_tokens
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.stop: tuple[int, float] | None = None
        self.done = self.finished = False
        self.text = TextStream(decode, sampling.stop_strings) if decode else None
        self._stop_ids = sampling.stop_ids

    @property
    def begins(self) -> tuple[str | None, list[int]]:
        """What decides its first logits; rows that agree in it share a line at the start."""
        return self.adapter, self.prompt

    @property
    def cached(self) -> int:
        """Tokens of this row that have keys and values: all but the last one chosen."""
        return len(self.prompt) + len(self.ids) - 1

    def take(self, token: int, logprob: float) -> None:
        """Add the next token, or end at a stop id, a stop string or the limit."""
        if not math.isfinite(logprob):
            raise ModelError(
                f"the logits after prompt {self.index} and {len(self.ids)} new tokens are not finite: the "
                "weights are damaged or the precision is too low (try float32)"
            )
        if token in self._stop_ids:
            self.stop = token, logprob
        else:
            self.ids.append(token)
            self.logprobs.append(logprob)
            if self.text:
                self.text.push(token)
        ended = self.stop is not None or (self.text is not None and self.text.stopped)
        self.done = ended or len(self.ids) >= self.limit
        if self.done and self.text:
            self.text.flush()
        self.finished = ended or (self.text is not None and self.text.stopped)


@dataclass
class Flight:
    """Rows under way together: R rows, which start from L lines of the cache (L < R where prompts are equal).

    ``mask`` (L, W) is 1 where the cache holds a token; ``last`` (R,) are tokens chosen but not yet cached;
    ``lines[i]`` is the line of ``rows[i]``.
    """

    cache: Cache
    mask: Tensor
    last: Tensor
    rows: list[Row]
    lines: list[int]


class Batcher:
    """Runs one model over the rows of one call of ``generate``; ``ModelError`` if it cannot take them.

    ``alone`` says that nobody else uses the model or changes its weights until all rows are done.
    """

    def __init__(self, model: nn.Module, rows: list[Row], sampling: Sampling, alone: bool = True) -> None:
        self._runner = Runner(model)
        self._rows = rows
        self._sampling = sampling
        for row in rows:
            row.limit = min(row.limit, self._runner.room(row.index, row.prompt))
        self._mixed = len({row.adapter for row in rows}) > 1 or any(row.adapter for row in rows)
        # Where others may use the model between two tokens, or rows differ in adapter, no weights rest.
        most = max((row.limit for row in rows), default=0)
        self._copies_for = most if alone and not self._mixed else 0
        self._prefix = self._runner.virtual  # what stands before every prompt, one line of the cache
        self._virtual = self._prefix.get_seq_length() if self._prefix else 0
        self._shared = 0  # tokens of the prompts that are part of the prefix
        self._ahead = 0  # columns of the prefix that stand ahead of all rows and are copied for none
        lengths = [self._virtual + len(row.prompt) for row in rows]
        longest = max((n + row.limit - 1 for n, row in zip(lengths, rows, strict=True)), default=0)
        self._may_share = self._runner.settle_rope(min(lengths, default=0), longest)

    def run(self, batch_size: AtOnce) -> Iterator[Row]:
        """Yield a row whenever it got a token; the longest prompts go first, so that memory peaks early."""
        waiting = deque(sorted(self._rows, key=lambda row: (-len(row.prompt), row.prompt, row.adapter or "")))
        flight: Flight | None = None
        with evaluating(self._runner.model), resting(self._runner.model, self._copies_for):
            self._extend_prefix()
            batch_size = self._width() if batch_size == "auto" else batch_size
            while waiting or flight:
                free = batch_size - sum(not row.done for row in flight.rows) if flight else batch_size
                refill = bool(waiting) and free * REARRANGE_AT >= batch_size
                if flight is None or refill or _thinned(flight):
                    parts = [flight] if flight else []
                    admitted = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                    for group in self._groups(admitted):
                        parts.append(self._started(group))
                        yield from group
                    flight = self._joined(parts)
                if flight:
                    yield from self._advance(flight)

    def _width(self) -> int:
        """How many rows to have under way, by what the longest holds for itself."""
        columns = max((len(row.prompt) + row.limit for row in self._rows), default=1)
        columns += self._virtual - self._ahead
        return rows_at_once(self._runner.model, columns)

    @torch.inference_mode()
    def _extend_prefix(self) -> None:
        """Compute what all prompts begin with, once, if there is enough of it."""
        prompts = [row.prompt for row in self._rows]
        shared = shared_length(prompts)
        if shared < SHARED_FROM or not self._may_share or self._mixed:
            return
        self._prefix, self._shared = self._prefix or empty_cache(), shared
        ids = torch.tensor([prompts[0][:shared]], device=self._runner.device)
        mask = ids.new_ones(1, self._virtual + shared)
        self._runner.logits(ids, mask, self._prefix)
        self._ahead = self._virtual + shared if self._runner.shares_ahead() else 0

    def _groups(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Cut rows, longest first, into those whose prompts are run in one pass."""
        largest = PREFILL_TOKENS.get(self._runner.device.type, PREFILL_TOKENS_ELSEWHERE)
        group: list[Row] = []
        lines = 0
        for row in rows:
            new = not group or row.begins != group[-1].begins
            if group and new:
                first = len(group[0].prompt)
                # A prompt shorter than the first repeats the end of the prefix in place of padding, and a
                # soft prompt has no ids to repeat.
                unpaddable = self._virtual and not self._ahead and first - len(row.prompt) > self._shared
                if unpaddable or (lines + 1) * (first - self._shared) > largest:
                    yield group
                    group, lines = [], 0
            group.append(row)
            lines += new
        if group:
            yield group

    @torch.inference_mode()
    def _started(self, rows: list[Row]) -> Flight:
        """Run the prompts of ``rows`` (longest first) behind the prefix, and choose their first tokens."""
        firsts = [row for i, row in enumerate(rows) if i == 0 or row.begins != rows[i - 1].begins]
        prompts, begins = [row.prompt for row in firsts], [row.begins for row in firsts]
        lines = [begins.index(row.begins) for row in rows]
        longest, device = len(prompts[0]), self._runner.device
        pads = [longest - len(prompt) for prompt in prompts]
        columns = longest - self._shared  # the last so many tokens of each prompt are fed
        shifts = torch.tensor(pads, device=device)
        if self._ahead and self._prefix:
            window = [[0] * pad + prompt[self._shared :] for pad, prompt in zip(pads, prompts, strict=True)]
            own = (torch.arange(columns, device=device) >= shifts[:, None]).long()
            mask, cache = F.pad(own, (self._ahead, 0), value=1), behind(self._prefix)
        else:
            window = [([0] * pad + prompt)[-columns:] for pad, prompt in zip(pads, prompts, strict=True)]
            mask = (torch.arange(self._virtual + longest, device=device) >= shifts[:, None]).long()
            cache = branched(self._prefix, shifts, columns + ROOM) if self._prefix else empty_cache()
        logits = self._runner.logits(torch.tensor(window, device=device), mask, cache, self._adapters(firsts))
        return Flight(cache, mask, self._pick(logits[lines], rows), rows, lines)

    @torch.inference_mode()
    def _advance(self, flight: Flight) -> list[Row]:
        """Feed the last tokens and choose the next ones; returns the rows that got one."""
        live = [row for row in flight.rows if not row.done]
        flight.mask = F.pad(flight.mask, (0, 1), value=1)
        adapters = self._adapters(flight.rows)
        logits = self._runner.logits(flight.last[:, None], flight.mask, flight.cache, adapters)
        flight.last = self._pick(logits, flight.rows)
        return live

    @torch.inference_mode()
    def _joined(self, parts: list[Flight]) -> Flight | None:
        """The rows still at work of all parts, one line each, without columns that none of them uses."""
        live = [[i for i, row in enumerate(part.rows) if not row.done] for part in parts]
        parts, live = [p for p, at in zip(parts, live, strict=True) if at], [at for at in live if at]
        if not parts:
            return None
        rows = [part.rows[i] for part, at in zip(parts, live, strict=True) for i in at]
        widths = [
            self._virtual + max(part.rows[i].cached for i in at) - self._ahead
            for part, at in zip(parts, live, strict=True)
        ]
        lines = [[part.lines[i] for i in at] for part, at in zip(parts, live, strict=True)]
        widest = max(widths)
        masks = [
            F.pad(part.mask[at, -width:], (widest - width, 0))
            for part, at, width in zip(parts, lines, widths, strict=True)
        ]
        last = torch.cat([part.last[at] for part, at in zip(parts, live, strict=True)])
        cache = joined(
            [(part.cache, at, width) for part, at, width in zip(parts, lines, widths, strict=True)]
        )
        mask = F.pad(torch.cat(masks), (self._ahead, 0), value=1)
        return Flight(cache, mask, last, rows, list(range(len(rows))))

    def _adapters(self, rows: list[Row]) -> list[str | None] | None:
        """The adapter of each line, where they differ."""
        return [row.adapter for row in rows] if self._mixed else None

    def _pick(self, logits: Tensor, rows: list[Row]) -> Tensor:
        """Choose a token per row from ``logits`` (R, V), hand it to the row, and return all of them (R,)."""
        seed, greedy = self._sampling.seed, self._sampling.temperature == 0
        draws = None if greedy else [draw(seed, row.index, len(row.ids)) for row in rows]
        tokens, logprobs = choose(logits, draws, self._sampling)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if not row.done:
                row.take(token, logprob)
        return tokens


def shared_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, at least one of each left over; 0 if fewer than two differ."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)  # in lexicographic order all others lie between these two
    if low == high:
        return 0
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return min(same, min(map(len, prompts)) - 1)


def _thinned(flight: Flight) -> bool:
    """Whether so many rows are done that copying the others pays."""
    return sum(row.done for row in flight.rows) * REARRANGE_AT >= len(flight.rows)
