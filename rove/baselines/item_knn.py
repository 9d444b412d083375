"""Item-kNN: what users who took an item also took (Sarwar et al. 2001; shrinkage: Koren 2010).

    s_ij = n_ij / (sqrt(n_i n_j) + shrink),  i != j

n_ij: users who took both. Each item keeps its `neighbours` most similar items; the score of j for a
user is the sum of s_ij over the user's current items i that have j among theirs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rove.baselines.base import Floats, Ints, Log, Profiles


class ItemKnn:
    """Score items by their likeness to the user's current items."""

    def __init__(self, *, neighbours: int = 100, shrink: float = 10.0) -> None:
        self._neighbours = neighbours
        self._shrink = shrink
        self._similar = sparse.csr_array((0, 0))  # (N, N): a row has an item's neighbours
        self._profiles: Profiles

    def fit(self, log: Log) -> None:
        """Count who took what together."""
        self._profiles = Profiles(log)
        taken_UN = self._profiles.matrix(np.arange(log.num_users), log.num_items)
        together = sparse.csr_array(taken_UN.T @ taken_UN)
        size = np.sqrt(together.diagonal())
        row = np.repeat(np.arange(log.num_items), np.diff(together.indptr))
        together.data /= size[row] * size[together.indices] + self._shrink
        together.data[row == together.indices] = 0.0
        self._similar = _largest(together, self._neighbours)

    def scores(self, user: int, now: float) -> Floats:
        """Return the scores for the user's items so far (N,)."""
        return np.asarray(self.score_block(np.array([user]), np.array([now]))[0], np.float64)

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return the scores of several users (B, N)."""
        scores: Floats = (
            self._profiles.matrix(users, self._similar.shape[0]) @ self._similar
        ).toarray()
        return scores

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Add the items to the user's profile; the similarities stay."""
        self._profiles.add(user, items)


def _largest(matrix: sparse.csr_array, num: int) -> sparse.csr_array:
    """Keep the `num` largest entries of each row."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    by_size = np.lexsort((-matrix.data, row))
    place = np.arange(len(row)) - matrix.indptr[row]  # rows are still together, in order
    kept = by_size[(place < num) & (matrix.data[by_size] > 0)]
    return sparse.csr_array((matrix.data[kept], (row[kept], matrix.indices[kept])), matrix.shape)
