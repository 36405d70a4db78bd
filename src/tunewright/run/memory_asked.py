"""Which questions will be answered together: the lengths that decide how much memory answering takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tunewright.evaluate.baselines import with_shots
from tunewright.evaluate.metrics import METRICS, split_task
from tunewright.run.judge_tasks import TaskJudge
from tunewright.run.ready import Ready


def longest_prompts(ready: Ready) -> list[int]:
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
