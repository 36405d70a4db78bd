"""What a run leaves for people: ``result.json``, ``report.html`` and the model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tunewright import __version__
from tunewright.core.hashing import file_digest
from tunewright.core.paths import write_json, write_text
from tunewright.core.records import Tokens
from tunewright.data.split import groups_of
from tunewright.engine.loop import FitResult
from tunewright.engine.memory import peak_mb
from tunewright.engine.plan import micro_batches
from tunewright.evaluate.card import model_card
from tunewright.evaluate.metrics import split_task
from tunewright.evaluate.report import ReportData, render_report
from tunewright.evaluate.runner import Answers, Question
from tunewright.objectives.base import Objective
from tunewright.objectives.multi import tasks_of
from tunewright.run import store
from tunewright.run.compose import fit_settings
from tunewright.run.encode import planned
from tunewright.run.judge_tasks import Measured, measured
from tunewright.run.judges import kind_for
from tunewright.run.prove import measure, no_proof, side_by_side
from tunewright.run.ready import Ready
from tunewright.run.recipe import Recipe
from tunewright.run.session import Session
from tunewright.run.supply import Supply

TUNED = "tuned"


@dataclass(frozen=True)
class Outcome:
    """Everything a finished run knows."""

    ready: Ready
    supply: Supply
    fitted: FitResult
    answers: dict[str, Answers]


def publish(session: Session, outcome: Outcome) -> dict[str, Any]:
    """Write the result, then the report and the card made from it; returns the result."""
    result = result_of(session, outcome)
    run = session.run
    receipt = json.loads((run.data / "receipt.json").read_text(encoding="utf-8"))
    commands = [f"tunewright train {run.recipe} output.dir={run.root}-again"]
    ready, first = outcome.ready, _first_batch(session, outcome)
    library = "transformers" if run.model.exists() else ready.parts.adapter.library
    data = ReportData(
        result=result,
        curves=curves_of(list(store.read_events(run)), session.recipe.train.stop.metric),
        answers=_answers(outcome, session.recipe),
        first_batch=[ready.parts.renderer.explain(tokens) for tokens in first],
        batch_labels=_labels(ready, first),
        receipt=receipt,
        settings=session.resolved.settings(),
        reproduce=commands,
    )
    write_text(run.report, render_report(data))
    write_text(run.card, model_card(result, receipt, library_name=library, reproduce=commands))
    write_json(run.result, result)  # last: its presence says that the run is complete
    return result


def result_of(session: Session, outcome: Outcome) -> dict[str, Any]:
    """The content of ``result.json``."""
    recipe, parts, fitted = session.recipe, outcome.ready.parts, outcome.fitted
    model = outcome.supply.model
    metrics, verdicts = _proof(recipe, outcome)
    _warn_of_losses(session, verdicts)
    receipt_digest = file_digest(session.run.data / "receipt.json")
    return {
        "status": "finished",
        "tunewright": __version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "name": session.run.root.name,
        "model": {
            "name": parts.loaded.ref.name,
            "parameters": parts.loaded.parameters,
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "dtype": str(parts.loaded.precision.dtype).removeprefix("torch."),
            "device": parts.loaded.precision.device.type,
            "adapt": parts.adapter.label,
            "objective": recipe.objective.name,
            "judged": parts.objective.judged,
        },
        "data": {"receipt_sha256": receipt_digest, "render": outcome.ready.sequences.facts},
        "counts": {
            "train": len(outcome.ready.splits.train),
            "validation": len(outcome.ready.splits.validation),
            "test": len(outcome.ready.judge.questions) if outcome.ready.judge else 0,
            "rejected": len(outcome.ready.splits.rejected),
            "steps": fitted.step,
            "tokens_trained": fitted.tokens,
        },
        "cost": {
            "seconds": {name: round(value, 2) for name, value in session.seconds.items()},
            "tokens": fitted.tokens,
            "tokens_per_second": round(fitted.tokens / max(fitted.seconds, 1e-9), 1),
            "peak_memory_mb": round(peak_mb(parts.loaded.precision.device), 1),
        },
        "training": {
            "stop_reason": fitted.reason,
            "best_step": fitted.best_step,
            "final_step": fitted.step,
            "best_validation_loss": fitted.best if recipe.train.stop.metric == "validation_loss" else None,
            "watched": {"metric": recipe.train.stop.metric, "best": fitted.best},
            "overfitting": fitted.overfitting,
        },
        "answers": {
            name: {"unfinished": a.unfinished, "new_tokens": a.new_tokens, "seconds": round(a.seconds, 2)}
            for name, a in outcome.answers.items()
        },
        "supplied": outcome.supply.facts,
        "metrics": metrics,
        "verdict": next(iter(verdicts.values())),
        **({} if "" in verdicts else {"tasks": verdicts}),
        "warnings": session.warnings,
    }


def curves_of(log: Sequence[dict[str, Any]], watched: str) -> dict[str, Any]:
    """The curves of the report, from the event log."""
    ends = [e for e in log if e["event"] == "StepEnd"]
    evaluations = [e for e in log if e["event"] == "EvalEnd"]
    points = [(e["step"], e["metrics"][watched]) for e in evaluations if watched in e["metrics"]]
    return {
        "train": [(e["step"], e["loss"]) for e in ends],
        "learning_rate": [(e["step"], e["learning_rate"]) for e in ends],
        "validation": [
            (e["step"], e["metrics"]["validation_loss"])
            for e in evaluations
            if "validation_loss" in e["metrics"]
        ],
        "metric": {"name": watched, "points": points} if watched != "validation_loss" else None,
    }


def clusters_of(questions: Sequence[Question]) -> list[str | None] | None:
    """The group of each test row, if any group has several rows; such rows are not independent evidence."""
    keys = groups_of([q.example for q in questions])
    return [str(k) for k in keys] if len(set(keys)) < len(keys) else None


def _proof(recipe: Recipe, outcome: Outcome) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Every metric, and the verdict on each task, the deciding one first; without tasks the one there is."""
    if outcome.ready.judge is None:
        return [], {"": no_proof("There are no test rows, so nothing was measured.")}
    table: list[dict[str, Any]] = []
    verdicts: dict[str, dict[str, Any]] = {}
    for part in measured(outcome.ready.judge, outcome.answers):
        rows, verdict = _proof_of(part, outcome, recipe.evaluate.level)
        table += [{**row, "primary": row["primary"] and not verdicts} for row in rows]
        verdicts[part.task] = verdict
    return table, verdicts


