"""The one training loop. It steps, evaluates, checkpoints and stops; it knows no objective and no adapter.

One step: every micro-batch adds its summed loss; the gradient is divided once by the global count of
weighted tokens. So the gradient does not depend on how a step is cut into micro-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from tunewright.core import events
from tunewright.core.errors import RunError, TrainError
from tunewright.core.hashing import digest, seed_from
from tunewright.core.records import Tokens
from tunewright.data.pack import Step, plan_epoch
from tunewright.engine import checkpoint
from tunewright.engine.batch import build_batch
from tunewright.engine.memory import resident_mb
from tunewright.engine.optim import adamw, load_optimizer_state, optimizer_state, set_rate
from tunewright.engine.schedule import Kind, rate_at
from tunewright.engine.step import train_step
from tunewright.engine.stop import Progress, Watch
from tunewright.objectives.base import Batch, Forward, Objective


@dataclass(frozen=True)
class FitSettings:
    """How to step. ``every`` and ``save_every`` count steps; ``save_every`` 0 saves at evaluations only."""

    epochs: int
    learning_rate: float
    tokens_per_step: int
    micro_tokens: int
    max_steps: int | None = None
    schedule: Kind = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    seed: int = 0
    every: int = 0
    save_every: int = 0
    keep: int = 2
    watch: Watch = field(default_factory=Watch)


@dataclass(frozen=True)
class Job:
    """What to train: the model as a module and as a ``Forward``, the objective, and rendered sequences."""

    model: nn.Module
    forward: Forward
    objective: Objective
    train: Sequence[Tokens]
    validation: Sequence[Tokens] = ()
    task_metrics: Callable[[], dict[str, float]] | None = None
    names: Callable[[int], str] = str  # row index -> "file:line", for messages


@dataclass
class State:
    """Where training stands; all of it is in every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_since: list[float] = field(default_factory=list)  # losses since the last evaluation
    progress: Progress = field(default_factory=Progress)


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


class Planned(NamedTuple):
    """One step of the run: its micro-batches as row indices, its tokens, and the epochs done after it."""

    micro: Step
    tokens: int
    epoch: float


def steps_in_order(train: Sequence[Tokens], settings: FitSettings) -> list[Planned]:
    """Every step of the run; a pure function of the sizes of the sequences and of the settings."""
    sizes = [t.size for t in train]
    plan: list[Planned] = []
    for epoch in range(settings.epochs):
        steps = plan_epoch(
            sizes,
            seed=settings.seed,
            epoch=epoch,
            tokens_per_step=settings.tokens_per_step,
            micro_tokens=settings.micro_tokens,
        )
        for done, step in enumerate(steps, start=1):
            tokens = sum(sizes[row] for rows in step for row in rows)
            plan.append(Planned(step, tokens, round(epoch + done / len(steps), 4)))
        if settings.max_steps and len(plan) >= settings.max_steps:
            return plan[: settings.max_steps]
    return plan


