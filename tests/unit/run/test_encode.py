"""What is counted of rendered rows, where tokens are learnt and where they are only read."""

from tunewright.core.records import Tokens
from tunewright.run.encode import _counts


def test_nothing_is_masked_where_no_given_token_is_learnt():
    rows = [Tokens([1, 2, 3], [0.0, 0.0, 0.0]), Tokens([1, 2], [0.0, 1.0])]
    assert _counts(rows, 8, weighted=True).all_masked == 1
    read = _counts(rows, 8, weighted=False)
    assert read.all_masked == read.endless == 0 and (read.rows, read.total_tokens) == (2, 5)