def _proof_of(part: Measured, outcome: Outcome, level: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    if len(part.questions) < 2:
        return [], no_proof("One test row proves nothing; give at least two.")
    return measure(
        part.systems,
        TUNED,
        part.metrics,
        level=level,
        clusters=clusters_of(part.questions),
        beside=_beside(part, outcome),
    )


def _beside(part: Measured, outcome: Outcome) -> frozenset[str]:
    """The systems that are compared with, but not to be beaten."""
    kind = kind_for(_objective_of(outcome.ready, part.task))
    return frozenset(name for name in part.systems if split_task(name)[1] in kind.beside)


def _objective_of(ready: Ready, task: str) -> Objective:
    """The objective of a task, or the one there is."""
    return tasks_of(ready.parts.objective).get(task, ready.parts.objective)


def _warn_of_losses(session: Session, verdicts: dict[str, dict[str, Any]]) -> None:
    """Say that a task which does not decide became worse."""
    for task, verdict in list(verdicts.items())[1:]:
        if verdict["word"] == "DON'T SHIP":
            session.warn(
                f"task {task}: {verdict['reason']} The verdict is about another task and hides this."
            )


def _answers(outcome: Outcome, recipe: Recipe) -> list[dict[str, Any]]:
    if outcome.ready.judge is None:
        return []
    found: list[dict[str, Any]] = []
    for part in measured(outcome.ready.judge, outcome.answers):
        found += side_by_side(part.questions, part.systems, TUNED, part.metrics[0], _beside(part, outcome))
    return found


def _first_batch(session: Session, outcome: Outcome) -> list[Tokens]:
    """The sequences of the first micro-batch, each branch behind its prefix."""
    ready, train = outcome.ready, outcome.supply.train
    settings = fit_settings(session.recipe, ready.parts.objective)
    [first, *_] = planned(ready.parts.objective, train, settings.pace)
    rows = [train[row] for row in first.rows]
    [shown, *_] = micro_batches(rows, settings.micro_tokens)
    return [tokens for i in shown for tokens in rows[i].unrolled()]


def _labels(ready: Ready, sequences: Sequence[Tokens]) -> list[str]:
    """What a head is to say of each sequence; empty where tokens are learnt."""
    if not sequences or _objective_of(ready, sequences[0].task).judged not in ("labels", "numbers"):
        return []
    labels = {row.meta.where(): getattr(row, "label", "") for row in ready.splits.train}
    found = [labels[tokens.meta.where()] for tokens in sequences]
    return [", ".join(label) if isinstance(label, tuple) else str(label) for label in found]
