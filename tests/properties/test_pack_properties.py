"""What must hold for any sizes and any budgets."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.data.pack import epoch_order, plan_epoch, shard, total_steps

SIZES = st.lists(st.integers(1, 60), max_size=60)
BUDGET = st.integers(1, 100)


def rows_of(step):
    return [row for micro in step for row in micro]


def plan(sizes, seed, tokens_per_step, micro_tokens, epoch=0):
    return plan_epoch(
        sizes, seed=seed, epoch=epoch, tokens_per_step=tokens_per_step, micro_tokens=micro_tokens
    )


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(0, 5), BUDGET, BUDGET)
def test_every_row_once_and_budgets_kept(sizes, seed, tokens_per_step, micro_tokens):
    steps = plan(sizes, seed, tokens_per_step, micro_tokens)
    assert sorted(row for step in steps for row in rows_of(step)) == list(range(len(sizes)))
    for step in steps:
        assert step, "a step without rows"
        assert len(rows_of(step)) == 1 or sum(sizes[r] for r in rows_of(step)) <= tokens_per_step
        for micro in step:
            assert len(micro) == 1 or sum(sizes[r] for r in micro) <= micro_tokens
    for step, following in pairwise(steps):
        in_order = [r for r in epoch_order(len(sizes), seed=seed, epoch=0) if r in rows_of(following)]
        filled = sum(sizes[r] for r in rows_of(step))
        assert filled + sizes[in_order[0]] > tokens_per_step, (
            "a step was closed while its next row still fitted"
        )


@settings(max_examples=100, deadline=None)
@given(SIZES, st.integers(0, 5), BUDGET, BUDGET, BUDGET)
def test_steps_do_not_depend_on_the_micro_budget(sizes, seed, tokens_per_step, one, other):
    first = [sorted(rows_of(step)) for step in plan(sizes, seed, tokens_per_step, one)]
    second = [sorted(rows_of(step)) for step in plan(sizes, seed, tokens_per_step, other)]
    assert first == second
    assert len(first) == total_steps(sizes, 1, seed=seed, tokens_per_step=tokens_per_step)


@settings(max_examples=100, deadline=None)
@given(SIZES, st.integers(0, 5), BUDGET, BUDGET, st.sampled_from([1, 2, 4]))
def test_ranks_share_the_step_between_them(sizes, seed, tokens_per_step, micro_tokens, world):
    for step in plan(sizes, seed, tokens_per_step, micro_tokens):
        shares = [shard(step, sizes, rank=rank, world=world) for rank in range(world)]
        assert sorted(micro for share in shares for micro in share) == sorted(step)
        loads = [sum(sizes[r] for r in rows_of(share)) for share in shares]
        largest = max(sum(sizes[r] for r in micro) for micro in step)
        assert max(loads) - min(loads) <= largest  # greedy balancing never differs by more than one piece


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 200), st.integers(0, 50), st.integers(0, 3), st.integers(0, 3))
def test_appended_rows_do_not_reorder_the_others(rows, more, seed, epoch):
    order = epoch_order(rows, seed=seed, epoch=epoch)
    longer = epoch_order(rows + more, seed=seed, epoch=epoch)
    assert [row for row in longer if row < rows] == order