class Fit:
    """One run of the loop; ``run()`` does everything, the other methods are its parts."""

    def __init__(self, job: Job, settings: FitSettings, checkpoints: Path, observe: events.Observer) -> None:
        self.job, self.settings, self.checkpoints, self.observe = job, settings, checkpoints, observe
        self.parameters = {n: p for n, p in job.model.named_parameters() if p.requires_grad}
        self.optimizer = adamw(self.parameters, weight_decay=settings.weight_decay, betas=settings.betas)
        self.loss_of = partial(job.objective.loss, job.forward)
        self.plan = steps_in_order(job.train, settings)
        self.plan_digest = digest([asdict(settings), [t.size for t in (*job.train, *job.validation)]])
        self.state = State()
        self.device = next(iter(self.parameters.values())).device

    def run(self) -> FitResult:
        """Train to the end of the plan, or until the watch says stop; restore the best weights."""
        self.resume()
        if self.state.step == 0 and not self.state.progress.validation:
            self.evaluate(0)
        self.observe(events.Started(self.state.step, len(self.plan), asdict(self.settings)))
        reason = f"all {len(self.plan)} steps done"
        self.job.model.train()
        while self.state.step < len(self.plan):
            if self.state.progress.exhausted(self.settings.watch):
                reason = self._patience_reason()
                break
            self.advance()
        self.job.model.eval()
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

    def advance(self) -> None:
        """One step of the plan, then whatever is due after it."""
        state, settings = self.state, self.settings
        planned = self.plan[state.step]
        state.step += 1
        begun = time.perf_counter()
        torch.manual_seed(seed_from(settings.seed, "step", state.step))
        rate = rate_at(state.step, len(self.plan), settings.learning_rate, settings.schedule, settings.warmup)
        set_rate(self.optimizer, rate)
        batches = [self.batch(rows) for rows in planned.micro]
        stats = train_step(
            batches,
            self.loss_of,
            list(self.parameters.values()),
            self.optimizer,
            settings.clip_norm,
            self._where,
        )
        state.seconds += time.perf_counter() - begun
        state.tokens += planned.tokens
        state.loss_since.append(stats.loss)
        speed = state.tokens / state.seconds
        self.observe(
            events.StepEnd(
                step=state.step,
                total_steps=len(self.plan),
                epoch=planned.epoch,
                loss=stats.loss,
                learning_rate=rate,
                grad_norm=stats.grad_norm,
                tokens=state.tokens,
                tokens_per_second=speed,
                seconds_left=sum(p.tokens for p in self.plan[state.step :]) / speed,
                memory_mb=resident_mb(self.device),
                metrics=stats.metrics,
            )
        )
        self._due()

    def batch(self, rows: Sequence[int], validation: bool = False) -> Batch:
        """The packed batch of these rows."""
        source = self.job.validation if validation else self.job.train
        return build_batch([source[i] for i in rows], rows, self.device)

    def evaluate(self, step: int) -> None:
        """Measure validation loss and the task metrics, update the watch, keep the best."""
        if not self.job.validation:
            return
        self.job.model.eval()
        metrics = {"validation_loss": self._validation_loss()}
        if self.job.task_metrics is not None:
            metrics |= self.job.task_metrics()
        self.job.model.train()
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
                optimizer_state(self.optimizer, self.parameters),
                {**facts, "plan": self.plan_digest},
            ),
        )
        recent = list(checkpoint.steps(self.checkpoints))[-self.settings.keep :]
        checkpoint.prune(self.checkpoints, {*recent, state.progress.best_step})
        self.observe(events.Saved(state.step, str(path)))

    def resume(self) -> None:
        """Go on from the newest checkpoint that verifies; say which ones do not."""
        path, problems = checkpoint.newest(self.checkpoints)
        for problem in problems:
            self.observe(events.Warned(0, f"damaged checkpoint passed over: {problem}"))
        if path is None:
            return
        snapshot = checkpoint.load(path)
        facts = dict(snapshot.state)
        if facts.pop("plan") != self.plan_digest:
            raise RunError(
                f"{path} was written with other settings or other rows than those given now; put the old ones"
                " back, or start a new run"
            )
        self._put(snapshot.weights)
        load_optimizer_state(self.optimizer, self.parameters, snapshot.optimizer)
        self.state = State(step=snapshot.step, progress=Progress.from_dict(facts.pop("progress")), **facts)

    def restore_best(self) -> int:
        """Put the best weights back; without validation the last ones are the best there are."""
        if not self.job.validation:
            return self.state.step
        best = self.state.progress.best_step
        self._put(checkpoint.load(self.checkpoints / f"step-{best}").weights)
        return best

    def _due(self) -> None:
        step, settings, last = self.state.step, self.settings, len(self.plan)
        if self.job.validation and (step == last or (settings.every and step % settings.every == 0)):
            self.evaluate(step)
        elif step == last or (settings.save_every and step % settings.save_every == 0):
            self.save()

    def _validation_loss(self) -> float:
        sizes = [t.size for t in self.job.validation]
        budget = self.settings.micro_tokens
        packs = plan_epoch(sizes, seed=0, epoch=0, tokens_per_step=sum(sizes), micro_tokens=budget)
        total = count = 0.0
        with torch.no_grad():
            for rows in (rows for step in packs for rows in step):
                out = self.loss_of(self.batch(rows, validation=True))
                total, count = total + float(out.total), count + float(out.count)
        if not math.isfinite(total):
            raise TrainError(f"validation loss is {total} at step {self.state.step}; training cannot go on")
        return total / count

    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        if weights.keys() != self.parameters.keys():
            odd = sorted(weights.keys() ^ self.parameters.keys())[:3]
            raise TrainError(f"the checkpoint holds other parameters than this run trains, for example {odd}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _where(self, rows: Sequence[int]) -> str:
        names = [self.job.names(r) for r in rows[:8]]
        return f"step {self.state.step}, rows {', '.join(names)}" + (" …" if len(rows) > 8 else "")

    def _patience_reason(self) -> str:
        watch, p = self.settings.watch, self.state.progress
        best = f"best {p.best:.4g} at step {p.best_step}"
        return f"{watch.metric} has not improved for {p.waited} evaluations ({best})"
