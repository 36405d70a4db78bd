"""Sequences end to end: positions, segments and targets by hand."""

import torch

from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import Segment


def test_six_prompt_tokens_and_three_answer_tokens():
    batch = build_batch([Tokens([10, 11, 12, 13, 14, 15, 20, 21, 22], [0.0] * 6 + [1.0, 1.0, 0.5])])
    assert batch.targets.source.tolist() == [5, 6, 7]
    assert batch.targets.ids.tolist() == [20, 21, 22]
    assert batch.targets.weights.tolist() == [1.0, 1.0, 0.5]


def test_two_documents_by_hand():
    batch = build_batch([Tokens([1, 2, 3], [1.0, 1.0, 0.0]), Tokens([4, 5], [1.0, 2.0])], rows=(7, 3))
    assert batch.ids.tolist() == [1, 2, 3, 4, 5]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]
    assert batch.segments == (Segment(0, 3), Segment(3, 2))
    # The first token of a document has nothing to be predicted from, whatever its weight.
    assert batch.targets.source.tolist() == [0, 3]
    assert batch.targets.ids.tolist() == [2, 5]
    assert batch.targets.weights.tolist() == [1.0, 2.0]
    assert batch.targets.segment.tolist() == [0, 1]
    assert batch.rows == (7, 3) and batch.size == 5


def test_branches_continue_their_prefix():
    tree = Tokens(
        [1, 2],
        [0.0, 0.0],
        branches=(Tokens([3, 4], [1.0, 1.0], extras={"reference": -1.5}), Tokens([5], [1.0])),
    )
    batch = build_batch([Tokens([9], [0.0]), tree])
    assert batch.ids.tolist() == [9, 1, 2, 3, 4, 5]
    assert batch.positions.tolist() == [0, 0, 1, 2, 3, 2]
    assert batch.segments == (Segment(0, 1), Segment(1, 2), Segment(3, 2, 1), Segment(5, 1, 1))
    assert batch.targets.source.tolist() == [
        2,
        3,
        2,
    ]  # both branches are predicted from the prefix's last token
    assert batch.targets.ids.tolist() == [3, 4, 5]
    assert batch.extras["reference"][2] == -1.5 and torch.isnan(batch.extras["reference"][[0, 1, 3]]).all()
