"""Patience and overfitting by hand."""

from tunewright.engine.stop import Progress, Watch


def run(values, watch, train=None):
    progress = Progress()
    for step, value in enumerate(values):
        loss = train[step] if train else 0.0
        progress = progress.update(watch, step, {"validation_loss": value, "f1": value}, loss)
    return progress


def test_patience_counts_evaluations_without_improvement():
    watch = Watch(patience=2)
    assert not run([3, 2, 2.5], watch).exhausted(watch)
    after = run([3, 2, 2.5, 2.1], watch)
    assert after.exhausted(watch) and (after.best, after.best_step, after.waited) == (2, 1, 2)


def test_small_gains_do_not_count():
    watch = Watch(patience=1, min_improvement=0.5)
    assert run([3, 2.8], watch).exhausted(watch) and not run([3, 2.4], watch).exhausted(watch)


def test_higher_can_be_better():
    watch = Watch("f1", patience=1, higher_is_better=True)
    assert run([0.1, 0.5, 0.4], watch).best_step == 1


def test_zero_patience_never_stops():
    watch = Watch(patience=0)
    assert not run([1, 2, 3, 4], watch).exhausted(watch)


def test_overfitting_needs_both_signs():
    watch = Watch()
    assert run([3, 2, 2.1, 2.2], watch, [3, 2, 1.5, 1.0]).overfitting
    assert not run([3, 2, 2.1, 2.2], watch, [3, 1.0, 1.2, 1.1]).overfitting, (
        "training loss did not keep falling"
    )
    assert not run([3, 2, 2.2, 2.1], watch, [3, 2, 1.5, 1.0]).overfitting, "validation did not rise twice"
