"""How much memory a run will need, phase by phase, before it begins.

The run's own code is run on tensors without data (``engine.footprint``): the model it would load with its
adapter, the heaviest micro-batch of its rows, its optimizer, its longest questions. What is no tensor is
measured: the program with its libraries is as large in the process that plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from tunewright.adapt.base import Adapter
from tunewright.core.records import Tokens
from tunewright.engine.footprint import Bytes, heaviest, of_answering, of_training, total
from tunewright.engine.ghost import Ledger
from tunewright.engine.loop import Job
from tunewright.engine.memory import resident_mb
from tunewright.evaluate.baselines import with_shots
from tunewright.evaluate.metrics import METRICS, split_task
from tunewright.models.causal import number_of_layers
from tunewright.models.forward import ModelForward
from tunewright.models.precision import Precision, choose, computing_in
from tunewright.models.savers import saving
from tunewright.models.score import attach
from tunewright.models.shell import build, bytes_on_disk
from tunewright.run import compose, encode
from tunewright.run.judge_tasks import TaskJudge
from tunewright.run.ready import Ready
from tunewright.run.recipe import Recipe

MB = 2**20
TRAIN, ANSWER = frozenset({"train"}), frozenset({"answer"})
EVERY = TRAIN | ANSWER | {"load"}
# What a CPU process holds beside what lives, as measured by benchmarks/memory_plan.py: the kernels that are
# made for its products, and pieces of freed memory between what is kept, into which texts of other lengths do
# not fit: for every byte of activations about another half.
KERNELS = 120 * MB
PIECES = 0.55
SAMPLED = 200  # steps that are searched for the heaviest micro-batch
UNKNOWN = {  # requirement of an objective -> why its training cannot be rehearsed
    "rollouts": "the answers it trains on are sampled while it trains",
    "student_answers": "the answers it trains on are written while it trains",
    "teacher": "a teacher is held beside the model",
}


@dataclass(frozen=True)
class Prediction:
    """Bytes by kind in each phase; ``program`` is what the process takes besides."""

    phases: Mapping[str, Bytes]
    program: int

    @property
    def phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: total(self.phases[name]))

    @property
    def peak(self) -> int:
        """Bytes that the whole process needs at its largest."""
        return self.program + total(self.phases[self.phase])

    def beside(self, phases: frozenset[str]) -> int:
        """Bytes that the process needs in all other phases."""
        left = [total(found) for name, found in self.phases.items() if name not in phases]
        return self.program + max(left, default=0)


@dataclass(frozen=True)
class Case:
    """What stays the same whatever the settings that are tried: model, rows, questions.

    ``asked`` are the lengths of the prompts that are answered together, in tokens.
    """

    recipe: Recipe
    ready: Ready
    asked: Sequence[int]
    program: int

    @classmethod
    def of(cls, recipe: Recipe, ready: Ready) -> Case:
        """The case of a run that is ready to begin; measures this process without the weights in it."""
        device = ready.parts.loaded.precision.device
        held = sum(p.nbytes for p in ready.parts.loaded.model.parameters() if not p.is_meta)
        program = int(resident_mb(device) * MB) - held if device.type == "cpu" else 0
        return cls(recipe, ready, _longest_prompts(ready), program)

    @property
    def unknown(self) -> str | None:
        """Why nothing can be said, or None."""
        found = [why for name, why in UNKNOWN.items() if name in self.ready.parts.objective.requires]
        return found[0] if found else None

    @cached_property
    def steps(self) -> list[list[Tokens]]:
        """The rows of some steps, that with the longest sequence among them."""
        objective = self.ready.parts.objective
        train = _with_reference(self.ready)
        pace = compose.fit_settings(self.recipe, objective).pace
        plan = encode.planned(objective, train, pace, objective.updates)
        longest = max(range(len(train)), key=lambda row: train[row].size)
        chosen = {*range(0, len(plan), -(-len(plan) // SAMPLED)), len(plan) - 1}
        chosen |= {next((i for i, step in enumerate(plan) if longest in step.rows), 0)}
        return [[train[row] for row in plan[i].rows] for i in sorted(chosen)]

    @property
    def longest(self) -> int:
        """Tokens of the longest training sequence."""
        return max(tokens.size for tokens in self.ready.sequences.train)

    @property
    def layers(self) -> int:
        """How many the model has."""
        return number_of_layers(self.ready.parts.loaded.model)

    def predict(
        self, recipe: Recipe, touched: frozenset[str] = EVERY, before: Prediction | None = None
    ) -> Prediction:
        """What a run by ``recipe`` would need; it may differ from the case's own in how, not in what.

        Phases that are not ``touched`` are as they were ``before``.
        """
        adapter = self.ready.parts.adapter
        if recipe.adapt != self.recipe.adapt:
            adapter = compose.make_adapter(recipe)
        ways = {"load": self._loading, "train": self._training}
        if self.asked:
            ways["answer"] = self._answering
        phases = {
            name: before.phases[name] if before and name not in touched else way(recipe, adapter)
            for name, way in ways.items()
        }
        return Prediction(phases, self.program)

    def _base(self, recipe: Recipe, adapter: Adapter) -> tuple[Any, Precision]:
        """The model of ``recipe`` as it is loaded, without data."""
        precision = computing_in(adapter.weights, choose(recipe.model.device, recipe.model.dtype))
        ref = self.ready.parts.loaded.ref
        return build(ref, precision, adapter.weights, adapter.changes), precision

    def _adapted(self, recipe: Recipe, adapter: Adapter) -> tuple[Ledger, Any, Precision]:
        """The same with its adapter and heads, ready to train."""
        base, precision = self._base(recipe, adapter)
        model = adapter.attach(base)
        attach(model, self.ready.parts.objective.heads)
        ledger = Ledger(precision.device)
        ledger.emptied(model)
        return ledger, model, precision

    def _loading(self, recipe: Recipe, adapter: Adapter) -> Bytes:
        """Weights of another format than their file's are made beside it; others are the file, mapped."""
        model, precision = self._base(recipe, adapter)
        ledger = Ledger(precision.device)
        ledger.emptied(model)
        weights, stored = total(ledger.live), bytes_on_disk(self.ready.parts.loaded.ref) or 0
        same = abs(stored - weights) < 0.1 * weights  # a file holds little besides
        return {"weights": weights, "file": 0 if same or precision.device.type != "cpu" else stored}

    def _training(self, recipe: Recipe, adapter: Adapter) -> Bytes:
        ledger, model, precision = self._adapted(recipe, adapter)
        objective = self.ready.parts.objective
        most = heaviest(self.steps, recipe.train.micro_tokens)
        memory, neftune = recipe.train.memory, compose.neftune_of(recipe)
        with ledger, saving(model, memory.checkpoint_layers, memory.offload == "activations"):
            job = Job(
                model=model,
                forward=ModelForward(model, compute=precision.dtype, neftune=neftune),
                objective=objective,
                train=(),
                adapter=adapter,
                rate_of=compose.rates_of(objective),
            )
            found = of_training(ledger, job, compose.fit_settings(recipe, objective), most)
        return _held(found, precision)

    def _answering(self, recipe: Recipe, adapter: Adapter) -> Bytes:
        ledger, model, precision = self._adapted(recipe, adapter)
        given = recipe.evaluate.max_new_tokens
        new = 1 if given == "auto" else given
        with ledger:
            ModelForward(model, compute=precision.dtype)  # as after training: its attention is set here
            found = of_answering(ledger, model, self.asked, new, recipe.evaluate.batch_size)
        return _held(found, precision)


