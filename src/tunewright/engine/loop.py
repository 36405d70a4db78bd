"""The one training loop. It steps, evaluates, checkpoints and stops; it knows no objective and no adapter.

One step: draw the sequences of the planned rows (they are stored, or the model writes them now), add up the
loss of every micro-batch, divided by a count over the whole step, and update once. So the gradient does not
depend on how a step is cut into micro-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from tunewright.adapt.base import Adapter, Method, Names
from tunewright.core import events
from tunewright.core.errors import RunError, TrainError
from tunewright.core.hashing import digest, seed_from
from tunewright.core.records import Tokens
from tunewright.engine import checkpoint
from tunewright.engine.batch import packed
from tunewright.engine.lanes import Lanes, RandomError, even
from tunewright.engine.memory import give_back_cached, resident_mb
from tunewright.engine.optim import OptimSettings
from tunewright.engine.plan import Pace, heaviest, sampled, steps_in_order
from tunewright.engine.probe import attempt
from tunewright.engine.schedule import Kind, rate_at
from tunewright.engine.shortage import is_shortage, smaller
from tunewright.engine.source import Stored
from tunewright.engine.step import Tally, backward, backward_in_lanes
from tunewright.engine.stop import Progress, Watch
from tunewright.engine.updates import make_updates
from tunewright.objectives.base import Batch, Forward, Objective, Source

T = TypeVar("T")


@dataclass(frozen=True)
class FitSettings:
    """How to step. ``every`` and ``save_every`` count steps; ``save_every`` 0 saves at evaluations only.

    ``lanes`` micro-batches are computed side by side, which together hold at most ``micro_tokens``.
    """

    epochs: int
    learning_rate: float
    tokens_per_step: int
    micro_tokens: int
    lanes: int = 1
    max_steps: int | None = None
    schedule: Kind = "cosine"
    warmup: float = 0.05
    clip_norm: float = 1.0
    optim: OptimSettings = field(default_factory=OptimSettings)
    seed: int = 0
    every: int = 0
    save_every: int = 0
    keep: int = 2
    watch: Watch = field(default_factory=Watch)

    @property
    def pace(self) -> Pace:
        """What decides which rows stand in which update."""
        return Pace(self.epochs, self.tokens_per_step, self.seed, self.max_steps)


@dataclass(frozen=True)
class Job:
    """What to train: the model as a module and as a ``Forward``, the objective, and rendered sequences.

    ``source`` gives the sequences of an update; without one they are those of ``train``. ``rate_of`` is the
    multiple of the learning rate for a parameter of that name, the adapter's own aside. With ``probe`` the
    largest micro-batch of ``train`` is tried before the first update.
    """

    model: nn.Module
    forward: Forward
    objective: Objective
    train: Sequence[Tokens]
    validation: Sequence[Tokens] = ()
    task_metrics: Callable[[], dict[str, float]] | None = None
    source: Source | None = None
    rate_of: Callable[[str], float] = lambda name: 1.0
    adapter: Adapter | Method = field(default_factory=Method)
    probe: bool = False


@dataclass
class State:
    """Where training stands; all of it is in every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_since: list[float] = field(default_factory=list)  # losses since the last evaluation
    progress: Progress = field(default_factory=Progress)
    micro_tokens: int | None = None  # less than the setting says, once memory has run out


@dataclass(frozen=True)
class FitResult:
    """How it ended. The model holds the weights of ``best_step``."""

    step: int
    best_step: int
    tokens: int
    seconds: float
    reason: str
    best: float | None
    overfitting: bool


