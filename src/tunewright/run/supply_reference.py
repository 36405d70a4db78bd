"""Supplies the reference: log-probabilities of the untouched model, computed once before training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from tunewright.core.errors import RunError
from tunewright.core.hashing import digest
from tunewright.core.paths import RunDir, write_json
from tunewright.core.records import Tokens
from tunewright.models.causal import causal_lm
from tunewright.models.fingerprint import fingerprint
from tunewright.models.quantised import contents
from tunewright.models.score import is_head
from tunewright.objectives.multi import tasks_of
from tunewright.run.compose import fit_settings
from tunewright.run.encode import planned
from tunewright.run.ready import Ready
from tunewright.run.reference import before_training, throughout, with_reference
from tunewright.run.session import Session
from tunewright.run.supply import Supply

RECORD = "reference.json"  # in the run directory: what the reference was when the run began
CHANGED = {
    "model": "the weights or the config of the base model are not those that the run was begun with",
    "precision": "the number format or the device is not that which the run was begun with",
    "rows": "its rows are read as other tokens than when the run was begun, or with other weights: tokenizer,"
    " chat template or data.train_on have changed",
}


def supply(session: Session, ready: Ready, given: Supply) -> Supply:
    """The sums for the answers there are, and for answers yet to be sampled the reference itself.

    Raises ``RunError`` for a resumed run whose base model, number format or tokens have changed.
    """
    parts, micro_tokens = ready.parts, session.recipe.train.at_once
    reference = before_training(parts.adapter, given.model, given.forward)
    tasks = tasks_of(given.objective)

    def marked(sequences: Sequence[Tokens], identity: str) -> Sequence[Tokens]:
        held = ["reference" in tasks.get(t.task, given.objective).requires for t in sequences]
        own = list(compress(sequences, held))
        if not any(tokens.trained for tokens in own):
            return sequences
        found = iter(with_reference(own, reference, micro_tokens, identity, session.observe))
        return [next(found) if mine else tokens for tokens, mine in zip(sequences, held, strict=True)]

    seen = _seen(session, given)
    with session.stage("reference", f"{len(seen) + len(given.validation)} rows, untouched model"):
        facts = _facts(ready, given)
        check_unchanged(session.run, facts)
        identity = digest([facts["model"], facts["precision"]])
        found = dict(zip(seen, marked([given.train[i] for i in seen], identity), strict=True))
        train = [found.get(i, tokens) for i, tokens in enumerate(given.train)]
        validation = marked(given.validation, identity)
    if "rollouts" in given.objective.requires:
        lasting = throughout(parts.adapter, given.model, given.forward)
        return replace(given, train=train, validation=validation, reference=lasting)
    return replace(given, train=train, validation=validation)


def check_unchanged(run: RunDir, facts: dict[str, str]) -> None:
    """Write down what the reference is; raise ``RunError`` if it was something else when the run began."""
    record = run.root / RECORD
    if not record.exists():
        write_json(record, facts)
        return
    try:
        before = json.loads(record.read_bytes())
    except ValueError:
        raise RunError(f"{record} is damaged; start the run again") from None
    for name, what in CHANGED.items():
        if before.get(name) != facts[name]:
            raise RunError(f"{run.root} cannot go on: {what}; put it back, or start a new run")


def _seen(session: Session, given: Supply) -> list[int]:
    """The training rows that the run will see; with ``train.max_steps`` these may be few."""
    pace = fit_settings(session.recipe, given.objective).pace
    steps = planned(given.objective, given.train, pace, given.objective.updates)
    return sorted({row for step in steps for row in step.rows})


def _facts(ready: Ready, given: Supply) -> dict[str, str]:
    precision = ready.parts.loaded.precision
    every = (*given.train, *given.validation)
    rows = [[t.ids, t.weights, [[b.ids, b.weights] for b in t.branches]] for t in every]
    return {
        "model": fingerprint(causal_lm(given.model).config, _untouched_weights(ready, given.model)),
        "precision": f"{precision.dtype} on {precision.device.type}",
        "rows": digest(rows),
    }


def _untouched_weights(ready: Ready, model: Any) -> list[Any]:
    """The weights of the base: those that do not train; before training, where all do, all but new heads."""
    frozen = "reference" in ready.parts.adapter.provides
    own = [p for n, p in model.named_parameters() if not is_head(n) and not (frozen and p.requires_grad)]
    return [tensor for parameter in own for tensor in contents(parameter)]
