"""The loop: one gradient however it is cut up, exact resume, early stopping, and a stop at the first NaN."""

import math
from dataclasses import replace

import pytest
import torch

from tests.tiny import tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import adapter_of
from tunewright.core import events
from tunewright.core.errors import RunError, TrainError
from tunewright.core.records import Meta, Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Fit
from tunewright.engine.optim import OptimSettings, make_optimizer, set_rate
from tunewright.engine.plan import steps_in_order
from tunewright.engine.step import backward, clip
from tunewright.engine.stop import Watch


def gradient(groups, max_norm=0.0):
    """Gradient of one step over these micro-batches (lists of sequences), by parameter name."""
    the_job = job([])
    parameters = [p for p in the_job.model.parameters() if p.requires_grad]
    batches = [build_batch(g) for g in groups]
    tally = backward(batches, the_job.objective, the_job.forward, lambda rows: "")
    norm = clip(parameters, max_norm)
    return (
        tally.loss,
        norm,
        {n: p.grad.clone() for n, p in the_job.model.named_parameters() if p.grad is not None},
    )


def plain_gradient(sequences):
    """The same by the book: each sequence alone through transformers, summed, divided by the weights."""
    model = tiny_model("llama", VOCAB, tie_word_embeddings=True)
    total, count = 0.0, 0.0
    for t in sequences:
        logp = model(input_ids=torch.tensor([t.ids])).logits[0].log_softmax(-1)
        picked = logp[torch.arange(len(t.ids) - 1), torch.tensor(t.ids[1:])]
        weights = torch.tensor(t.weights[1:])
        total, count = total - (picked * weights).sum(), count + weights.sum()
    (total / count).backward()
    return float((total / count).detach()), {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }


def test_gradient_is_the_same_for_8x1_4x2_2x4_1x8_packed_or_not():
    sequences = rows(8)
    loss, expected = plain_gradient(sequences)
    for size in (8, 4, 2, 1):
        groups = [sequences[i : i + size] for i in range(0, 8, size)]
        ours, _, grads = gradient(groups)
        assert ours == pytest.approx(loss, rel=1e-5)
        assert grads.keys() == expected.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6)


def test_a_last_partial_window_is_divided_by_its_own_count():
    sequences = rows(5, seed=3)
    loss, expected = plain_gradient(sequences)
    ours, _, grads = gradient([sequences[:2], sequences[2:4], sequences[4:]])
    assert ours == pytest.approx(loss, rel=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-6)


def test_weights_scale_the_loss_of_a_token():
    heavy = Tokens([1, 2, 3, 4], [0.0, 1.0, 0.0, 3.0])
    first, second = Tokens([1, 2, 3, 4], [0.0, 1.0, 0.0, 0.0]), Tokens([1, 2, 3, 4], [0.0, 0.0, 0.0, 1.0])
    (both, _, _), (a, _, _), (b, _, _) = (gradient([[t]]) for t in (heavy, first, second))
    assert both == pytest.approx((a + 3 * b) / 4, rel=1e-5)


def test_clipping_shortens_the_gradient_to_the_norm():
    _, norm, free = gradient([rows(4)])
    _, same_norm, clipped = gradient([rows(4)], max_norm=norm / 2)
    assert same_norm == pytest.approx(norm)
    for name, grad in clipped.items():
        torch.testing.assert_close(grad, free[name] / 2, rtol=1e-4, atol=1e-8)


def test_first_loss_of_a_random_model_is_log_vocabulary(tmp_path):
    seen = []
    fit(job(rows(20), adapter=None), settings(max_steps=1, learning_rate=1e-6), tmp_path, seen.append)
    first = next(e for e in seen if isinstance(e, events.StepEnd))
    assert first.loss == pytest.approx(math.log(VOCAB), rel=0.03)


def test_micro_batches_change_memory_not_results(tmp_path):
    ends = [
        fit(job(rows(30)), settings(micro_tokens=micro), tmp_path / str(micro))[1] for micro in (24, 48, 64)
    ]
    for weights in ends[1:]:
        for name, value in weights.items():
            torch.testing.assert_close(value, ends[0][name], rtol=2e-3, atol=2e-4)


