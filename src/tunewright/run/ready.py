"""Everything a run needs before its first step, made and checked without writing a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunewright.core.errors import ConfigError
from tunewright.core.records import Conversation, Example
from tunewright.data.pipeline import Prepared
from tunewright.engine.loop import steps_in_order
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Evaluator, questions
from tunewright.run import asking, compose, encode
from tunewright.run.resolve import Resolved
from tunewright.run.rows import reasons
from tunewright.run.session import Session

EVALUATIONS_PER_EPOCH = 4
NO_MATTER = 32  # longest answer where no answer is generated


@dataclass(frozen=True)
class Ready:
    """What the stages work with.

    ``judge`` asks the test rows and is ``None`` without any; ``watcher`` asks the validation rows and is
    ``None`` unless a task metric decides when to stop.
    """

    splits: Prepared
    parts: compose.Parts
    sequences: encode.Sequences
    judge: Evaluator | None
    shots: Sequence[Conversation]
    watcher: Evaluator | None


def make_ready(session: Session, splits: Prepared) -> Ready:
    """Load the model, render the rows, work out every ``auto``, and find out now what would fail later."""
    _report_rows(session, splits)
    with session.stage("load model", session.recipe.model.name):
        parts = compose.assemble(session.recipe)
    with session.stage("render"):
        sequences = encode.encode_splits(parts, session, splits)
    session.note((*parts.loaded.notes, *parts.renderer.notes, parts.loaded.precision.reason))
    session.resolved = pin_all(session.resolved, parts, splits, sequences)
    judge = _judge(session, parts, splits.test)
    watcher = _watcher(session, parts, splits.validation)
    return Ready(splits, parts, sequences, judge, _shots(session, judge, splits.train), watcher)


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
    if resolved.recipe.evaluate.every == "auto":
        resolved = _pin_every(resolved, sequences)
    return _pin_asking(resolved, parts, splits)


def _pin_asking(resolved: Resolved, parts: compose.Parts, splits: Prepared) -> Resolved:
    recipe = resolved.recipe
    if recipe.evaluate.metrics == "auto" and splits.test:
        resolved = resolved.pin("evaluate.metrics", *asking.suggested(questions(splits.test)))
    if recipe.evaluate.max_new_tokens != "auto":
        return resolved
    rows = [*splits.test, *(splits.validation if recipe.train.stop.metric != "validation_loss" else ())]
    if rows:
        resolved = resolved.pin("evaluate.max_new_tokens", *asking.longest(parts.loaded, questions(rows)))
    return resolved


def _pin_every(resolved: Resolved, sequences: encode.Sequences) -> Resolved:
    settings = compose.fit_settings(resolved.pin("evaluate.every", 1, "").recipe)
    in_epoch = len(steps_in_order(sequences.train, replace(settings, epochs=1, max_steps=None)))
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


def _judge(session: Session, parts: compose.Parts, test: Sequence[Example]) -> Evaluator | None:
    if not test:
        return None
    names = session.recipe.evaluate.metrics
    assert names != "auto", "metrics are pinned where there are test rows"
    return _evaluator(session, parts, test, names)


def _watcher(session: Session, parts: compose.Parts, validation: Sequence[Example]) -> Evaluator | None:
    """The judge that measures the watched metric on validation rows, if it is not the loss."""
    name = session.recipe.train.stop.metric
    if name == "validation_loss":
        return None
    if not validation:
        raise ConfigError(f"train.stop.metric {name!r} needs validation rows; set data.split.validation")
    _ = METRICS[name]
    return _evaluator(session, parts, validation, [name])


def _evaluator(
    session: Session, parts: compose.Parts, rows: Sequence[Example], metrics: Sequence[str]
) -> Evaluator:
    recipe = session.recipe
    new = recipe.evaluate.max_new_tokens
    how = asking.Asking(
        metrics=metrics,
        max_new_tokens=NO_MATTER if new == "auto" else new,
        piece=recipe.data.max_length,
        batch_size=recipe.evaluate.batch_size,
        micro_tokens=recipe.train.micro_tokens,
    )
    asked = asking.chosen(rows, recipe.evaluate.rows, recipe.train.seed, lambda text: session.note([text]))
    return asking.evaluator(parts.loaded, asked, how, session.observe)


def _shots(session: Session, judge: Evaluator | None, train: Sequence[Example]) -> list[Conversation]:
    section = session.recipe.evaluate
    if judge is None or "few_shot" not in section.baselines:
        return []
    return asking.fitting_shots(judge, train, section.shots, session.recipe.train.seed, session.warn)
