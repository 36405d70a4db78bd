"""Memory that is counted without data, against what torch really hands out in the same step."""

from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.tiny import tiny_model
from tests.training import settings
from tunewright.adapt.base import adapter_of
from tunewright.core.events import silent
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.footprint import of_answering, of_training, total
from tunewright.engine.ghost import Ledger
from tunewright.engine.loop import Fit, Job
from tunewright.engine.optim import OptimSettings
from tunewright.engine.plan import heaviest
from tunewright.engine.projected import Projection
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling, generate
from tunewright.models.savers import saving
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

VOCAB = 2000
SMALL = Projection(rank=8, every=2)
WIDE = {"hidden_size": 128, "intermediate_size": 320}
METHODS = {
    "full": {},
    "freeze": {"train": "layers", "layers": 1},
    "lora": {"rank": 8},
    "dora": {"rank": 8},
    "bottleneck": {},
    "prompt": {},
    "ia3": {},
    "longlora": {},
    "prefix": {},
    "ptuning": {},
}


def sequences(lengths=(150, 90, 200)):
    return [
        Tokens([(7 * i) % VOCAB for i in range(n)], [float(i >= n // 10) for i in range(n)]) for n in lengths
    ]


def job(method, family="llama", dtype=torch.float32):
    torch.manual_seed(0)
    adapter = adapter_of(method, **METHODS[method])
    model = adapter.attach(tiny_model(family, VOCAB, tie_word_embeddings=True, **WIDE).to(dtype))
    return model, adapter


def made(model, adapter):
    forward = ModelForward(model, compute=next(model.parameters()).dtype)
    return Job(model, forward, SupervisedFineTuning("sft", SftOptions()), (), adapter=adapter)


def tensors_in(tree):
    if torch.is_tensor(tree):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for item in inner for tensor in tensors_in(item)]


def storage_bytes(tensors):
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@contextmanager
def handed_out(found):
    """Appends to ``found`` the most bytes that torch had handed out at once, beside what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    found.append(most)


class Given(Fit):
    """The loop, with one batch that is given to it."""

    def batches(self, sequences):
        return [build_batch(self.job.train, range(len(self.job.train)))]


def really(model, adapter, rows, the_settings):
    """Bytes at the peak of the second step."""
    the_job = made(model, adapter)
    fit = Given(Job(**{**vars(the_job), "train": rows}), the_settings, Path("/nowhere"), silent)
    fit.advance()
    state = fit.updates.optimizer.state.values()
    before = storage_bytes([*model.parameters(), *model.buffers(), *tensors_in([*state])])
    most = []
    with handed_out(most):
        fit.advance()
    return before + most[0]


def planned(model, adapter, rows, the_settings):
    ledger = Ledger()
    ledger.emptied(model)
    most = heaviest([rows, rows], 10_000)
    with ledger:
        return of_training(ledger, made(model, adapter), the_settings, most)


def both(way, case, *call):
    """The bytes that torch hands out and those that are counted, each on a model of its own."""
    method, layers, family, dtype = case
    found = []
    for ask in way:
        model, adapter = job(method, family, dtype)
        with saving(model, layers, False) if layers else nullcontext():
            found.append(ask(model, adapter, *call))
    return found


CASES = [
    *((method, layers, "llama", torch.float32) for method in METHODS for layers in (0, 2)),
    *(("lora", 0, family, torch.float32) for family in ("gemma2", "phi3", "qwen3")),
    *(("lora", layers, "llama", torch.bfloat16) for layers in (0, 2)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_the_bytes_of_a_step_are_those_that_torch_hands_out(case):
    chosen = settings(tokens_per_step=10_000, micro_tokens=10_000, epochs=4)
    real, found = both((really, planned), case, sequences(), chosen)
    # In bfloat16 some 0.2 MB are not seen, however many layers are kept.
    unseen = 0 if case[-1] == torch.float32 else 220_000
    assert total(found) == pytest.approx(real, rel=0.01, abs=unseen)


@pytest.mark.parametrize("name", ["adamw_8bit", "galore", "apollo"])
def test_the_bytes_of_an_optimizer_are_those_that_torch_hands_out(name):
    chosen = settings(
        tokens_per_step=10_000,
        micro_tokens=10_000,
        epochs=4,
        optim=OptimSettings(name=name, projection=SMALL),
    )
    real, found = both((really, planned), ("full", 0, "llama", torch.float32), sequences(), chosen)
    assert total(found) == pytest.approx(real, rel=0.03)


def test_longer_texts_take_more_and_checkpointing_takes_less():
    chosen = settings(tokens_per_step=10_000, micro_tokens=10_000)
    plain, longer, checkpointed = (
        both((planned,), ("lora", layers, "llama", torch.float32), sequences(lengths), chosen)[0]
        for layers, lengths in ((0, (150, 90)), (0, (300, 180)), (2, (150, 90)))
    )
    assert plain["weights"] == longer["weights"] == checkpointed["weights"]
    assert checkpointed["activations"] < 0.6 * plain["activations"] < 0.35 * longer["activations"]


def prompts(lengths):
    return [[i + 1, *[1] * (n - 1)] for i, n in enumerate(lengths)]


@pytest.mark.parametrize("new", [2, 100])
def test_the_bytes_of_answering_are_those_that_torch_hands_out(new):
    lengths, sampling = [40, 170, 90, 200], Sampling(max_new_tokens=new)

    def real(model, _):
        most = []
        model.eval()
        with handed_out(most):
            generate(model, prompts(lengths), sampling, batch_size=4)
        return storage_bytes([*model.parameters(), *model.buffers()]) + most[0]

    def counted(model, _):
        ledger = Ledger()
        ledger.emptied(model)
        with ledger:
            return total(of_answering(ledger, model, lengths, new, 4))

    found = both((real, counted), ("lora", 0, "llama", torch.float32))
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_the_heaviest_micro_batch_is_the_one_with_most_tokens_or_the_longest_text():
    steps = [sequences((50, 50)), sequences((100, 10)), sequences((30, 30))]
    most = heaviest(steps, 200)
    assert [s.size for s in most.sequences] == [100, 10] and (most.in_step, most.steps) == (1, 3)
    assert heaviest(steps, 60).in_step == 2
    with pytest.raises(ValueError, match="no step"):
        heaviest([], 60)
