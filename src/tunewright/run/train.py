"""One run from data to proof: prepare, score the untouched model, train, score again, decide, report.

Every stage leaves its result in the run directory before the next begins, so that ``resume`` can go on from
any crash: prepared data, baseline answers, checkpoints, the trained model, the result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunewright.core import events
from tunewright.core.errors import ConfigError, RunError
from tunewright.core.events import Observer, Stage, Warned
from tunewright.core.paths import RunDir, write_json
from tunewright.core.records import Example, Text
from tunewright.data.pipeline import Prepared, write
from tunewright.engine.checkpoint import newest, steps
from tunewright.engine.loop import Fit, FitResult, Job, steps_in_order
from tunewright.evaluate.baselines import choose_shots
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Evaluator, longest_answer, questions
from tunewright.evaluate.suggest import suggest
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling
from tunewright.models.load import base_record
from tunewright.models.precision import use_all_cores
from tunewright.models.save import save_companions, save_model
from tunewright.run import compose, encode, store
from tunewright.run.publish import TUNED, Outcome, publish
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved, resolve, write_recipe
from tunewright.run.rows import prepare_rows, reasons, stored_rows

EVALUATIONS_PER_EPOCH = 4


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and the content of ``result.json``."""

    path: Path
    result: dict[str, Any]