def _held(live: Bytes, precision: Precision) -> Bytes:
    """With what the process holds beside what lives; a GPU's memory is counted by what torch hands out."""
    if precision.device.type != "cpu":
        return live
    return live | {"kernels": KERNELS, "freed pieces": int(PIECES * live["activations"])}


def _with_reference(ready: Ready) -> Sequence[Tokens]:
    """The training rows, with numbers in place of the reference's where the objective needs such."""
    train = ready.sequences.train
    if "reference" not in ready.parts.objective.requires:
        return train
    mark = {"reference": 0.0}
    return [
        t.with_branches_marked([mark] * len(t.branches))
        if t.branches
        else replace(t, extras={**t.extras, **mark})
        for t in train
    ]


def _longest_prompts(ready: Ready) -> list[int]:
    """The lengths of all prompts of that evaluation whose prompts are longest; empty if none is answered."""
    scorers = [ready.judge, *ready.baselines.values(), ready.watcher]
    found = [_lengths(judge, shots) for scorer in scorers for judge, shots in _writers(scorer)]
    return max(found, key=lambda lengths: sum(sorted(lengths)[-32:]), default=[])


def _writers(scorer: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
    """The judges in ``scorer`` that have a model write answers, with the examples before each question."""
    shots: Sequence[Any] = ()
    if isinstance(scorer, partial):  # a baseline: a judge, the untouched model and its examples
        scorer, shots = scorer.func, scorer.args[1] if len(scorer.args) > 1 else ()
    for judge in scorer.judges.values() if isinstance(scorer, TaskJudge) else [scorer]:
        names = getattr(judge, "metrics", ()) if hasattr(judge, "sampling") else ()
        if any(METRICS[split_task(name)[1]].needs != "logprobs" for name in names):
            yield judge, shots


def _lengths(judge: Any, shots: Sequence[Any]) -> list[int]:
    render = judge.renderer.prompt
    return [len(render(with_shots(shots, q.prompt), q.tools)) for q in judge.questions]
