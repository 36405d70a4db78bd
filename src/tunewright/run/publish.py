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
from tunewright.data.split import groups_of
from tunewright.engine.loop import FitResult
from tunewright.engine.memory import peak_mb
from tunewright.engine.plan import micro_batches, steps_in_order
from tunewright.evaluate.card import model_card
from tunewright.evaluate.report import ReportData, render_report
from tunewright.evaluate.runner import Answers, Question
from tunewright.models.score import is_head
from tunewright.run import store
from tunewright.run.compose import fit_settings
from tunewright.run.encode import sizes_of
from tunewright.run.prove import measure, no_proof, side_by_side
from tunewright.run.ready import Ready
from tunewright.run.recipe import Recipe
from tunewright.run.session import Session

TUNED = "tuned"


@dataclass(frozen=True)
class Outcome:
    """Everything a finished run knows."""

    ready: Ready
    model: Any
    fitted: FitResult
    answers: dict[str, Answers]


def publish(session: Session, outcome: Outcome) -> dict[str, Any]:
    """Write the result, then the report and the card made from it; returns the result."""
    result = result_of(session, outcome)
    run = session.run
    receipt = json.loads((run.data / "receipt.json").read_text(encoding="utf-8"))
    commands = [f"tunewright train {run.recipe} output.dir={run.root}-again"]
    library = "transformers" if run.model.exists() else "peft"
    data = ReportData(
        result=result,
        curves=curves_of(list(store.read_events(run)), session.recipe.train.stop.metric),
        answers=_answers(outcome, session.recipe),
        first_batch=_first_batch(session, outcome),
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
    metrics, verdict = _proof(recipe, outcome)
    receipt_digest = file_digest(session.run.data / "receipt.json")
    return {
        "status": "finished",
        "tunewright": __version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "name": session.run.root.name,
        "model": {
            "name": parts.loaded.ref.name,
            "parameters": sum(
                p.numel() for n, p in outcome.model.named_parameters() if "lora_" not in n and not is_head(n)
            ),
            "trained_parameters": sum(p.numel() for p in outcome.model.parameters() if p.requires_grad),
            "dtype": str(parts.loaded.precision.dtype).removeprefix("torch."),
            "device": parts.loaded.precision.device.type,
            "adapt": parts.adapter.label,
            "objective": recipe.objective.name,
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
        "metrics": metrics,
        "verdict": verdict,
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
        "validation": [(e["step"], e["metrics"]["validation_loss"]) for e in evaluations],
        "metric": {"name": watched, "points": points} if watched != "validation_loss" else None,
    }


def clusters_of(questions: Sequence[Question]) -> list[str | None] | None:
    """The group of each test row, if any group has several rows; such rows are not independent evidence."""
    keys = groups_of([q.example for q in questions])
    return [str(k) for k in keys] if len(set(keys)) < len(keys) else None


def _proof(recipe: Recipe, outcome: Outcome) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    if outcome.ready.judge is None:
        return [], no_proof("There are no test rows, so nothing was measured.")
    if len(outcome.ready.judge.questions) < 2:
        return [], no_proof("One test row proves nothing; give at least two.")
    return measure(
        outcome.answers,
        TUNED,
        outcome.ready.judge.metrics,
        level=recipe.evaluate.level,
        clusters=clusters_of(outcome.ready.judge.questions),
    )


def _answers(outcome: Outcome, recipe: Recipe) -> list[dict[str, Any]]:
    if outcome.ready.judge is None:
        return []
    return side_by_side(outcome.ready.judge.questions, outcome.answers, TUNED, outcome.ready.judge.metrics[0])


def _first_batch(session: Session, outcome: Outcome) -> list[list[tuple[str, float, str]]]:
    ready, settings = outcome.ready, fit_settings(session.recipe, outcome.ready.parts.objective)
    train = ready.sequences.train
    [first, *_] = steps_in_order(sizes_of(ready.parts.objective, train), settings.pace)
    rows = [train[row] for row in first.rows]
    [shown, *_] = micro_batches(rows, settings.micro_tokens)
    return [ready.parts.renderer.explain(t) for i in shown for t in rows[i].unrolled()]
