"""Everything a run needs before its first step, made and checked without writing a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tunewright.core.errors import ConfigError
from tunewright.core.records import Example
from tunewright.data.pipeline import Prepared
from tunewright.engine.plan import steps_in_order
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, questions
from tunewright.run import asking, compose, encode
from tunewright.run.judges import JUDGES, Judge, JudgeKind
from tunewright.run.resolve import Resolved
from tunewright.run.rows import reasons
from tunewright.run.session import Session

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


def make_ready(session: Session, splits: Prepared) -> Ready:
    """Load the model, render the rows, work out every ``auto``, and find out now what would fail later."""
    _report_rows(session, splits)
    with session.stage("load model", session.recipe.model.name):
        parts = compose.assemble(session.recipe, splits.train)
    with session.stage("render"):
        sequences = encode.encode_splits(parts, session, splits)
    session.note((*parts.loaded.notes, *parts.renderer.notes, parts.loaded.precision.reason))
    session.resolved = pin_all(session.resolved, parts, splits, sequences)
    kind: JudgeKind = JUDGES[parts.objective.judged]
    judge = _judge(session, parts, splits.test, kind)
    watcher = _watcher(session, parts, splits.validation, kind)
    baselines = _baselines(session, parts, judge, splits.train, kind)
    return Ready(splits, parts, sequences, judge, baselines, watcher)


def pin_all(
    resolved: Resolved, parts: compose.Parts, splits: Prepared, sequences: encode.Sequences
) -> Resolved:
    """Work out every ``auto`` of the recipe, now that model and data are known."""
    resolved = compose.pin_rate(resolved, parts.loaded)
    precision = parts.loaded.precision
    if resolved.recipe.model.dtype == "auto":
        resolved = resolved.pin("model.dtype", str(precision.dtype).removeprefix("torch."), precision.reason)
    if resolved.recipe.model.device == "auto":
        resolved = resolved.pin("model.device", precision.device.type, "the best device found")
    if resolved.recipe.train.stop.metric == "auto":
        resolved = resolved.pin("train.stop.metric", *_watched(parts))
    if resolved.recipe.evaluate.every == "auto":
        resolved = _pin_every(resolved, parts, sequences)
    return _pin_judging(resolved, parts, splits)


def _watched(parts: compose.Parts) -> tuple[str, str]:
    if parts.objective.judged == "rewards":
        return "reward", "answers are sampled and rewarded"
    return "validation_loss", "what training minimises"


def _pin_judging(resolved: Resolved, parts: compose.Parts, splits: Prepared) -> Resolved:
    recipe, kind = resolved.recipe, JUDGES[parts.objective.judged]
    if recipe.evaluate.baselines == "auto":
        resolved = resolved.pin("evaluate.baselines", list(kind.usual), "what suits the objective")
    if recipe.evaluate.metrics == "auto" and splits.test:
        resolved = resolved.pin("evaluate.metrics", *kind.suggest(splits.test))
    if recipe.evaluate.max_new_tokens != "auto" or parts.objective.judged != "answers":
        return resolved
    rows = [*splits.test, *(splits.validation if recipe.train.stop.metric != "validation_loss" else ())]
    if rows:
        resolved = resolved.pin("evaluate.max_new_tokens", *asking.longest(parts.loaded, questions(rows)))
    return resolved


def _pin_every(resolved: Resolved, parts: compose.Parts, sequences: encode.Sequences) -> Resolved:
    settings = compose.fit_settings(resolved.pin("evaluate.every", 1, "").recipe, parts.objective)
    pace = replace(settings.pace, epochs=1, max_steps=None)
    in_epoch = len(steps_in_order(encode.sizes_of(parts.objective, sequences.train), pace))
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
    if name == "validation_loss":
        return None
    if not validation:
        raise ConfigError(f"train.stop.metric {name!r} needs validation rows; set data.split.validation")
    _ = METRICS[name]
    return kind.make(session, parts, validation, [name])


def _baselines(
    session: Session, parts: compose.Parts, judge: Judge | None, train: Sequence[Example], kind: JudgeKind
) -> dict[str, Callable[[], Answers]]:
    names = session.recipe.evaluate.baselines
    assert names != "auto", "baselines are pinned"
    kind.check_baselines(names)
    if judge is None:
        return {}
    return {name: kind.baselines[name](session, parts, judge, train) for name in names}
