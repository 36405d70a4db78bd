"""Everything a run needs before its first step, made and checked without writing a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tunewright.core.errors import ConfigError
from tunewright.core.records import Example
from tunewright.data.pipeline import Prepared
from tunewright.evaluate.runner import Answers, questions
from tunewright.models.load import Loaded, load
from tunewright.models.native.build import kernels
from tunewright.objectives.base import Objective
from tunewright.objectives.multi import tasks_of
from tunewright.run import asking, compose, encode
from tunewright.run.judges import Judge, JudgeKind, kind_for
from tunewright.run.lanes import pin_lanes
from tunewright.run.layer_cache import pin_cache
from tunewright.run.optimizing import pin_optimizer, remarks
from tunewright.run.resolve import Resolved
from tunewright.run.rows import reasons
from tunewright.run.session import Session
from tunewright.run.sizing import pin_sizes
from tunewright.run.tasks import rows_of

EVALUATIONS_PER_EPOCH = 4


@dataclass(frozen=True)
class Ready:
    """What the stages work with.

    ``judge`` asks the test rows and is ``None`` without any; ``watcher`` asks the validation rows and is
    ``None`` unless a task metric decides when to stop. ``baselines`` score what the result must beat.
    """

    splits: Prepared
    parts: compose.Parts
    sequences: encode.Sequences
    judge: Judge | None
    baselines: Mapping[str, Callable[[], Answers]]
    watcher: Judge | None


def make_ready(
    session: Session,
    splits: Prepared,
    read: Callable[..., Loaded] = load,
    room: float | None = None,
) -> Ready:
    """Load the model, render the rows, work out every ``auto``, and find out now what would fail later.

    ``read`` as in ``compose.assemble``; ``room`` as in ``sizing.pin_sizes``.
    """
    _report_rows(session, splits)
    with session.stage("load model", session.recipe.model.name):
        parts = compose.assemble(session.recipe, splits.train, read)
    with session.stage("render"):
        sequences = encode.encode_splits(parts, session, splits)
    precision = parts.loaded.precision
    compiled = (f"kernels: {kernels().reason}",) if precision.device.type == "cpu" else ()
    session.note((*parts.loaded.notes, *parts.renderer.notes, precision.reason, *compiled))
    session.resolved = pin_all(session.resolved, parts, splits, sequences)
    pin_sizes(session, parts, sequences, room)
    session.resolved = pin_cache(session, parts, sequences)
    pin_lanes(session, parts, max(tokens.size for tokens in sequences.train))
    for sentence in remarks(session.recipe, parts.objective, parts.loaded.precision.device.type):
        session.warn(sentence)
    kind = kind_for(parts.objective)
    _check_watched(session, parts, splits.validation)
    judge = _judge(session, parts, splits.test, kind)
    watcher = _watcher(session, parts, splits.validation, kind)
    baselines = _baselines(session, parts, judge, splits.train, kind)
    return Ready(splits, parts, sequences, judge, baselines, watcher)


def pin_all(
    resolved: Resolved, parts: compose.Parts, splits: Prepared, sequences: encode.Sequences
) -> Resolved:
    """Work out every ``auto`` that model and data decide; memory decides the others."""
    resolved = compose.pin_rate(resolved, parts, sequences.train)
    precision = parts.loaded.precision
    quantised = parts.adapter.changes.quantise is not None
    resolved = pin_optimizer(resolved, precision.device.type, quantised)
    if resolved.recipe.model.dtype == "auto":
        resolved = resolved.pin("model.dtype", str(precision.dtype).removeprefix("torch."), precision.reason)
    if resolved.recipe.model.device == "auto":
        resolved = resolved.pin("model.device", precision.device.type, "the best device found")
    if resolved.recipe.train.stop.metric == "auto":
        resolved = resolved.pin("train.stop.metric", *_watched(parts, splits.validation))
    if resolved.recipe.evaluate.every == "auto":
        resolved = _pin_every(resolved, parts, sequences)
    return _pin_judging(resolved, parts, splits)


def _watched(parts: compose.Parts, validation: Sequence[Example]) -> tuple[str, str]:
    if parts.objective.judged == "rewards" and validation:
        return "reward", "answers are sampled and rewarded"
    return "validation_loss", "what training minimises"


def _pin_judging(resolved: Resolved, parts: compose.Parts, splits: Prepared) -> Resolved:
    recipe, kind = resolved.recipe, kind_for(parts.objective)
    if recipe.evaluate.baselines == "auto":
        resolved = resolved.pin("evaluate.baselines", list(kind.usual), "what suits the objective")
    if recipe.evaluate.metrics == "auto" and splits.test:
        names, reason = kind.suggest(splits.test)
        resolved = resolved.pin("evaluate.metrics", kind.refine(names, parts.objective), reason)
    if recipe.evaluate.max_new_tokens != "auto":
        return resolved
    watched = recipe.train.stop.metric not in compose.losses_of(parts.objective)
    rows = _answered(parts.objective, [*splits.test, *(splits.validation if watched else ())])
    if rows:
        resolved = resolved.pin("evaluate.max_new_tokens", *asking.longest(parts.loaded, questions(rows)))
    return resolved


def _answered(objective: Objective, rows: Sequence[Example]) -> list[Example]:
    """Those rows whose answers the model writes."""
    tasks = tasks_of(objective)
    return [row for row in rows if kind_for(tasks.get(row.meta.task or "", objective)).writes]


def _pin_every(resolved: Resolved, parts: compose.Parts, sequences: encode.Sequences) -> Resolved:
    pace = replace(compose.pace_of(resolved.recipe, parts.objective), epochs=1, max_steps=None)
    in_epoch = len(encode.planned(parts.objective, sequences.train, pace))
    every = max(1, round(in_epoch / EVALUATIONS_PER_EPOCH))
    return resolved.pin("evaluate.every", every, f"{EVALUATIONS_PER_EPOCH} times an epoch")


def _report_rows(session: Session, splits: Prepared) -> None:
    for reason, count in reasons(splits.rejected).items():
        session.warn(
            f"{count} row(s) left out ({reason}); each is listed in {session.run.data / 'rejected.jsonl'}"
        )
    session.note(splits.receipt.get("notes", ()))
    if not splits.validation:
        session.warn(
            "no validation rows: no early stopping and no best checkpoint; the last weights are kept"
        )
    if not splits.test:
        session.warn("no test rows: nothing will be proven; set data.split.test or data.test")


def _judge(session: Session, parts: compose.Parts, test: Sequence[Example], kind: JudgeKind) -> Judge | None:
    if not test:
        return None
    names = session.recipe.evaluate.metrics
    assert names != "auto", "metrics are pinned where there are test rows"
    return kind.make(session, parts, test, names)


def _watcher(
    session: Session, parts: compose.Parts, validation: Sequence[Example], kind: JudgeKind
) -> Judge | None:
    """The judge that measures the watched metric on validation rows, if it is not the loss."""
    name = session.recipe.train.stop.metric
    if name in compose.losses_of(parts.objective):
        return None
    return kind.make(session, parts, validation, [name])


def _check_watched(session: Session, parts: compose.Parts, validation: Sequence[Example]) -> None:
    """Raise ``ConfigError`` where no validation row can say what ``train.stop.metric`` is."""
    name = session.recipe.train.stop.metric
    if name == "validation_loss":  # without any rows nothing is watched, which is said elsewhere
        return
    tasks = [
        t for t in tasks_of(parts.objective) if name == f"validation_{t}_loss" or name.startswith(f"{t}/")
    ]
    if not (rows_of(validation, tasks[0]) if tasks else validation):
        whose = f" of the task {tasks[0]!r}" if tasks else ""
        raise ConfigError(
            f"train.stop.metric {name!r} needs validation rows{whose}; set data.split.validation"
        )


def _baselines(
    session: Session, parts: compose.Parts, judge: Judge | None, train: Sequence[Example], kind: JudgeKind
) -> dict[str, Callable[[], Answers]]:
    names = session.recipe.evaluate.baselines
    assert names != "auto", "baselines are pinned"
    kind.check_baselines(names)
    if judge is None:
        return {}
    return {name: kind.baselines[name](session, parts, judge, train) for name in names}
