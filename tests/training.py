"""A small training job for tests: random sequences, a tiny model, and the loop around them."""

from __future__ import annotations

import torch

from tests.tiny import tiny_model
from tunewright.adapt.base import Adapter, adapter_of
from tunewright.core.records import Tokens
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.models.forward import ModelForward
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

VOCAB = 60


def rows(count: int, seed: int = 0, low: int = 4, high: int = 24) -> list[Tokens]:
    """Sequences with a rule to learn: each token is the one before plus 3."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        n = int(torch.randint(low, high, (1,), generator=generator))
        start = int(torch.randint(0, VOCAB, (1,), generator=generator))
        ids = [(start + 3 * i) % VOCAB for i in range(n)]
        found.append(Tokens(ids, [0.0] + [float(i % 4 != 0) for i in range(1, n)]))
    return found


def job(
    train: list[Tokens],
    validation: list[Tokens] = (),
    *,
    adapter: Adapter | None = None,
    **options: object,
) -> Job:
    """A job on a tiny Llama, trained fully unless an adapter is given."""
    torch.manual_seed(7)
    adapter = adapter or adapter_of("full")
    model = adapter.attach(tiny_model("llama", VOCAB, tie_word_embeddings=True))
    forward = ModelForward(model, neftune=float(options.pop("neftune", 0.0)))
    objective = SupervisedFineTuning("sft", SftOptions())
    return Job(model, forward, objective, train, validation, adapter=adapter, **options)


def settings(**changes: object) -> FitSettings:
    """Short runs: 64 tokens a step."""
    values: dict = {"epochs": 2, "learning_rate": 1e-2, "tokens_per_step": 64, "micro_tokens": 64, "keep": 2}
    return FitSettings(**{**values, **changes})


def fit(the_job: Job, the_settings: FitSettings, folder, observe=lambda event: None):
    """Run it; returns the result and a copy of the trained weights."""
    result = Fit(the_job, the_settings, folder, observe).run()
    return result, {n: p.detach().clone() for n, p in the_job.model.named_parameters() if p.requires_grad}
