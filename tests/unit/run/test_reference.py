"""The reference: the model before training, computed once, and never that of something else."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.preferring import forward as tiny_forward
from tests.preferring import measure, objective, pairs
from tests.tiny import tiny_model
from tunewright.adapt.base import adapter_of
from tunewright.core.errors import RunError, TrainError
from tunewright.core.events import Progress, silent
from tunewright.core.paths import RunDir
from tunewright.core.records import Meta, Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.causal import causal_lm
from tunewright.models.fingerprint import fingerprint
from tunewright.models.forward import ModelForward
from tunewright.objectives.base import per_segment
from tunewright.run import reference as module
from tunewright.run.compose import fit_settings
from tunewright.run.encode import planned
from tunewright.run.recipe import Recipe
from tunewright.run.reference import answer_sums, before_training, throughout, with_reference
from tunewright.run.supply import Supply
from tunewright.run.supply_reference import RECORD, check_unchanged, supply

VOCAB = 60


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user cache of this test's own."""
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "reference"


def fresh(**overrides):
    return tiny_model("llama", VOCAB, num_hidden_layers=2, **overrides)


def attached(adapter, dtype=torch.float32, compute=torch.float32):
    model = adapter.attach(fresh().to(dtype))
    return model, ModelForward(model, compute=compute)


