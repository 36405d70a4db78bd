"""A Mac's GPU by logic alone: nothing in float64, its own counters, bfloat16 only where it is known."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.engine.test_waiting import prepared
from tunewright.core.errors import ConfigError
from tunewright.engine import memory, offload, projected
from tunewright.engine.batch import build_batch
from tunewright.engine.optim import OptimSettings
from tunewright.engine.projected import Projection
from tunewright.engine.shortage import is_shortage
from tunewright.engine.step import backward
from tunewright.engine.updates import make_updates
from tunewright.models import precision
from tunewright.models.placing import decomposable
from tunewright.objectives.predict import predict

METAL = torch.device("mps")


class Formats(TorchDispatchMode):
    """The formats of all tensors that operators make."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, list | tuple) else [out]
        self.found |= {x.dtype for x in made if isinstance(x, torch.Tensor)}
        return out


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        *((name, "adamw") for name in ("sft", "dpo", "grpo", "kto", "reward", "classify", "regress")),
        *(("sft", optimizer) for optimizer in ("galore", "apollo", "bfloat16")),
    ],
)
def test_an_update_makes_nothing_in_float64(name, optimizer):
    what, forward, rows = prepared(name)
    batches = [build_batch([row]) for row in rows]
    trained = {n: p for n, p in forward.model.named_parameters() if p.requires_grad}
    if optimizer == "bfloat16":
        forward.model.bfloat16()
    chosen = OptimSettings(
        name="adamw" if optimizer == "bfloat16" else optimizer, projection=Projection(rank=2)
    )
    with Formats() as formats:
        updates = make_updates(trained, chosen, clip_norm=1.0)
        updates.set_rate(1e-3)
        backward(batches, what, forward, str)
        updates.finish("here")
    assert torch.float32 in formats.found and torch.float64 not in formats.found


def test_the_directions_of_galore_are_found_where_they_can_be(monkeypatch):
    class Matrix:
        def __init__(self, kind):
            self.device = torch.device(kind)

        def cpu(self):
            return "on the cpu"

    here = Matrix("cpu")
    assert decomposable(Matrix("mps")) == "on the cpu" and decomposable(here) is here
    asked = []
    monkeypatch.setattr(projected, "decomposable", lambda matrix: asked.append(matrix.shape) or matrix)
    found = projected.main_directions(torch.randn(8, 20), 3)
    assert asked == [(8, 8)] and found.shape == (8, 3)


def test_scores_reach_the_cpu_before_they_become_float64(monkeypatch):
    calls = []
    for name in ("cpu", "double"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, name=name, method=method: calls.append(name) or method(self)
        )
    predict(torch.zeros(1, 1), {"task": "regress", "mean": 0.0, "std": 1.0})
    assert calls[:2] == ["cpu", "double"]


def test_memory_is_counted_by_metal(monkeypatch):
    given = []
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5 * 2**20)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 7 * 2**20)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: given.append("mps"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append("cuda"))
    assert (memory.resident_mb(METAL), memory.peak_mb(METAL), memory.room_mb(METAL)) == (3, 5, 7)
    for kind in ("cpu", "mps", "cuda"):
        memory.give_back_cached(torch.device(kind))
    assert given == ["mps", "cuda"]


def test_memory_that_runs_out_is_recognised():
    words = (
        "MPS backend out of memory (MPS allocated: 17.2 GB, other allocations: 0.5 GB, max allowed: 18.1 GB)"
    )
    assert is_shortage(RuntimeError(words)) and not is_shortage(RuntimeError("MPS backend is out of date"))


@pytest.mark.parametrize(("newer", "fits"), [(True, True), (False, False)])
def test_bfloat16_needs_a_recent_system(newer, fits, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.backends.mps, "is_macos_or_newer", lambda *version: asked.append(version) or newer
    )
    auto = precision.choose("mps", "auto")
    assert auto.dtype == torch.float32 and not asked
    wanted = (
        lambda: precision.choose("mps", "bfloat16"),
        lambda: precision.computing_in(torch.bfloat16, auto),
    )
    for ask, setting in zip(wanted, ("model.dtype=float32", "adapt.weights=float32"), strict=True):
        if fits:
            assert ask().dtype == torch.bfloat16
        else:
            with pytest.raises(ConfigError, match=f"macOS 14.*{setting}"):
                ask()
    assert asked == [(14, 0)] * 2
    assert precision.choose("mps", "float32").dtype == torch.float32


def test_nothing_is_pinned_without_cuda():
    assert not torch.cuda.is_available()
    assert not offload._pinned(torch.zeros(3)).is_pinned()


def test_the_best_device_is_cuda_then_metal_then_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    for cuda, metal, best in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=metal: found)
        assert precision.choose().device.type == best