class Fit:
    """One run of the loop; ``run()`` does everything, the other methods are its parts."""

    def __init__(self, job: Job, settings: FitSettings, checkpoints: Path, observe: events.Observer) -> None:
        self.job, self.settings, self.checkpoints, self.observe = job, settings, checkpoints, observe
        self.parameters = {n: p for n, p in job.model.named_parameters() if p.requires_grad}
        self.updates = make_updates(
            self.parameters,
            settings.optim,
            settings.clip_norm,
            lambda name: job.rate_of(name) * job.adapter.rate_of(name),
        )
        shares = job.objective.shares
        self.source = job.source or Stored(job.train, shares, settings.seed)
        self.plan = steps_in_order(self.source.sizes, settings.pace, self.source.updates, self.source.rows)
        sizes = [*self.source.sizes, *(t.size for t in job.validation)]
        self.sizes_done = list(accumulate(planned.size for planned in self.plan))
        self.plan_digest = digest([asdict(settings), sizes, self.source.updates, dict(shares)])
        self.state = State()
        self.lanes = Lanes(settings.lanes) if settings.lanes > 1 else None
        self.device = next(iter(self.parameters.values())).device
        self.judged = bool(job.validation) or job.task_metrics is not None

    def run(self) -> FitResult:
        """Train to the end of the plan, or until the watch says stop; restore the best weights."""
        if not self.resume() and self.job.probe:
            self.probe()
        if self.state.step == 0 and self.judged and self.state.progress.best is None:
            self.evaluate(0)
        self.observe(events.Started(self.state.step, len(self.plan), asdict(self.settings)))
        reason = f"all {len(self.plan)} steps done"
        while self.state.step < len(self.plan):
            if self.state.progress.exhausted(self.settings.watch):
                reason = self._patience_reason()
                break
            self.advance()
        self.job.model.eval()
        self._wake(lambda name: True)
        best_step = self.restore_best()
        self.observe(events.Ended(self.state.step, reason, best_step))
        p = self.state.progress
        return FitResult(
            self.state.step,
            best_step,
            self.state.tokens,
            self.state.seconds,
            reason,
            p.best,
            p.warned or p.overfitting,
        )

    def probe(self) -> None:
        """Try the largest micro-batch there will be, in smaller pieces where memory does not suffice."""
        job, steps = self.job, sampled(self.plan, self.job.train)
        if active := job.adapter.active(1, len(self.plan), self.settings.seed):
            self._wake(active)
        job.model.train()

        def largest() -> Sequence[Tokens]:
            return heaviest(steps, self.budget).sequences

        self._within_memory(
            lambda: attempt(largest(), job.objective, job.forward, self.updates, self.device), largest()
        )

    def advance(self) -> None:
        """One step of the plan, then whatever is due after it."""
        state, settings = self.state, self.settings
        planned = self.plan[state.step]
        state.step += 1
        begun = time.perf_counter()
        seed = seed_from(settings.seed, "step", state.step)
        torch.manual_seed(seed)
        rate = rate_at(state.step, len(self.plan), settings.learning_rate, settings.schedule, settings.warmup)
        self.updates.set_rate(rate)
        drawn = self.source.draw(state.step, planned.rows)
        job, steps = self.job, len(self.plan)
        if active := job.adapter.active(state.step, steps, settings.seed):
            self._wake(active)
        job.model.train()
        tally = self._gradient(drawn.sequences, seed)
        norm = self.updates.finish(
            self._where(drawn.sequences), lambda: job.adapter.updated(job.model, state.step, steps)
        )
        state.seconds += time.perf_counter() - begun
        state.tokens += sum(t.size for t in drawn.sequences)
        state.loss_since.append(tally.loss)
        done = self.sizes_done[state.step - 1]
        self.observe(
            events.StepEnd(
                step=state.step,
                total_steps=len(self.plan),
                epoch=planned.epoch,
                loss=tally.loss,
                learning_rate=rate,
                grad_norm=norm,
                tokens=state.tokens,
                tokens_per_second=state.tokens / state.seconds,
                seconds_left=(self.sizes_done[-1] - done) * state.seconds / done,
                memory_mb=resident_mb(self.device),
                metrics={**drawn.metrics, **tally.metrics},
            )
        )
        self._due()

    @property
    def budget(self) -> int:
        """Tokens at once."""
        return self.state.micro_tokens or self.settings.micro_tokens

    def batches(self, sequences: Sequence[Tokens]) -> list[Batch]:
        """``sequences`` packed into micro-batches."""
        budget = self.budget
        if (lanes := self._lanes_for(sequences)) is not None:
            budget = even([tokens.size for tokens in sequences], budget, lanes.count)
        return list(packed(sequences, budget, self.device))

    def _lanes_for(self, sequences: Sequence[Tokens]) -> Lanes | None:
        """The lanes, unless a row is too long for the share of one of them."""
        largest = max((tokens.size for tokens in sequences), default=0)
        return self.lanes if self.lanes and largest * self.lanes.count <= self.budget else None

    def _gradient(self, sequences: Sequence[Tokens], seed: int) -> Tally:
        """The gradient of an update; where memory runs out it is computed again in pieces of half the size.

        Random numbers are drawn as if the pieces had been that small from the start.
        """
        job = self.job

        def pieces() -> Tally:
            torch.manual_seed(seed)
            parts = (
                self.batches(sequences),
                job.objective,
                job.forward,
                lambda rows: self._where([sequences[row] for row in rows]),
                lambda: job.adapter.penalty(job.model),
            )
            if (lanes := self._lanes_for(sequences)) is None:
                return backward(*parts, self.updates.last_backward)
            learning = [p for p in self.parameters.values() if p.requires_grad]
            return backward_in_lanes(lanes, learning, *parts)

        try:
            return self._within_memory(pieces, sequences)
        except RandomError:
            self._leave_lanes()
            return self._gradient(sequences, seed)

    def _leave_lanes(self) -> None:
        """One micro-batch after the other from now on: this run draws random numbers in the forward pass."""
        self.lanes = None
        self.updates.drop_gradient()
        self.observe(
            events.Warned(
                self.state.step,
                "the model draws random numbers while it trains, so micro-batches are computed one after the"
                " other, and the result does not depend on which was first; train.lanes=1 says so at once",
            )
        )

    def _within_memory(self, compute: Callable[[], T], sequences: Sequence[Tokens]) -> T:
        """What ``compute`` returns, with pieces of half the size as often as memory runs out."""
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                self._shrink(sequences)
            self.updates.drop_gradient()  # here, where the error holds none of its tensors any more
            give_back_cached(self.device)

    def _shrink(self, sequences: Sequence[Tokens]) -> None:
        """Compute fewer tokens at a time from now on, and say so."""
        budget = self.budget
        largest = max(tokens.size for tokens in sequences)
        self.state.micro_tokens = smaller(budget, largest, self._where(sequences), self.updates.started)
        self.observe(
            events.Warned(
                self.state.step,
                f"memory ran out with train.micro_tokens {budget}; going on with {self.state.micro_tokens}:"
                " the same updates in smaller pieces",
            )
        )

    def evaluate(self, step: int) -> None:
        """Measure validation loss and the task metrics, update the watch, keep the best."""
        if not self.judged:
            return
        self.job.model.eval()
        metrics = self._validation() if self.job.validation else {}
        if self.job.task_metrics is not None:
            metrics |= self.job.task_metrics()
        state = self.state
        train = sum(state.loss_since) / len(state.loss_since) if state.loss_since else None
        state.progress = state.progress.update(self.settings.watch, step, metrics, train)
        state.loss_since = []
        self.observe(events.EvalEnd(step, metrics, best=state.progress.waited == 0))
        self._warn_of_overfitting(step)
        self.save()

    def _warn_of_overfitting(self, step: int) -> None:
        """Say once that validation loss rises while training loss falls."""
        state = self.state
        if state.progress.overfitting and not state.progress.warned:
            state.progress = replace(state.progress, warned=True)
            self.observe(
                events.Warned(
                    step,
                    "overfitting: validation loss has risen twice in a row while training loss fell;"
                    f" the checkpoint of step {state.progress.best_step} is kept. Fewer epochs, more data"
                    " or a smaller rank would help.",
                )
            )

    def save(self) -> None:
        """Write a checkpoint of this step, then drop those no longer needed."""
        state = self.state
        facts = asdict(state)
        path = checkpoint.save(
            self.checkpoints,
            checkpoint.Snapshot(
                facts.pop("step"),
                {n: p.detach().cpu() for n, p in self.parameters.items()},
                self.updates.state(),
                {**facts, "plan": self.plan_digest, "source": self.source.state()},
                self.job.adapter.state(self.job.model),
            ),
        )
        recent = list(checkpoint.steps(self.checkpoints))[-self.settings.keep :]
        checkpoint.prune(self.checkpoints, {*recent, state.progress.best_step})
        self.observe(events.Saved(state.step, str(path)))

    def resume(self) -> bool:
        """Go on from the newest checkpoint that verifies; say which ones do not. False if there is none."""
        path, problems = checkpoint.newest(self.checkpoints)
        for problem in problems:
            self.observe(events.Warned(0, f"damaged checkpoint passed over: {problem}"))
        if path is None:
            return False
        snapshot = checkpoint.load(path)
        facts = dict(snapshot.state)
        if facts.pop("plan") != self.plan_digest:
            raise RunError(
                f"{path} was written with other settings or other rows than those given now; put the old ones"
                " back, or start a new run"
            )
        self._put(snapshot.weights)
        self.source.restore(facts.pop("source"))
        self.updates.restore(snapshot.optimizer)
        self.job.adapter.restore(self.job.model, snapshot.adapter)
        self.state = State(step=snapshot.step, progress=Progress.from_dict(facts.pop("progress")), **facts)
        return True

    def restore_best(self) -> int:
        """Put the best weights back; where nothing is measured the last ones are the best there are."""
        if not self.judged:
            return self.state.step
        best = self.state.progress.best_step
        self._put(checkpoint.load(self.checkpoints / f"step-{best}").weights)
        return best

    def _wake(self, active: Names) -> None:
        """Let the parameters that ``active`` names move, and no others; what sleeps forgets its moments."""
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(active(name))
            if not parameter.requires_grad:
                self.updates.forget(name)

    def _due(self) -> None:
        step, settings, last = self.state.step, self.settings, len(self.plan)
        if self.judged and (step == last or (settings.every and step % settings.every == 0)):
            self.evaluate(step)
        elif step == last or (settings.save_every and step % settings.save_every == 0):
            self.save()

    def _validation(self) -> dict[str, float]:
        """Validation loss, and whatever else the objective reports, over all validation rows."""
        batches = self.batches(self.job.validation)
        tally = Tally(self.job.objective, batches)
        with torch.no_grad():
            for batch in batches:
                tally.add(batch, self.job.objective.loss(self.job.forward, batch))
        if not math.isfinite(tally.loss):
            raise TrainError(
                f"validation loss is {tally.loss} at step {self.state.step}; training cannot go on"
            )
        return {"validation_loss": tally.loss, **{f"validation_{k}": v for k, v in tally.metrics.items()}}

    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        if weights.keys() != self.parameters.keys():
            odd = sorted(weights.keys() ^ self.parameters.keys())[:3]
            raise TrainError(f"the checkpoint holds other parameters than this run trains, for example {odd}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _where(self, sequences: Sequence[Tokens]) -> str:
        names = [tokens.meta.where() for tokens in sequences[:8]]
        return f"step {self.state.step}, rows {', '.join(names)}" + (" …" if len(sequences) > 8 else "")

    def _patience_reason(self) -> str:
        watch, p = self.settings.watch, self.state.progress
        best = f"best {p.best:.4g} at step {p.best_step}"
        return f"{watch.metric} has not improved for {p.waited} evaluations ({best})"
