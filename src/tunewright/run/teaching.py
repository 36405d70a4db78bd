"""The teacher of a run: loaded once, checked against the student, kept until nobody asks it any more."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunewright.adapt.fused import fuse
from tunewright.core.errors import ConfigError, RunError
from tunewright.core.hashing import digest
from tunewright.core.paths import RunDir, write_json
from tunewright.core.records import Example
from tunewright.data.render import Renderer
from tunewright.engine.memory import give_back_cached
from tunewright.models.bottleneck import bottlenecks_of
from tunewright.models.load import Loaded, load
from tunewright.objectives.base import Objective
from tunewright.objectives.distill import Distillation
from tunewright.objectives.multi import MultiTask
from tunewright.objectives.teacher import fingerprint
from tunewright.run.compose import Parts
from tunewright.run.session import Session

RECORD = "teacher.json"  # in the run directory: what the teachers were when the run began
HOW = {
    "same": "student and teacher share a vocabulary: their probabilities are compared token by token (same)",
    "uld": "student and teacher are compared by their sorted probabilities, whatever the tokens are (uld)",
    "text": "the student learns the answers that the teacher writes (text)",
}


@dataclass(frozen=True)
class Teacher:
    """``renderer`` reads rows with the teacher's own tokenizer and template, in full length.

    ``objective`` knows how the two vocabularies are compared.
    """

    loaded: Loaded
    renderer: Renderer
    objective: Distillation

    @property
    def mode(self) -> str:
        """``same``, ``uld`` or ``text``."""
        return str(self.objective.options.vocabulary)

    @property
    def identity(self) -> str:
        """Hash of all that decides what it says of a given row."""
        facts = [str(self.loaded.precision.dtype), _adapter_settings(self.loaded.model)]
        if self.mode != "same":  # it reads the rows its own way
            tokenizer = digest(self.loaded.tokenizer.backend_tokenizer.to_str())
            facts += [tokenizer, self.renderer.template_digest, self.renderer.train_on]
        return fingerprint(self.loaded.model, *facts)


_TEACHERS: weakref.WeakKeyDictionary[Distillation, Teacher] = weakref.WeakKeyDictionary()


def distillations(objective: Objective) -> dict[str, Distillation]:
    """Every distillation in ``objective`` by task; the task of a run with one is ``""``."""
    if isinstance(objective, Distillation):
        return {"": objective}
    tasks = objective.tasks if isinstance(objective, MultiTask) else {}
    return {task: child for task, child in tasks.items() if isinstance(child, Distillation)}


def rows_of(examples: Sequence[Example], task: str) -> list[Example]:
    """The rows of one task; all of them where there is but one."""
    return [example for example in examples if not task or example.meta.task == task]


def teacher_of(session: Session, parts: Parts, objective: Distillation) -> Teacher:
    """The teacher that ``objective`` names; loaded at the first call, and again after ``release``.

    Raises ``ConfigError`` if it cannot teach this student, ``ModelError`` if it cannot be loaded.
    """
    if objective not in _TEACHERS:
        _TEACHERS[objective] = _loaded(session, parts, objective)
    return _TEACHERS[objective]


def release(objective: Distillation) -> None:
    """Give back the teacher's memory, as far as nobody else holds on to it."""
    held = _TEACHERS.pop(objective, None)
    device = held.loaded.precision.device if held else None
    del held
    gc.collect()
    if device is not None:
        give_back_cached(device)


def check_unchanged(run: RunDir, task: str, facts: Mapping[str, Any]) -> None:
    """Write down what the teacher of ``task`` is; raise ``RunError`` if the run began with another."""
    record = run.root / RECORD
    try:
        known = json.loads(record.read_bytes()) if record.exists() else {}
    except ValueError:
        raise RunError(f"{record} is damaged; start the run again") from None
    if task not in known:
        write_json(record, {**known, task: facts})
    elif known[task]["identity"] != facts["identity"]:
        raise RunError(
            f"{run.root} cannot go on: the teacher {facts['name']} is not the one that the run was begun with"
            " (weights, number format, tokenizer or chat template differ); put it back, or start a new run"
        )


def _loaded(session: Session, parts: Parts, objective: Distillation) -> Teacher:
    name, section = objective.options.teacher, session.recipe.model
    with session.stage("load teacher", name):
        loaded = load(name, device=section.device, dtype=section.dtype)
    if loaded.judges:
        raise ConfigError(
            f"objective.teacher {name!r} was trained to judge text with a head; it cannot write answers"
        )
    if loaded.ref.adapter is not None:
        fuse(loaded.model)  # the same arithmetic as in its own run, so it says the same to the last bit
    loaded.model.requires_grad_(False)
    _warn_of_size(session, parts.loaded, loaded)
    resolved = objective.resolved(parts.loaded.tokenizer.get_vocab(), loaded.tokenizer.get_vocab())
    session.note([HOW[resolved.options.vocabulary]])
    renderer = Renderer(loaded.tokenizer, train_on=session.recipe.data.train_on)
    teacher = Teacher(loaded, renderer, resolved)
    session.note(f"teacher {name}: {note}" for note in (*loaded.notes, *renderer.notes))
    if teacher.mode == "same" and teacher.renderer.template_digest != parts.renderer.template_digest:
        session.warn(
            f"the teacher {name} was made for another chat template than the student's, in which it reads the"
            " rows here; it may say less than it knows (set model.template, or vocabulary=text)"
        )
    return teacher


def _warn_of_size(session: Session, student: Loaded, teacher: Loaded) -> None:
    name = teacher.ref.name
    if teacher.ref.adapter is None and teacher.ref.path == student.ref.path:
        session.warn(
            f"the teacher {name} is the student itself: it has nothing to teach but its own mistakes"
        )
        return
    sizes = [loaded.parameters for loaded in (teacher, student)]
    if sizes[0] < sizes[1]:
        session.warn(
            f"the teacher {name} is smaller than the student ({sizes[0]:,} parameters against {sizes[1]:,})"
        )


def _adapter_settings(model: Any) -> str:
    """What its adapters do beside their weights, which the model's own state holds."""
    configs = getattr(model, "peft_config", {})
    told = {name: {k: str(v) for k, v in config.to_dict().items()} for name, config in configs.items()}
    for settings in told.values():
        for passing in ("base_model_name_or_path", "peft_version", "inference_mode", "revision"):
            settings.pop(passing, None)
        settings["target_modules"] = "in the names of the weights"  # a set, without an order
    for found in bottlenecks_of(model)[:1]:  # all have the same form
        told["bottleneck"] = {k: str(v) for k, v in asdict(found.form).items()}
    return digest(told)
