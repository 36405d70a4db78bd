"""Every method over every family of models: the promises that all of them keep.

For each pair: identity at attach, learning, gradients only where declared, switched off = base bit for bit,
merged = adapter, round trip through a directory, the same logits in plain PEFT, a small state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.tiny import tiny_model, tiny_tokenizer
from tests.training import VOCAB, rows, settings
from tunewright.adapt.base import adapter_of, trainable
from tunewright.core.errors import ConfigError
from tunewright.core.paths import write_json
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Fit, Job
from tunewright.models.base_record import base_record
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.quiet import quiet_peft
from tunewright.models.save import save_model
from tunewright.objectives.options.supervised import SftOptions
from tunewright.objectives.sft import SupervisedFineTuning

FAMILIES = ("llama", "qwen2", "gemma2", "phi3", "gpt2")
MIXED = pytest.mark.filterwarnings("ignore::UserWarning")  # libraries advise about what is meant here


@dataclass(frozen=True)
class Case:
    """A method with its settings, and which of the promises it makes."""

    method: str
    options: dict[str, Any]
    rate: float = 1e-2
    identity: bool = True  # the output is unchanged by attaching
    plain: bool = True  # plain PEFT reads it
    tolerance: float = 1e-4
    not_for: tuple[str, ...] = ()
    gain: float = 0.05  # nats a token by which the training rows become likelier


def case(method: str, rate: float = 1e-2, **options: Any) -> Case:
    return Case(method, options, rate)


CASES = {
    "full": case("full"),
    "full bfloat16": Case("full", {"weights": "bfloat16"}, tolerance=0.05, identity=False),
    "freeze layers": case("freeze", layers=1),
    "freeze norms": case("freeze", 3e-2, train="norms"),
    "freeze embeddings": case("freeze", train="embeddings"),
    "freeze biases": Case("freeze", {"train": "biases"}, 3e-2, not_for=("llama", "gemma2", "phi3")),
    "lora": case("lora", rank=4),
    "lora attention": case("lora", rank=4, targets="attention"),
    "lora mlp": case("lora", rank=4, targets="mlp"),
    "lora patterns": case("lora", rank=4, patterns={r".*\.1\..*": {"rank": 2}}),
    "rslora": case("rslora", rank=4),
    "dora": case("dora", rank=4),
    "lora+": case("lora", 5e-3, rank=4, b_rate=4.0),
    "pissa": case("lora", 5e-3, rank=4, init="pissa"),
    "olora": case("lora", 5e-3, rank=4, init="olora"),
    "adalora": case("adalora", 3e-2, rank=4, start_rank=6),
    "vera": case("vera", 1e-1, r=16),
    "ia3": case("ia3", 1e-1),
    "oft": Case("oft", {"oft_block_size": 8}, 3e-2, not_for=("gpt2",)),
    "loha": Case("loha", {"r": 4, "alpha": 8}, 3e-2, not_for=("gpt2",)),
    "qlora": Case("qlora", {"rank": 4}, tolerance=0.02, identity=False),
    "qlora 8": Case("qlora", {"rank": 4, "bits": 8}, tolerance=0.05, identity=False),
    "longlora": Case(
        "longlora", {"rank": 4, "factor": 2.0, "rope": "linear"}, identity=False, not_for=("gpt2",)
    ),
    "bottleneck houlsby": Case("bottleneck", {"style": "houlsby", "size": 8}, plain=False),
    "bottleneck pfeiffer": Case("bottleneck", {"style": "pfeiffer", "size": 8}, plain=False),
    "bottleneck parallel": Case("bottleneck", {"style": "parallel", "size": 8}, plain=False),
    "prompt": Case("prompt", {"tokens": 6}, 3e-2, identity=False),
    "prefix": Case("prefix", {"tokens": 6}, 3e-2, identity=False),
    "ptuning": Case("ptuning", {"tokens": 6, "width": 32}, 1e-2, identity=False),
}
PAIRS = [(name, family) for name, c in CASES.items() for family in FAMILIES if family not in c.not_for]
# Four tokens out of sixty, always in one order: a lesson that even a few trained numbers can begin with.
LESSON = [Tokens([5 + 4 * ((start + i) % 4) for i in range(12)], [0.0] + [1.0] * 11) for start in range(20)]
BATCH, LEARNT = build_batch(rows(4, seed=9)), build_batch(LESSON)


@dataclass
class Trained:
    """A method on a family after a short training, and what was seen on the way."""

    adapter: Any
    loaded: Any
    model: Any
    untouched: torch.Tensor
    attached: torch.Tensor
    gain: float
    answers: torch.Tensor


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    for family in FAMILIES:
        tiny_model(family, VOCAB).save_pretrained(folder / family)
        tiny_tokenizer().save_pretrained(folder / family)
    return folder


def logprobs(model: Any, batch: Any = BATCH) -> torch.Tensor:
    """Of the targets of one packed batch, as a run computes them."""
    with torch.no_grad():
        return ModelForward(model.eval()).logprobs(batch).clone()


@lru_cache(maxsize=1)  # the tests of one pair follow each other
def trained(place: Path, name: str, family: str) -> Trained:
    c = CASES[name]
    adapter = adapter_of(c.method, **c.options)
    loaded = load(
        str(place / family), device="cpu", dtype="float32", weights=adapter.weights, changes=adapter.changes
    )
    untouched = logprobs(load(str(place / family), device="cpu", dtype="float32").model)
    if adapter.changes.quantise is not None:
        untouched = logprobs(loaded.model)
    torch.manual_seed(7)
    model = adapter.attach(loaded.model)
    attached = logprobs(model)
    objective = SupervisedFineTuning("sft", SftOptions())
    job = Job(model, ModelForward(model), objective, LESSON, adapter=adapter)
    how = settings(learning_rate=c.rate, epochs=9, max_steps=24, tokens_per_step=120, micro_tokens=120)
    before = logprobs(model, LEARNT)
    Fit(job, how, place / "checkpoints" / f"{name}-{family}", lambda event: None).run()
    gain = float((logprobs(model, LEARNT) - before).mean())
    return Trained(adapter, loaded, model, untouched, attached, gain, logprobs(model))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


pytestmark = [
    MIXED,
    pytest.mark.parametrize(("name", "family"), PAIRS, ids=[f"{n}-{f}" for n, f in PAIRS], scope="module"),
]


def test_attaching_changes_nothing(place, name, family):
    if not CASES[name].identity:
        pytest.skip("this method starts elsewhere")
    t = trained(place, name, family)
    assert distance(t.attached, t.untouched) < 1e-5


def test_it_learns(place, name, family):
    t = trained(place, name, family)
    assert t.gain > CASES[name].gain


def test_gradients_are_where_they_are_declared(place, name, family):
    t = trained(place, name, family)
    declared = trainable(t.model)
    t.model.zero_grad(set_to_none=True)
    forward = ModelForward(t.model.train())
    forward.logprobs(BATCH).mean().backward()
    found = {n for n, p in t.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert found and found <= set(declared)
    silent = {n for n in set(declared) - found if "lora_E" not in n and "ranknum" not in n}
    assert len(silent) <= len(declared) / 3, sorted(silent)[:5]


def test_switched_off_it_is_the_base_bit_for_bit(place, name, family):
    t = trained(place, name, family)
    if "reference" not in t.adapter.provides:
        with pytest.raises(ConfigError, match="keeps no untouched base"), t.adapter.disabled(t.model):
            pass
        return
    with t.adapter.disabled(t.model):
        off = logprobs(t.model)
    assert torch.equal(off, t.untouched) and distance(t.answers, off) > 1e-3
    assert torch.equal(logprobs(t.model), t.answers)


def test_it_comes_back_from_its_directory(place, name, family):
    t = trained(place, name, family)
    folder = place / "saved" / f"{name}-{family}"
    save(t, folder)
    again = load(str(folder), device="cpu", dtype="float32", weights=t.adapter.reloads)
    assert distance(logprobs(again.model), t.answers) < 1e-5
    if not t.adapter.whole:
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        whole = sum(p.numel() for p in t.loaded.model.parameters()) * 4
        assert size < 0.6 * whole


def save(t: Trained, folder: Path) -> None:
    if folder.exists():
        return
    if t.adapter.whole:
        save_model(t.model, t.loaded.tokenizer, folder, [1])
        return
    t.adapter.save(t.model, folder)
    write_json(folder / "base.json", base_record(t.loaded, t.adapter.changes))


def test_plain_peft_reads_it(place, name, family):
    t, c = trained(place, name, family), CASES[name]
    if t.adapter.whole or not c.plain or t.adapter.changes.quantise is not None:
        pytest.skip("no adapter in PEFT's format, or a base in few bits")
    folder = place / "saved" / f"{name}-{family}"
    save(t, folder)
    base = AutoModelForCausalLM.from_pretrained(place / family, dtype=torch.float32)
    if t.adapter.changes.rope:
        base = load(str(place / family), dtype="float32", changes=t.adapter.changes).model
    with quiet_peft():
        model = PeftModel.from_pretrained(base, str(folder)).eval()
    assert distance(through_peft(model), t.answers) < c.tolerance


def through_peft(model: Any) -> torch.Tensor:
    """The log-probabilities of ``BATCH`` by the library's own forward, one sequence at a time."""
    found = []
    for tokens in rows(4, seed=9):
        ids = torch.tensor([tokens.ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].float().log_softmax(-1)
        n = len(tokens.ids)
        logits = logits[-n:]
        found += [logits[i - 1, tokens.ids[i]] for i in range(1, n) if tokens.weights[i]]
    return torch.stack(found)


def test_merged_it_answers_the_same(place, name, family):
    t, c = trained(place, name, family), CASES[name]
    if t.adapter.whole:
        pytest.skip("nothing to merge")
    if not t.adapter.merges:
        with pytest.raises(ConfigError, match="cannot be merged"):
            t.adapter.merged(t.model)
        return
    merged = t.adapter.merged(t.model)
    trained.cache_clear()  # the adapter is gone
    assert not any("lora_" in n for n, _ in merged.named_parameters())
    assert distance(logprobs(merged), t.answers) < c.tolerance
