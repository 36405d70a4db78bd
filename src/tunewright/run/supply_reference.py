"""Supplies the reference: log-probabilities of the untouched model, computed once before training."""

from __future__ import annotations

from dataclasses import replace

from tunewright.core.records import Tokens
from tunewright.run.ready import Ready
from tunewright.run.reference import cache_key, reference_of, with_reference
from tunewright.run.session import Session
from tunewright.run.supply import Supply


def supply(session: Session, ready: Ready, given: Supply) -> Supply:
    """The reference itself, for answers yet to be sampled, and its sums for the answers there are."""
    parts, micro_tokens = ready.parts, session.recipe.train.micro_tokens
    reference = reference_of(parts.adapter, given.model, given.forward)

    def marked(sequences: list[Tokens]) -> list[Tokens]:
        if not any(tokens.trained for tokens in sequences):
            return sequences
        key = cache_key(parts.loaded, parts.renderer.template_digest, sequences)
        return with_reference(sequences, reference, micro_tokens, key)

    with session.stage("reference", f"{len(given.train) + len(given.validation)} rows, untouched model"):
        train, validation = marked(list(given.train)), marked(list(given.validation))
    return replace(given, train=train, validation=validation, reference=reference)
