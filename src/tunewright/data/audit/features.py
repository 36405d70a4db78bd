"""Texts as numbers without a vocabulary: hashed TF-IDF of words, pairs of words and short strings.

scikit-learn is imported where it is used: it takes longer to load than a small file takes to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

COLUMNS = 2**18
LONG = 250  # mean characters above which the letters of a text add nothing that its words do not say
RAREST = 2  # texts that must hold a feature
Matrix = Any  # scipy.sparse.csr_matrix (n, features)


def hashed(texts: Sequence[str]) -> Matrix:
    """TF-IDF (n, features) with rows of length 1: words and pairs of words, for short texts also strings of
    2 to 4 letters, which survive typing errors."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(
        ngram_range=(1, 2), n_features=COLUMNS, alternate_sign=False, norm=None, token_pattern=r"\w+"
    )
    blocks = [_weighted(words.transform(texts))]
    if sum(map(len, texts)) <= LONG * len(texts):
        letters = HashingVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), n_features=COLUMNS, alternate_sign=False, norm=None
        )
        blocks.append(_weighted(letters.transform(texts)))
    whole = hstack(blocks).tocsr()
    return whole[:, np.asarray(whole.getnnz(axis=0)).ravel() >= RAREST]


def _weighted(counts: Matrix) -> Matrix:
    from sklearn.feature_extraction.text import TfidfTransformer

    return TfidfTransformer(sublinear_tf=True).fit_transform(counts)


def directions(matrix: Matrix, most: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """The texts in the ``most`` strongest directions of their features (latent semantic analysis), (n, most)
    or narrower where the matrix is small."""
    from sklearn.decomposition import TruncatedSVD

    width = min(most, matrix.shape[0] - 1, matrix.shape[1] - 1)
    if width < 2:
        return np.asarray(matrix.toarray())
    found: np.ndarray[Any, Any] = TruncatedSVD(width, n_iter=2, random_state=seed).fit_transform(matrix)
    return found
