"""One run from data to proof: prepare, score the untouched model, train, score again, decide, report.

Nothing is written before everything that can be checked was checked. From then on every stage leaves its
result in the run directory before the next begins, so that ``resume`` can go on from any crash: prepared
data, baseline answers, checkpoints, the trained model, the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunewright.core import events
from tunewright.core.errors import RunError
from tunewright.core.events import Observer
from tunewright.core.paths import RunDir, write_json
from tunewright.data.pipeline import write
from tunewright.engine.loop import Fit, FitResult, Job
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers
from tunewright.models.base_record import base_record
from tunewright.models.forward import ModelForward
from tunewright.models.frozen import FrozenForward, trunk_is_fixed
from tunewright.models.layer_cache import LayerCache
from tunewright.models.precision import use_all_cores
from tunewright.models.rope import as_before
from tunewright.models.save import save_companions, save_heads, save_model
from tunewright.models.savers import keeps_nothing, saving
from tunewright.models.score import attach
from tunewright.run import compose, store
from tunewright.run.judges import Judge, kind_for
from tunewright.run.layer_cache import begin_cache
from tunewright.run.publish import TUNED, Outcome, publish
from tunewright.run.ready import Ready, make_ready
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved, read_recipe, resolve, write_recipe
from tunewright.run.rows import prepare_rows, stored_rows, suspicions
from tunewright.run.session import Run, Session
from tunewright.run.sizing import MICRO
from tunewright.run.supply import Supply, check_supplies, supplied
from tunewright.run.task_files import train_files

__all__ = ["PHASES", "Run", "resume", "settled", "train"]

TRIED = "cuda"  # type of device on which the largest micro-batch is tried before the first update
PHASES = "phases"  # earlier runs of a preset, which may stand in a run directory before it begins


def train(recipe: Recipe | Resolved, observe: Observer = events.silent) -> Run:
    """Do the whole run; raises ``RunError`` if its directory already holds something."""
    resolved, run = settled(recipe)
    if run.root.exists() and (not run.root.is_dir() or any(p.name != PHASES for p in run.root.iterdir())):
        raise RunError(
            f"{run.root} is not empty; go on with `tunewright resume {run.root}`, or choose another directory"
            " with --out or output.dir"
        )
    compose.check_early(resolved.recipe)
    use_all_cores()
    session = Session(resolved, run, observe)
    with session.stage("check data", train_files(session.recipe)):
        splits = prepare_rows(session.recipe)
        for sentence in suspicions(session.recipe):
            session.warn(sentence)
    ready = make_ready(session, splits)
    check_supplies(session, ready)
    write_recipe(run, session.resolved)
    write(splits, run.data)
    session.open_log()
    return _carry_out(session, ready)


def resume(directory: str | Path, observe: Observer = events.silent) -> Run:
    """Go on with an interrupted run; a finished one is returned as it is."""
    run = RunDir(Path(directory))
    if run.result.exists():
        return Run(run.root, store.read_result(run.root))
    if not run.recipe.exists():
        raise RunError(f"{run.root} is not a run directory: it has no recipe.yaml")
    splits = stored_rows(run)
    use_all_cores()
    session = Session.reopened(read_recipe(run), run, observe)
    return _carry_out(session, make_ready(session, splits))


def settled(recipe: Recipe | Resolved) -> tuple[Resolved, RunDir]:
    """The recipe with its run directory, which is named after the data if it says none."""
    resolved = (
        recipe if isinstance(recipe, Resolved) else resolve(None, recipe.model_dump(exclude_unset=True), {})
    )
    if resolved.recipe.output.dir is None:
        directory = compose.default_directory(resolved.recipe)
        resolved = resolved.pin("output.dir", str(directory), "named after the data")
    assert resolved.recipe.output.dir is not None
    return resolved, RunDir(Path(resolved.recipe.output.dir))


def _carry_out(session: Session, ready: Ready) -> Run:
    answers = _score_baselines(session, ready)
    supply, fitted = _fit(session, ready)
    model = supply.model
    _calibrate(session, ready, model)
    _save(session, ready, model)
    _score_tuned(session, ready, model, answers)
    shutil.rmtree(session.run.cache, ignore_errors=True)  # of no use from here on
    result = publish(session, Outcome(ready, supply, fitted, answers))
    return Run(session.run.root, result)


def _score_baselines(session: Session, ready: Ready) -> dict[str, Answers]:
    """The untouched model on the test rows; answers already on disk are not asked for again."""
    answers = store.read_answers(session.run)
    if ready.judge is None:
        return answers
    rows = f"{len(ready.judge.questions)} test rows"
    for name, score in ready.baselines.items():
        if name in answers:
            continue
        with session.stage(f"score {name}", rows), as_before(ready.parts.loaded.model):
            answers[name] = score()
        store.write_answers(session.run, answers)
    return answers


def _fit(session: Session, ready: Ready) -> tuple[Supply, FitResult]:
    """Attach the adapter and train, or go on training; the model supplied has its best weights then."""
    recipe, parts, sequences = session.recipe, ready.parts, ready.sequences
    compose.seed_adapter(recipe.train.seed)
    model = parts.adapter.attach(parts.loaded.model)
    attach(model, parts.objective.heads)
    forward = _forward(session, parts, model)
    if forward.plain:
        session.note(["the output layer has an unusual form: computing it the model's own, slower way"])
    supply = supplied(
        session,
        ready,
        Supply(
            model,
            forward,
            parts.objective,
            sequences.train,
            sequences.validation,
            watched(ready.watcher, model),
        ),
    )
    begin_cache(session, parts, supply.forward, (supply.train, supply.validation))
    job = Job(
        model=model,
        adapter=parts.adapter,
        forward=supply.forward,
        objective=supply.objective,
        train=supply.train,
        validation=supply.validation,
        task_metrics=supply.task_metrics,
        source=supply.source,
        rate_of=compose.rates_of(parts.objective),
        probe=_probed(session, supply),
    )
    memory = recipe.train.memory
    savers = saving(model, memory.recomputed, memory.offload == "activations")
    if memory.recomputed and keeps_nothing(model, memory.recomputed):
        session.warn(
            f"train.memory.checkpoint_layers {memory.recomputed} saves nothing: no weight trains in or"
            " below these layers, so they keep nothing anyway"
        )
    with session.stage("train", parts.adapter.label), savers:
        settings = compose.fit_settings(recipe, parts.objective)
        return supply, Fit(job, settings, session.run.checkpoints, session.observe).run()


def _probed(session: Session, supply: Supply) -> bool:
    """Whether the largest micro-batch is tried first: where its size was chosen and a trial says something.

    A CPU refuses nothing that it may not have, and a trial there takes as long as an update. What is written
    while training is not known before, and a forward pass that keeps its states must see the planned batches.
    """
    chosen = session.resolved.sources[MICRO].startswith("auto")
    keeps = isinstance(supply.forward, FrozenForward) or isinstance(supply.forward.below, LayerCache)
    return chosen and supply.forward.device.type == TRIED and not keeps and supply.source is None


def _forward(session: Session, parts: compose.Parts, model: Any) -> ModelForward:
    """The model as the objective sees it; where only heads train, each text is read once."""
    dtype, neftune = parts.loaded.precision.dtype, compose.neftune_of(session.recipe)
    off = session.recipe.train.layer_cache == "off"
    if off or neftune > 0 or not trunk_is_fixed(model):
        return ModelForward(model, compute=dtype, neftune=neftune)
    session.note(["only the head trains: the model reads each text once, and its states are kept on disk"])
    return FrozenForward(model, session.run.cache, compute=dtype)


def _calibrate(session: Session, ready: Ready, model: Any) -> None:
    """What the kind of judging has to learn about the trained model from validation rows."""
    calibrate, validation = kind_for(ready.parts.objective).calibrate, ready.splits.validation
    if calibrate is not None and validation:
        with session.stage("calibrate", f"{len(validation)} validation rows"):
            calibrate(session, ready.parts, validation, model)


def watched(watcher: Judge | None, model: Any) -> Callable[[], dict[str, float]] | None:
    """What measures the watched metric on validation rows."""
    if watcher is None:
        return None
    [name] = watcher.metrics
    return lambda: {name: METRICS[name].aggregate(watcher(model).scores[name])}


def _save(session: Session, ready: Ready, model: Any) -> None:
    """The trained part in its own format, with tokenizer, template and stop tokens beside it."""
    parts, run = ready.parts, session.run
    tokenizer, stop_ids = parts.loaded.tokenizer, parts.renderer.stop_ids
    with session.stage("save"):
        writes = parts.objective.judged not in compose.BY_HEAD
        if parts.adapter.whole:
            save_model(model, tokenizer, run.model, stop_ids, writes=writes)
            return
        parts.adapter.save(model, run.adapter)
        save_heads(model, tokenizer, run.adapter, writes=writes)
        save_companions(parts.loaded.model, tokenizer, run.adapter, stop_ids)
        write_json(run.adapter / "base.json", base_record(parts.loaded, parts.adapter.changes))
        if session.recipe.output.final == "merged":
            save_model(compose.merged_copy(run.adapter), tokenizer, run.model, stop_ids)


def _score_tuned(session: Session, ready: Ready, model: Any, answers: dict[str, Answers]) -> None:
    if ready.judge is None:
        return
    with session.stage("score tuned", f"{len(ready.judge.questions)} test rows"):
        answers[TUNED] = ready.judge(model)
    store.write_answers(session.run, answers)
    for sentence in ready.judge.remarks(answers[TUNED]):
        session.warn(sentence)