@dataclass
class Session:
    """What the stages of one run share. ``seconds`` is the time of each stage."""

    resolved: Resolved
    run: RunDir
    observe: Observer
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Announce a stage and time it."""
        self.observe(Stage(name, detail))
        begun = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

    def warn(self, message: str) -> None:
        """Tell the user now, and again in the report."""
        self.warnings.append(message)
        self.observe(Warned(0, message))


def train(recipe: Recipe | Resolved, observe: Observer = events.silent) -> Run:
    """Do the whole run; raises ``RunError`` if its directory already holds one."""
    resolved = (
        recipe if isinstance(recipe, Resolved) else resolve(None, recipe.model_dump(exclude_unset=True), {})
    )
    if resolved.recipe.output.dir is None:
        directory = compose.default_directory(resolved.recipe)
        resolved = resolved.pin("output.dir", str(directory), "named after the data")
    assert resolved.recipe.output.dir is not None
    run = RunDir(Path(resolved.recipe.output.dir))
    if run.root.exists() and any(run.root.iterdir()):
        raise RunError(
            f"{run.root} is not empty; resume it with `tunewright resume {run.root}` or choose another output"
        )
    compose.check_early(resolved.recipe)
    return _carry_out(Session(resolved, run, observe), None)


def resume(directory: str | Path, observe: Observer = events.silent) -> Run:
    """Go on with an interrupted run; a finished one is returned as it is."""
    run = RunDir(Path(directory))
    if run.result.exists():
        return Run(run.root, store.read_result(run.root))
    if not run.recipe.exists() or not (run.data / "receipt.json").exists():
        raise RunError(
            f"{run.root} is not a run that can go on: recipe.yaml or data/ is missing; start it again"
        )
    resolved = resolve(run.recipe, None, {})
    return _carry_out(Session(resolved, run, observe), stored_rows(run))


def _carry_out(session: Session, splits: Prepared | None) -> Run:
    use_all_cores()
    session.observe = events.both(store.event_writer(session.run), session.observe)
    if splits is None:
        splits = _prepare(session)
    with session.stage("load model", session.recipe.model.name):
        parts = compose.assemble(session.recipe)
        for note in (*parts.loaded.notes, *parts.renderer.notes, parts.loaded.precision.reason):
            session.observe(Stage("note", note))
    with session.stage("render"):
        sequences = encode.encode_splits(parts, session, splits)
    session.resolved = pin_all(session, parts, splits, sequences)
    write_recipe(session.run, session.resolved)
    evaluator = _evaluator(session, parts, splits.test)
    answers = _score_base(session, parts, evaluator, splits)
    fitted, model = _fit(session, parts, splits, sequences)
    with session.stage("save"):
        _save(session, parts, model)
    if evaluator is not None:
        with session.stage("score tuned", f"{len(evaluator.questions)} test rows"):
            answers[TUNED] = evaluator(model)
        store.write_answers(session.run, answers)
    result = publish(session, Outcome(parts, model, fitted, splits, sequences, evaluator, answers))
    return Run(session.run.root, result)


def _prepare(session: Session) -> Prepared:
    with session.stage("check data", str(session.recipe.data.train)):
        prepared = prepare_rows(session.recipe)
        write_recipe(session.run, session.resolved)
        write(prepared, session.run.data)
    for reason, count in reasons(prepared.rejected).items():
        session.warn(
            f"{count} row(s) left out ({reason}); each is listed in {session.run.data / 'rejected.jsonl'}"
        )
    for note in prepared.receipt.get("notes", ()):
        session.observe(Stage("note", note))
    return prepared


def pin_all(
    session: Session, parts: compose.Parts, splits: Prepared, sequences: encode.Sequences
) -> Resolved:
    """Work out every ``auto`` of the recipe, now that model and data are known."""
    resolved = compose.pin_rate(session.resolved, parts.loaded)
    precision = parts.loaded.precision
    if resolved.recipe.model.dtype == "auto":
        resolved = resolved.pin("model.dtype", str(precision.dtype).removeprefix("torch."), precision.reason)
    if resolved.recipe.model.device == "auto":
        resolved = resolved.pin("model.device", precision.device.type, "the best device found")
    if resolved.recipe.evaluate.metrics == "auto" and splits.test:
        names, why = _suggested(splits.test)
        resolved = resolved.pin("evaluate.metrics", names, why)
    if resolved.recipe.evaluate.max_new_tokens == "auto" and splits.test:
        asked = questions([*splits.test, *splits.validation])
        resolved = resolved.pin(
            "evaluate.max_new_tokens",
            longest_answer(parts.renderer, asked),
            "a quarter over the longest reference",
        )
    if resolved.recipe.evaluate.every == "auto":
        one_epoch = replace(
            compose.fit_settings(resolved.pin("evaluate.every", 1, "").recipe), epochs=1, max_steps=None
        )
        in_epoch = len(steps_in_order(sequences.train, one_epoch))
        resolved = resolved.pin(
            "evaluate.every",
            max(1, round(in_epoch / EVALUATIONS_PER_EPOCH)),
            f"{EVALUATIONS_PER_EPOCH} times an epoch",
        )
    return resolved


def _suggested(test: Sequence[Example]) -> tuple[list[str], str]:
    if all(isinstance(e, Text) for e in test):
        return ["perplexity"], "documents have no answers to compare"
    suggestion = suggest([q.reference for q in questions(test)])
    return list(suggestion.metrics), suggestion.reason


def _evaluator(session: Session, parts: compose.Parts, rows: Sequence[Example]) -> Evaluator | None:
    """The judge over ``rows``; ``None`` without rows, which is said aloud."""
    section = session.recipe.evaluate
    if not rows:
        session.warn("no test rows: nothing will be proven; set data.split.test or data.test")
        return None
    asked = questions(rows, section.rows)
    assert section.metrics != "auto" and section.max_new_tokens != "auto"
    names = list(section.metrics)
    for name in names:
        if METRICS[name].needs == "text" and any(isinstance(q.example, Text) for q in asked):
            raise ConfigError(
                f"evaluate.metrics: {name} compares answers, but the data are documents; use perplexity"
            )
    return Evaluator(
        renderer=parts.renderer,
        questions=asked,
        metrics=names,
        sampling=Sampling(max_new_tokens=section.max_new_tokens, stop_ids=parts.renderer.stop_ids),
        forward_of=lambda model: ModelForward(model, compute=parts.loaded.precision.dtype),
        batch_size=section.batch_size,
        micro_tokens=session.recipe.train.micro_tokens,
        on_progress=lambda done, total: session.observe(events.Progress("answers", done, total)),
    )


def _score_base(
    session: Session, parts: compose.Parts, evaluator: Evaluator | None, splits: Prepared
) -> dict[str, Answers]:
    """The untouched model on the test rows; answers already on disk are not asked for again."""
    answers = store.read_answers(session.run)
    if evaluator is None:
        return answers
    for name in session.recipe.evaluate.baselines:
        if name in answers:
            continue
        shots = []
        if name == "few_shot":
            shots = choose_shots(splits.train, session.recipe.evaluate.shots, session.recipe.train.seed)
        with session.stage(f"score {name}", f"{len(evaluator.questions)} test rows, untouched model"):
            answers[name] = evaluator(parts.loaded.model, shots)
        store.write_answers(session.run, answers)
    return answers


def _fit(
    session: Session, parts: compose.Parts, splits: Prepared, sequences: encode.Sequences
) -> tuple[FitResult, Any]:
    recipe = session.recipe
    compose.seed_adapter(recipe.train.seed)
    model = parts.adapter.attach(parts.loaded.model)
    forward = ModelForward(model, compute=parts.loaded.precision.dtype, neftune=recipe.objective.neftune)
    job = Job(
        model=model,
        forward=forward,
        objective=parts.objective,
        train=sequences.train,
        validation=sequences.validation,
        task_metrics=_task_metrics(session, parts, splits, model),
        names=lambda row: sequences.train[row].meta.where(),
    )
    path, _ = newest(session.run.checkpoints)
    if path is not None:
        store.forget_events_after(
            session.run, next(s for s, p in steps(session.run.checkpoints).items() if p == path)
        )
    if not sequences.validation:
        session.warn(
            "no validation rows: no early stopping and no best checkpoint; the last weights are kept"
        )
    with session.stage("train", parts.adapter.label):
        return Fit(job, compose.fit_settings(recipe), session.run.checkpoints, session.observe).run(), model


def _task_metrics(session: Session, parts: compose.Parts, splits: Prepared, model: Any) -> Any:
    """A function that scores the watched metric on the validation rows, if it is not the loss."""
    name = session.recipe.train.stop.metric
    if name == "validation_loss":
        return None
    if not splits.validation:
        raise ConfigError(f"train.stop.metric {name!r} needs validation rows; set data.split.validation")
    judge = _evaluator(session, parts, splits.validation)
    assert judge is not None
    judge = replace(judge, metrics=[name])
    return lambda: {name: METRICS[name].aggregate(judge(model).scores[name])}


def _save(session: Session, parts: compose.Parts, model: Any) -> None:
    """The trained part in its own format, with tokenizer, template and stop tokens beside it."""
    tokenizer, stop_ids, run = parts.loaded.tokenizer, parts.renderer.stop_ids, session.run
    if session.recipe.adapt.method in compose.FULL_PRECISION:
        save_model(model, tokenizer, run.model, stop_ids)
        return
    parts.adapter.save(model, run.adapter)
    save_companions(parts.loaded.model, tokenizer, run.adapter, stop_ids)
    write_json(run.adapter / "base.json", base_record(parts.loaded.ref.name, parts.loaded.model))
    if session.recipe.output.final == "merged":
        save_model(compose.merged_copy(session.recipe, run.adapter), tokenizer, run.model, stop_ids)