def some_updates(model, forward, rows, steps=5):
    """Real training: the weights that may move do."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (-forward.logprobs(build_batch(rows)).mean()).backward()
        optimizer.step()


ADAPTERS = {
    "lora": lambda: adapter_of("lora", rank=4),
    "lora with dropout": lambda: adapter_of("lora", rank=4, dropout=0.5),
    "full": lambda: adapter_of("full"),
    "full with dropout": lambda: adapter_of("full", dropout=0.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_the_untouched_model_bit_for_bit_before_and_after_training(name, dtype):
    rows = pairs(8, seed=1)
    batch = build_batch(rows)
    weights = torch.float32 if "full" in name else dtype  # as a run keeps them
    with torch.no_grad():
        untouched = ModelForward(fresh().to(weights), compute=dtype).logprobs(batch)
    model, forward = attached(ADAPTERS[name](), weights, dtype)
    adapter = ADAPTERS[name]()
    model.train()
    assert torch.equal(before_training(adapter, model, forward)(batch), untouched)
    lasting = throughout(adapter, model, forward)
    assert torch.equal(lasting(batch), untouched)
    some_updates(model, forward, rows)
    model.train()
    found = lasting(batch)
    assert torch.equal(found, untouched)
    assert not found.requires_grad
    assert model.training, "left as it was found"
    model.eval()
    with torch.no_grad():
        assert (forward.logprobs(batch) - untouched).abs().max() > 0.01, "the model itself has moved"


@pytest.mark.parametrize("name", ["lora", "full"])
def test_what_trains_still_trains_after_the_reference_was_asked(name):
    model, forward = attached(ADAPTERS[name]())
    before = [n for n, p in model.named_parameters() if p.requires_grad]
    throughout(ADAPTERS[name](), model, forward)(build_batch(pairs(2, seed=0)))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == before
    assert before


def test_the_margin_of_dpo_is_zero_before_the_first_step():
    forward = tiny_forward()
    rows = pairs(10, seed=2)
    marked = with_reference(
        rows, before_training(adapter_of("full"), forward.model, forward), 64, "id", silent
    )
    assert abs(measure(objective("dpo"), forward, marked, "margin")) < 1e-6


def test_sums_are_those_of_the_answers_in_order_however_they_are_packed():
    forward = tiny_forward()
    rows = [*pairs(7, seed=3), Tokens([1, 2, 3], [0.0, 1.0, 0.5])]
    told = []
    with torch.no_grad():
        many = answer_sums(rows, forward.logprobs, forward.device, 24, told.append)
        for row, sums in zip(rows, many, strict=True):
            batch = build_batch([row])
            own = per_segment(forward.logprobs(batch) * batch.targets.weights, batch).tolist()
            assert sums == pytest.approx(own[1:] if row.branches else own, abs=1e-5)
    assert told[-1] == 8 and told == sorted(told) and len(told) > 2


def test_each_answer_carries_its_own_sum():
    forward = tiny_forward()
    rows = [*pairs(3, seed=4), Tokens([1, 2, 3], [0.0, 1.0, 1.0])]
    marked = with_reference(
        rows, before_training(adapter_of("full"), forward.model, forward), 64, "id", silent
    )
    with torch.no_grad():
        sums = answer_sums(rows, forward.logprobs, forward.device, 64)
    for row, tokens, own in zip(marked, rows, sums, strict=True):
        assert [b.extras["reference"] for b in row.branches] == (own if tokens.branches else [])
        assert row.extras == ({} if tokens.branches else {"reference": own[0]})
        assert row.ids == tokens.ids
        assert [b.extras.get("chosen") for b in row.branches] == [
            b.extras.get("chosen") for b in tokens.branches
        ]


class Counting:
    """A reference that counts its calls and stops at one of them."""

    def __init__(self, forward, stop_at=10**9):
        self.forward, self.calls, self.stop_at = forward, 0, stop_at
        self._inner = before_training(adapter_of("full"), forward.model, forward)

    def __call__(self, batch):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return self._inner(batch)


def references(marked):
    return [[b.extras["reference"] for b in row.branches] for row in marked]


def test_the_second_time_it_is_read_from_disk_to_the_last_bit():
    rows, counting = pairs(20, seed=5), Counting(tiny_forward())
    first = with_reference(rows, counting, 64, "model", silent)
    calls = counting.calls
    assert calls > 1
    second = with_reference(rows, counting, 64, "model", silent)
    assert counting.calls == calls
    assert references(second) == references(first)


def changed_id(rows):
    return [replace(rows[0], ids=[*rows[0].ids[:-1], 7]), *rows[1:]]


def changed_answer(rows):
    [first, second] = rows[3].branches
    return [
        *rows[:3],
        replace(rows[3], branches=(replace(first, ids=[9, *first.ids[1:]]), second)),
        *rows[4:],
    ]


def changed_weight(rows):
    [first, second] = rows[3].branches
    lighter = replace(first, weights=[0.5, *first.weights[1:]])
    return [*rows[:3], replace(rows[3], branches=(lighter, second)), *rows[4:]]


@pytest.mark.parametrize(
    "change", [changed_id, changed_answer, changed_weight, lambda r: r[::-1], lambda r: r[1:]]
)
def test_other_rows_are_computed_anew(change):
    rows, counting = pairs(12, seed=6), Counting(tiny_forward())
    with_reference(rows, counting, 64, "model", silent)
    calls = counting.calls
    other = change(rows)
    found = with_reference(other, counting, 64, "model", silent)
    assert counting.calls > calls
    with torch.no_grad():
        own = answer_sums(other, counting.forward.logprobs, counting.forward.device, 64)
    assert references(found) == own


def test_another_model_or_number_format_is_computed_anew():
    rows, one, other = pairs(6, seed=7), Counting(tiny_forward(seed=0)), Counting(tiny_forward(seed=1))
    first = with_reference(rows, one, 64, "one", silent)
    second = with_reference(rows, other, 64, "other", silent)
    assert other.calls > 0 and references(first) != references(second)


def test_only_the_piece_that_changed_is_computed_anew(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 4)
    rows, counting = pairs(16, seed=8), Counting(tiny_forward())
    with_reference(rows, counting, 1000, "model", silent)
    assert counting.calls == 4
    with_reference([*rows[:-1], changed_id(rows[-1:])[0]], counting, 1000, "model", silent)
    assert counting.calls == 5


def damaged(path):
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path):
    stored = json.loads(path.read_bytes())
    stored["sums"][0][0] += 1.0
    path.write_text(json.dumps(stored))


def empty(path):
    path.write_bytes(b"")


def no_object(path):
    path.write_text("[1, 2]")


def without_sums(path):
    path.write_text(json.dumps({"key": path.stem, "sha256": "x", "sums": None}))


@pytest.mark.parametrize("harm", [damaged, flipped, empty, no_object, without_sums])
def test_a_damaged_file_is_not_used_and_made_good(harm, cache):
    rows, counting = pairs(6, seed=9), Counting(tiny_forward())
    first = references(with_reference(rows, counting, 64, "model", silent))
    [path] = cache.glob("*.json")
    whole = path.read_bytes()
    harm(path)
    calls = counting.calls
    assert references(with_reference(rows, counting, 64, "model", silent)) == first
    assert counting.calls > calls
    assert path.read_bytes() == whole


def test_a_file_of_something_else_is_not_used(cache):
    rows, others, counting = pairs(6, seed=10), pairs(6, seed=11), Counting(tiny_forward())
    first = references(with_reference(rows, counting, 64, "model", silent))
    [path] = cache.glob("*.json")
    with_reference(others, counting, 64, "model", silent)
    [foreign] = set(cache.glob("*.json")) - {path}
    path.write_bytes(foreign.read_bytes())  # whole, of as many rows, but of others
    calls = counting.calls
    assert references(with_reference(rows, counting, 64, "model", silent)) == first
    assert counting.calls > calls


def test_a_crash_costs_one_piece(monkeypatch, cache):
    monkeypatch.setattr(module, "PIECE", 4)
    rows, whole = pairs(16, seed=12), Counting(tiny_forward())
    expected = references(with_reference(rows, whole, 1000, "elsewhere", silent))
    dying = Counting(tiny_forward(), stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        with_reference(rows, dying, 1000, "model", silent)
    again, seen = Counting(tiny_forward()), []
    assert references(with_reference(rows, again, 1000, "model", seen.append)) == expected
    assert again.calls == 2
    assert [e.done for e in seen if isinstance(e, Progress)] == [12, 16]
    assert not list(cache.glob(".*"))


def test_a_log_probability_that_is_not_finite_names_its_row(cache):
    forward = tiny_forward()
    with torch.no_grad():
        forward.head.weight[30] = float("inf")
    rows = [replace(row, meta=Meta("pairs.jsonl", i + 1)) for i, row in enumerate(pairs(2, seed=13))]
    with pytest.raises(TrainError, match=r"pairs\.jsonl:1 the log-probability nan.*float32"):
        with_reference(rows, before_training(adapter_of("full"), forward.model, forward), 64, "model", silent)
    assert not list(cache.glob("*")) if cache.exists() else True


def test_a_fingerprint_is_of_weights_and_config_and_not_of_names():
    one = fresh()
    other = fresh()
    other.config._name_or_path = "elsewhere"
    assert fingerprint(one.config, one.parameters()) == fingerprint(other.config, other.parameters())
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-6
    assert fingerprint(one.config, one.parameters()) != fingerprint(other.config, other.parameters())
    found = {fingerprint(one.config, one.parameters())}
    found.add(fingerprint(one.config, one.to(torch.bfloat16).parameters()))
    other = fresh(rope_theta=20000.0)
    found.add(fingerprint(other.config, other.parameters()))
    assert len(found) == 3


def ready_with(adapter):
    precision = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
    parts = SimpleNamespace(adapter=adapter, loaded=SimpleNamespace(precision=precision))
    return SimpleNamespace(parts=parts)


class Spoken:
    """As much of a session as a supplier uses."""

    def __init__(self, root, **train):
        self.run, self.stages, self.observe = RunDir(root), [], silent
        pinned = {"learning_rate": 0.1, "stop": {"metric": "validation_loss"}, "optim": "adamw"}
        train = {"micro_tokens": 64, **pinned, **train}
        self.recipe = Recipe.model_validate(
            {"data": {"train": "x.jsonl"}, "train": train, "evaluate": {"every": 1}}
        )

    def stage(self, name, detail=""):
        self.stages.append((name, detail))
        return torch.no_grad()  # any context will do


def given(model, forward, rows, name="dpo"):
    return Supply(model, forward, objective(name), rows[:-2], rows[-2:])


def test_only_the_rows_that_the_run_will_see_are_computed(tmp_path):
    model, forward = attached(adapter_of("lora", rank=4))
    rows = pairs(12, seed=18)
    session = Spoken(tmp_path, max_steps=2, tokens_per_step=30)
    found = supply(session, ready_with(adapter_of("lora", rank=4)), given(model, forward, rows))
    with_one = [i for i, row in enumerate(found.train) if "reference" in row.branches[0].extras]
    assert 0 < len(with_one) < 10 and len(found.train) == 10
    steps = planned(objective("dpo"), rows[:-2], fit_settings(session.recipe, objective("dpo")).pace)
    assert with_one == sorted({row for step in steps for row in step.rows})
    assert all("reference" in row.branches[1].extras for row in found.validation)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_the_supplier_marks_both_sides_and_keeps_no_copy(tmp_path, name):
    adapter = ADAPTERS[name]()
    model, forward = attached(adapter)
    session, rows = Spoken(tmp_path), pairs(8, seed=14)
    found = supply(session, ready_with(adapter), given(model, forward, rows))
    with torch.no_grad():
        own = answer_sums(rows, ModelForward(fresh()).logprobs, forward.device, 64)
    assert references(found.train) + references(found.validation) == [
        [pytest.approx(x, abs=1e-5) for x in row] for row in own
    ]
    assert found.reference is None, "a whole copy of the model would stay in memory for nothing"
    assert session.stages == [("reference", "8 rows, untouched model")]


def test_roll_outs_get_the_reference_itself_and_nothing_to_compute_now(tmp_path, cache):
    model, forward = attached(adapter_of("full"))
    prompts = [Tokens([1, 2, 3], [0.0] * 3), Tokens([4, 5], [0.0] * 2), Tokens([6], [0.0])]
    asked = given(model, forward, prompts, "ppo")
    found = supply(Spoken(tmp_path), ready_with(adapter_of("full")), asked)
    assert found.train == prompts[:1] and not cache.exists()
    assert found.reference is not None and found.reference.forward.model is not model


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_resumed_run_with_another_base_is_refused(tmp_path, name):
    adapter = ADAPTERS[name]()
    rows = pairs(6, seed=15)
    session = Spoken(tmp_path)
    supply(session, ready_with(adapter), given(*attached(adapter), rows))
    supply(session, ready_with(adapter), given(*attached(adapter), rows))  # the same again goes on
    other = adapter.attach(tiny_model("llama", VOCAB, num_hidden_layers=2, seed=1))
    with pytest.raises(RunError, match=r"cannot go on: the weights or the config of the base model are not"):
        supply(session, ready_with(adapter), given(other, ModelForward(other), rows))


def test_a_resumed_run_whose_rows_read_differently_is_refused(tmp_path):
    adapter, rows = adapter_of("lora", rank=4), pairs(6, seed=16)
    session = Spoken(tmp_path)
    supply(session, ready_with(adapter), given(*attached(adapter), rows))
    with pytest.raises(RunError, match=r"read as other tokens.*tokenizer, chat template"):
        supply(session, ready_with(adapter), given(*attached(adapter), changed_id(rows)))
    half = ready_with(adapter)
    half.parts.loaded.precision.dtype = torch.bfloat16
    with pytest.raises(RunError, match="the number format or the device"):
        supply(session, half, given(*attached(adapter), rows))


def test_a_damaged_record_is_said(tmp_path):
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(RunError, match=r"reference\.json is damaged"):
        check_unchanged(RunDir(tmp_path), {"model": "a", "precision": "b", "rows": "c"})


def test_the_fingerprint_of_a_run_does_not_see_the_adapter():
    adapter = adapter_of("lora", rank=4)
    model, forward = attached(adapter)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    before = fingerprint(causal_lm(model).config, frozen)
    some_updates(model, forward, pairs(8, seed=17))
    assert fingerprint(causal_lm(model).config, frozen) == before
    plain = fresh()
    assert before == fingerprint(plain.config, plain.parameters())
