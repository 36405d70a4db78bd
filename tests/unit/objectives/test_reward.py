"""Reward models: how comparisons stand in a batch, worked losses, refusals, and rules that are learnt."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.heads import Given, Numbers, encoded, labelled, learned, objective, pair, ranking, scores_of
from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Conversation, Meta
from tunewright.data.render import Renderer
from tunewright.engine.batch import build_batch
from tunewright.evaluate.pairs import pair_scores
from tunewright.models.forward import ModelForward
from tunewright.models.score import attach
from tunewright.objectives.base import Objective
from tunewright.objectives.reward import comparisons

LN = math.log
PAIR = pair("1 2", "3 4", "5")
RANKS = ranking("6", ["7", "8", "9"], [0.5, 2.0, 0.5])


def loss(what, rows, *rewards):
    """The loss of ``rows``, whose answers have these ``rewards``; that of a prompt counts nowhere."""
    batch = build_batch(encoded(what, rows))
    given = iter(rewards)
    scores = Given([[777.0 if s.parent is None else next(given)] for s in batch.segments])
    return what.loss(scores, batch), float(what.count(batch)), scores.table


# --- sequences


def test_a_pair_is_a_prompt_with_two_ranked_branches():
    [tokens] = objective("reward").encode(PAIR, Numbers())
    assert tokens.ids == [1, 2] and [b.ids for b in tokens.branches] == [[3, 4], [5]]
    assert [b.extras for b in tokens.branches] == [{"rank": 0.0, "margin": 0.0}, {"rank": 1.0, "margin": 0.0}]


def test_a_ranking_has_a_branch_per_answer_and_equal_scores_share_a_rank():
    [tokens] = objective("reward").encode(RANKS, Numbers())
    assert [b.extras["rank"] for b in tokens.branches] == [1.0, 0.0, 1.0]


def test_the_margin_stands_at_the_worse_answer():
    what = objective("reward", margin="data")
    [tokens] = what.encode(replace(PAIR, margin=0.75), Numbers())
    assert [b.extras["margin"] for b in tokens.branches] == [0.0, 0.75]
    [without] = objective("reward").encode(replace(PAIR, margin=0.75), Numbers())
    assert [b.extras["margin"] for b in without.branches] == [0.0, 0.0]


def test_answers_are_compared_with_those_of_their_own_prompt():
    what = objective("reward")
    batch = build_batch(encoded(what, [PAIR, RANKS, PAIR]))
    found = comparisons(batch)
    assert found.segment.tolist() == [1, 2, 4, 5, 6, 8, 9] and found.groups == 3
    assert found.group.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert found.rank.tolist() == [0, 1, 1, 0, 1, 0, 1] and float(what.count(batch)) == 3


def test_the_head():
    head = objective("reward", head_rate=4.0).heads["score"]
    assert (head.outputs, head.pooling, head.bias, head.rate) == (1, "last", False, 4.0)
    assert head.facts == {"task": "reward"}
    assert isinstance(objective("reward"), Objective) and objective("reward").judged == "scores"


def test_the_renderer_of_a_model_gives_such_branches():
    """Each answer is read to its end of turn, behind its prompt: the score is that of the whole chat."""
    tokenizer = tiny_tokenizer()
    renderer, what = Renderer(tokenizer), objective("reward")
    row = pair("What is it?", "A fox.", "A lazy dog, thank you.")
    [tokens] = what.encode(row, renderer)
    assert [b.extras["rank"] for b in tokens.branches] == [0.0, 1.0]
    assert all(any(b.weights) and not any(tokens.weights) for b in tokens.branches)
    model = tiny_model("llama", len(tokenizer))
    attach(model, what.heads)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    forward = ModelForward(model)
    with torch.no_grad():
        branched = forward.scores(build_batch([tokens]))[1:, 0]
        for score, answer in zip(branched, (row.chosen, row.rejected), strict=True):
            [chat] = renderer.conversation(Conversation((*row.prompt, *answer)))
            assert renderer.end_of_turn in chat.ids[-3:]
            alone = forward.scores(build_batch([chat]))[0, 0]
            assert abs(float(alone)) > 0.01 and float(score) == pytest.approx(float(alone), abs=1e-5)


# --- the loss


@pytest.mark.parametrize(
    ("options", "rows", "rewards", "worked", "count"),
    [
        ({"centre": 0.0}, [PAIR], (LN(3), 0.0), LN(4 / 3), 1),
        ({"centre": 0.0}, [PAIR, PAIR], (LN(3), 0.0, 0.0, LN(4)), LN(4 / 3) + LN(5), 2),
        ({"centre": 0.5}, [PAIR], (2.0, 2.0), LN(2) + 0.5 * 16, 1),
        ({}, [PAIR], (1.0, 1.0), LN(2) + 0.01 * 4, 1),
        ({"margin": "data"}, [replace(PAIR, margin=LN(2))], (LN(6), -LN(6)), LN(1 + 2 / 36), 1),
        # worths 2, 3, 1: the second is best, then each of the tie is drawn from the two that are left
        ({"centre": 0.0}, [RANKS], (LN(2), LN(3), 0.0), LN(6 / 3) + LN(3 / 2) + LN(3 / 1), 1),
        ({"centre": 0.1}, [RANKS, PAIR], (0.0, 0.0, 0.0, 1.0, -1.0), LN(12) + LN(1 + math.exp(-2)), 2),
    ],
)
def test_worked_losses(options, rows, rewards, worked, count):
    found, counted, _ = loss(objective("reward", **options), rows, *rewards)
    assert float(found.total.detach()) == pytest.approx(worked, rel=1e-6) and counted == count


def test_metrics():
    """Pairs of unequal rank: 2 > -1 right, 1 = 1 half right, and of the ranking 0 < 1 wrong, 0 > -3 right."""
    rows = [PAIR, PAIR, RANKS]
    found, _, _ = loss(objective("reward"), rows, 2.0, -1.0, 1.0, 1.0, 1.0, 0.0, -3.0)
    values = {name: (float(m.total), float(m.weight)) for name, m in found.metrics.items()}
    assert values == {"accuracy": (2.5, 4.0), "margin": (5.0, 4.0), "reward": (1.0, 7.0)}


def test_the_gradient_is_that_of_finite_differences_and_prompts_have_none():
    what = objective("reward", centre=0.2, margin="data")
    rows = [replace(PAIR, margin=0.3), replace(PAIR, margin=1.0)]
    found, _, table = loss(what, rows, 0.4, -0.1, 1.0, 2.0)
    found.total.backward()
    assert table.grad[0].item() == table.grad[3].item() == 0.0
    step = 1e-4
    for i, at in ((0, 1), (1, 2), (2, 4), (3, 5)):
        up, down = ([0.4, -0.1, 1.0, 2.0] for _ in range(2))
        up[i], down[i] = up[i] + step, down[i] - step
        rise = float(loss(what, rows, *up)[0].total.detach() - loss(what, rows, *down)[0].total.detach())
        assert table.grad[at].item() == pytest.approx(rise / (2 * step), abs=1e-6)


def test_each_option_changes_the_loss():
    rows = [replace(PAIR, margin=1.0)]
    variants = ({}, {"margin": "data"}, {"centre": 0.0}, {"centre": 1.0})
    found = [loss(objective("reward", **v), rows, 0.5, 0.1)[0].total.detach() for v in variants]
    assert len({round(float(total), 6) for total in found}) == 4


# --- what is refused


@pytest.mark.parametrize("margin", [None, math.nan, math.inf])
def test_a_pair_without_the_margin_that_is_asked_for(margin):
    with pytest.raises(DataError, match=r"pairs.jsonl:1: margin is 'data', but this row states no margin"):
        objective("reward", margin="data").encode(replace(PAIR, margin=margin), Numbers())


def test_rankings_state_no_margin():
    with pytest.raises(DataError, match=r"ranks.jsonl:1: margin is 'data'"):
        objective("reward", margin="data").encode(RANKS, Numbers())


def test_a_ranking_of_one_answer():
    with pytest.raises(DataError, match=r"ranks.jsonl:1: a ranking of 1 answers compares nothing"):
        objective("reward").encode(ranking("1", ["2"], [1.0]), Numbers())


def test_a_score_that_ranks_nothing():
    with pytest.raises(DataError, match=r"ranks.jsonl:1: the scores of the answers are \[1.0, nan\]"):
        objective("reward").encode(ranking("1", ["2", "3"], [1.0, math.nan]), Numbers())


def test_a_row_of_another_kind():
    with pytest.raises(ConfigError, match=r"rows.jsonl:3 is a labelled row"):
        objective("reward").encode(replace(labelled("1", "a"), meta=Meta("rows.jsonl", 3)), Numbers())


# --- learning


def words(rng, n):
    return [rng.randrange(6, 40) for _ in range(n)]


def marked(rng, marks):
    """Five or six random tokens, ``marks`` of which are token 1."""
    ids = [1] * marks + words(rng, rng.randrange(5, 7) - marks)
    rng.shuffle(ids)
    return " ".join(map(str, ids))


def prompts(rng):
    return " ".join(map(str, words(rng, 2)))


def test_separable_pairs_are_learnt(tmp_path):
    torch.set_num_threads(1)
    rng = random.Random(0)
    rows = [pair(prompts(rng), marked(rng, rng.choice((1, 2))), marked(rng, 0)) for _ in range(320)]
    what = objective("reward")
    forward = learned(what, rows[100:], tmp_path, steps=40)
    scores = scores_of(forward, what, rows[:100])[:, 0].reshape(100, 3)  # prompt, chosen, rejected
    assert pair_scores(scores[:, 1].numpy(), scores[:, 2].numpy()).mean() > 0.9
    assert abs(float(scores[:, 1:].mean())) < 1.0  # centred


def test_rankings_with_ties_are_learnt(tmp_path):
    """Four answers, the more marks the better; scores of answers with as many marks lie close."""
    torch.set_num_threads(1)
    rng = random.Random(1)
    rows, marks = [], []
    for _ in range(250):
        counts = [rng.randrange(4) for _ in range(4)]
        rows.append(ranking(prompts(rng), [marked(rng, n) for n in counts], [float(n) for n in counts]))
        marks.append(counts)
    what = objective("reward")
    forward = learned(what, rows[100:], tmp_path, steps=50)
    scores = scores_of(forward, what, rows[:100])[:, 0].reshape(100, 5)[:, 1:].numpy()
    truth = np.array(marks[:100])
    lead, extra = scores[:, :, None] - scores[:, None], truth[:, :, None] - truth[:, None]
    assert (lead[extra > 0] > 0).mean() > 0.9
    off_diagonal = ~np.eye(4, dtype=bool)[None].repeat(100, 0)
    assert np.abs(lead[(extra == 0) & off_diagonal]).mean() < 0.3 * np.abs(lead[extra != 0]).mean()