def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
    options = {"adapter": adapter_of("lora", rank=2, dropout=0.2), "neftune": 5.0}
    a, b, c = (
        fit(job(rows(20), **options), settings(seed=seed), tmp_path / name)[1]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not all(torch.equal(a[n], c[n]) for n in a)


class Crash(Exception):
    pass


@pytest.mark.parametrize("adapter", [None, adapter_of("lora", rank=2, dropout=0.3)])
@pytest.mark.parametrize("save_every", [1, 3])
def test_resume_is_bit_equal_at_every_step(tmp_path, adapter, save_every):
    train, validation = rows(24), rows(6, seed=9)
    chosen = settings(save_every=save_every, every=4)
    options = {"adapter": adapter, "neftune": 3.0}
    losses = {}
    _, expected = fit(
        job(train, validation, **options),
        chosen,
        tmp_path / "whole",
        lambda e: losses.update({e.step: e.loss}) if isinstance(e, events.StepEnd) else None,
    )
    assert len(losses) >= 8
    for crash_at in range(1, len(losses) + 1):
        folder = tmp_path / f"crash-{crash_at}"

        def crash(event, at=crash_at):
            if isinstance(event, events.StepEnd) and event.step == at:
                raise Crash

        with pytest.raises(Crash):
            fit(job(train, validation, **options), chosen, folder, crash)
        again = {}
        _, weights = fit(
            job(train, validation, **options),
            chosen,
            folder,
            lambda e, d=again: d.update({e.step: e.loss}) if isinstance(e, events.StepEnd) else None,
        )
        assert all(torch.equal(weights[n], expected[n]) for n in expected), f"crash at step {crash_at}"
        assert all(losses[step] == value for step, value in again.items())


def test_two_crashes_in_one_epoch(tmp_path):
    train = rows(24)
    _, expected = fit(job(train), settings(), tmp_path / "whole")
    for crash_at in (2, 5, 6):

        def crash(event, at=crash_at):
            if isinstance(event, events.StepEnd) and event.step == at:
                raise Crash

        with pytest.raises(Crash):
            fit(job(train), settings(save_every=1), tmp_path / "broken", crash)
    _, weights = fit(job(train), settings(save_every=1), tmp_path / "broken")
    assert all(torch.equal(weights[n], expected[n]) for n in expected)


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(tmp_path):
    train = rows(24)
    _, expected = fit(job(train), settings(save_every=1, keep=3), tmp_path)
    newest = max(tmp_path.iterdir(), key=lambda p: int(p.name.split("-")[1]))
    file = newest / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    seen = []
    _, weights = fit(job(train), settings(save_every=1, keep=3), tmp_path, seen.append)
    warning = next(e for e in seen if isinstance(e, events.Warned))
    assert newest.name in warning.message and "weights.safetensors" in warning.message
    assert all(torch.equal(weights[n], expected[n]) for n in expected)


def test_a_checkpoint_of_other_settings_or_rows_is_refused(tmp_path):
    fit(job(rows(24)), settings(max_steps=2, save_every=1), tmp_path)
    for other, changed in ((rows(24), {"learning_rate": 0.5}), (rows(23), {})):
        with pytest.raises(RunError, match="other settings or other rows"):
            fit(job(other), settings(**{"max_steps": 2, "save_every": 1, **changed}), tmp_path)


def test_it_learns_the_rule(tmp_path):
    result, _ = fit(job(rows(120), rows(20, seed=5)), settings(epochs=12, every=10), tmp_path)
    assert result.best < 0.2 < math.log(VOCAB)


def scripted(values):
    """Task metrics that answer from a list, one per evaluation."""
    left = list(values)
    return lambda: {"score": left.pop(0)}


def test_early_stopping_restores_the_best_weights(tmp_path):
    saved = {}
    values = [0.1, 0.5, 0.9, 0.4, 0.3, 0.2]
    the_job = job(rows(60), rows(5, seed=2), task_metrics=scripted(values))

    def remember(event):
        if isinstance(event, events.EvalEnd):
            saved[event.step] = {n: p.detach().clone() for n, p in the_job.model.named_parameters()}

    watch = Watch("score", patience=2, higher_is_better=True)
    result, weights = fit(the_job, settings(epochs=5, every=2, watch=watch), tmp_path, remember)
    assert (result.best_step, result.step, result.best) == (4, 8, 0.9)
    assert "score has not improved for 2 evaluations (best 0.9 at step 4)" in result.reason
    assert all(torch.equal(weights[n], saved[4][n]) for n in weights)
    assert not all(torch.equal(weights[n], saved[8][n]) for n in weights)


def test_a_stopped_run_stays_stopped_when_resumed(tmp_path):
    watch = Watch("score", patience=1, higher_is_better=True)
    make = lambda values: job(rows(60), rows(5, seed=2), task_metrics=scripted(values))  # noqa: E731
    first, weights = fit(make([0.5, 0.9, 0.1]), settings(every=2, watch=watch), tmp_path)
    second, again = fit(make([]), settings(every=2, watch=watch), tmp_path)
    assert (first.step, first.best_step) == (second.step, second.best_step) == (4, 2)
    assert all(torch.equal(weights[n], again[n]) for n in weights)


def test_overfitting_is_noticed_once(tmp_path):
    """Noise to learn by heart, other noise to validate: one loss must fall and the other rise."""
    generator = torch.Generator().manual_seed(0)
    noise = [
        Tokens(torch.randint(0, VOCAB, (12,), generator=generator).tolist(), [1.0] * 12) for _ in range(16)
    ]
    seen = []
    result, _ = fit(
        job(noise[:8], noise[8:]), settings(epochs=40, every=4, learning_rate=5e-3), tmp_path, seen.append
    )
    warned = [e for e in seen if isinstance(e, events.Warned)]
    assert result.overfitting and len(warned) == 1 and "overfitting" in warned[0].message
    losses = [e.metrics["validation_loss"] for e in seen if isinstance(e, events.EvalEnd)]
    assert result.best == min(losses) < losses[-1]


def test_the_first_non_finite_loss_stops_and_names_step_and_rows(tmp_path):
    the_job = job([replace(t, meta=Meta("data.jsonl", i)) for i, t in enumerate(rows(24), 1)])
    before = {}

    def poison(event):
        if isinstance(event, events.Saved) and event.step == 3:
            before.update({n: p.detach().clone() for n, p in the_job.model.named_parameters()})
            the_job.model.model.norm.weight.data[0] = float("nan")

    with pytest.raises(TrainError, match=r"loss is nan at step 4, rows data\.jsonl:\d+"):
        fit(the_job, settings(save_every=1), tmp_path, poison)
    healthy = job(rows(24))
    Fit(healthy, settings(save_every=1), tmp_path, lambda e: None).resume()
    assert all(torch.equal(p, before[n]) for n, p in healthy.model.named_parameters())


def test_a_step_without_weights_is_refused(tmp_path):
    with pytest.raises(TrainError, match="nothing in them has a weight"):
        fit(job([Tokens([1, 2, 3], [0.0] * 3)]), settings(), tmp_path)


def test_old_checkpoints_go_but_the_best_stays(tmp_path):
    watch = Watch("score", patience=0, higher_is_better=True)
    the_job = job(rows(40), rows(5, seed=2), task_metrics=scripted([0, 9] + [0] * 30))
    result, _ = fit(the_job, settings(every=2, keep=2, watch=watch), tmp_path)
    left = sorted(int(p.name.split("-")[1]) for p in tmp_path.iterdir())
    assert left == sorted({2, *range(result.step, 0, -1)} & {2, left[-1], left[-2]}) and len(left) == 3


def test_plan_covers_every_row_each_epoch_and_obeys_max_steps():
    train = rows(30)
    sizes = [t.size for t in train]
    plan = steps_in_order(sizes, settings(epochs=2).pace)
    for epoch in (1.0, 2.0):
        inside = [p for p in plan if epoch - 1 < p.epoch <= epoch]
        assert sorted(r for p in inside for r in p.rows) == list(range(30))
    assert plan[-1].epoch == 2.0
    assert sum(p.size for p in plan) == 2 * sum(t.size for t in train)
    assert steps_in_order(sizes, settings(epochs=2, max_steps=3).pace) == plan[:3]
    twice = steps_in_order(sizes, settings(epochs=2).pace, updates=2)
    assert twice[::2] == twice[1::2] == plan


def test_rates_follow_the_schedule(tmp_path):
    seen = []
    fit(job(rows(24)), settings(schedule="linear", warmup=0.0), tmp_path, seen.append)
    ends = [e for e in seen if isinstance(e, events.StepEnd)]
    total = len(ends)
    assert [e.learning_rate for e in ends] == pytest.approx([1e-2 * (1 - i / total) for i in range(total)])
    assert ends[-1].tokens == 2 * sum(t.size for t in rows(24)) and ends[-1].seconds_left == 0


def test_weight_decay_touches_matrices_only():
    the_job = job([])
    parameters = dict(the_job.model.named_parameters())
    optimizer = make_optimizer(parameters, OptimSettings(weight_decay=0.5))
    set_rate(optimizer, 0.1)
    before = {n: p.detach().clone() for n, p in parameters.items()}
    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in parameters.items():
        expected = before[name] * (1 - 0.1 * 0.5) if p.dim() >= 2 else before[name]
        torch.testing.assert_close(p.detach(), expected)
