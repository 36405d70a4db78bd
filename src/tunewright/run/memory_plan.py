"""How much memory a run will need, phase by phase, before it begins.

The run's own code is run on tensors without data (``engine.footprint``): the model it would load with its
adapter, the heaviest micro-batch of its rows, its optimizer, its longest questions. What is no tensor is
measured: the program with its libraries is as large in the process that plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunewright.adapt.base import Adapter
from tunewright.core.records import Tokens
from tunewright.engine.footprint import Bytes, of_answering, of_training, total
from tunewright.engine.ghost import Ledger
from tunewright.engine.loop import Job
from tunewright.engine.memory import resident_mb
from tunewright.engine.plan import heaviest, sampled
from tunewright.models.causal import number_of_layers
from tunewright.models.forward import ModelForward
from tunewright.models.precision import Precision, choose, computing_in
from tunewright.models.savers import saving
from tunewright.models.score import attach
from tunewright.models.shell import build, bytes_on_disk
from tunewright.objectives.base import Objective
from tunewright.run import compose, encode
from tunewright.run.recipe import Recipe

MB = 2**20
TRAIN, ANSWER = frozenset({"train"}), frozenset({"answer"})
EVERY = TRAIN | ANSWER | {"load"}
# What a CPU process holds beside what lives, as measured by benchmarks/memory_plan.py: the kernels that are
# made for its products, and pieces of freed memory between what is kept, into which texts of other lengths do
# not fit: for every byte of activations about another half.
KERNELS = 120 * MB
PIECES = 0.55
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
    parts: compose.Parts
    sequences: encode.Sequences
    asked: Sequence[int]
    program: int

    @classmethod
    def of(
        cls, recipe: Recipe, parts: compose.Parts, sequences: encode.Sequences, asked: Sequence[int] = ()
    ) -> Case:
        """The case of a run that is ready to begin; measures this process without the weights in it."""
        device = parts.loaded.precision.device
        held = sum(p.nbytes for p in parts.loaded.model.parameters() if not p.is_meta)
        program = int(resident_mb(device) * MB) - held if device.type == "cpu" else 0
        return cls(recipe, parts, sequences, asked, program)

    @property
    def unknown(self) -> str | None:
        """Why nothing can be said, or None."""
        found = [why for name, why in UNKNOWN.items() if name in self.parts.objective.requires]
        return found[0] if found else None

    @cached_property
    def steps(self) -> list[list[Tokens]]:
        """The rows of some steps, that with the longest sequence among them."""
        objective = self.parts.objective
        train = _with_reference(objective, self.sequences.train)
        pace = compose.pace_of(self.recipe, objective)
        plan = encode.planned(objective, train, pace, objective.updates)
        return sampled(plan, train)

    @property
    def longest(self) -> int:
        """Tokens of the longest training sequence."""
        return max(tokens.size for tokens in self.sequences.train)

    @property
    def layers(self) -> int:
        """How many the model has."""
        return number_of_layers(self.parts.loaded.model)

    def predict(
        self, recipe: Recipe, touched: frozenset[str] = EVERY, before: Prediction | None = None
    ) -> Prediction:
        """What a run by ``recipe`` would need; it may differ from the case's own in how, not in what.

        Phases that are not ``touched`` are as they were ``before``.
        """
        adapter = self.parts.adapter
        if recipe.adapt != self.recipe.adapt:
            adapter = compose.make_adapter(recipe)
        ways = {"load": self._loading, "train": self.training}
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
        ref = self.parts.loaded.ref
        return build(ref, precision, adapter.weights, adapter.changes), precision

    def _adapted(self, recipe: Recipe, adapter: Adapter) -> tuple[Ledger, Any, Precision]:
        """The same with its adapter and heads, ready to train."""
        base, precision = self._base(recipe, adapter)
        model = adapter.attach(base)
        attach(model, self.parts.objective.heads)
        ledger = Ledger(precision.device)
        ledger.emptied(model)
        return ledger, model, precision

    def _loading(self, recipe: Recipe, adapter: Adapter) -> Bytes:
        """Weights of another format than their file's are made beside it; others are the file, mapped."""
        model, precision = self._base(recipe, adapter)
        ledger = Ledger(precision.device)
        ledger.emptied(model)
        weights, stored = total(ledger.live), bytes_on_disk(self.parts.loaded.ref) or 0
        same = abs(stored - weights) < 0.1 * weights  # a file holds little besides
        return {"weights": weights, "file": 0 if same or precision.device.type != "cpu" else stored}

    def training(self, recipe: Recipe, adapter: Adapter) -> Bytes:
        """Bytes by kind while training by ``recipe``, what the process takes besides left out."""
        ledger, model, precision = self._adapted(recipe, adapter)
        objective = self.parts.objective
        most = heaviest(self.steps, recipe.train.at_once)
        memory, neftune = recipe.train.memory, compose.neftune_of(recipe)
        with ledger, saving(model, memory.recomputed, memory.offload == "activations"):
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


def _with_reference(objective: Objective, train: Sequence[Tokens]) -> Sequence[Tokens]:
    """The training rows, with numbers in place of the reference's where the objective needs such."""
    if "reference" not in objective.requires:
        return train
    mark = {"reference": 0.0}
    return [
        t.with_branches_marked([mark] * len(t.branches))
        if t.branches
        else replace(t, extras={**t.extras, **mark})
        for t in train
    ]
