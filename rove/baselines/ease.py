"""EASE: a linear item-item model in closed form.

    min_B |X - X B|^2 + l2 |B|^2  with diag(B) = 0
    P = (X'X + l2 I)^-1,  B_ij = -P_ij / P_jj for i != j

(Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data".) X is the binary user x item
matrix. The score of j for a user is the sum of B_ij over the user's
current items i. Memory and time are those of an N x N inverse: for catalogues up to about 20,000.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rove.baselines.base import Floats, Ints, Log, Profiles

_USERS_PER_BLOCK = 1024


class Ease:
    """Score items by a linear map from the user's current items."""

    def __init__(self, l2: float = 500.0) -> None:
        self._l2 = l2
        self._weights: NDArray[np.float32] = np.zeros((0, 0), np.float32)  # (N, N)
        self._profiles: Profiles

    def fit(self, log: Log) -> None:
        """Solve for the weights."""
        fit_each([self], log)

    def scores(self, user: int, now: float) -> Floats:
        """Return the scores for the user's items so far (N,)."""
        rows = self._weights[self._profiles.of(user)]
        return np.asarray(rows.sum(axis=0), np.float64)

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return the scores of several users (B, N)."""
        scores: NDArray[np.float32] = (
            self._profiles.matrix(users, len(self._weights)) @ self._weights
        )
        return scores

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Add the items to the user's profile; the weights stay."""
        self._profiles.add(user, items)

    def solve(self, log: Log, gram: NDArray[np.float32]) -> None:
        """Fit, given X'X (N, N) of `log`."""
        self._profiles = Profiles(log)
        matrix = torch.from_numpy(gram.copy())
        matrix.diagonal().add_(self._l2)
        # Half the work of a general inverse.
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        inverse /= -inverse.diagonal().clone()
        inverse.fill_diagonal_(0.0)
        self._weights = np.ascontiguousarray(inverse.numpy())  # rows are what is read


def fit_each(models: Sequence[Ease], log: Log) -> None:
    """Fit several models to one log, counting its pairs once."""
    gram = _gram(log)
    for model in models:
        model.solve(log, gram)


def _gram(log: Log) -> NDArray[np.float32]:
    """Return X'X (N, N): on how many users' lists two items are together."""
    gram = np.zeros((log.num_items, log.num_items), np.float32)
    for start in range(0, log.num_users, _USERS_PER_BLOCK):
        in_block = (log.users >= start) & (log.users < start + _USERS_PER_BLOCK)
        block = np.zeros((min(_USERS_PER_BLOCK, log.num_users - start), log.num_items), np.float32)
        block[log.users[in_block] - start, log.items[in_block]] = 1.0
        gram += block.T @ block
    return gram
