"""BPR: matrix factorisation that puts what users took before what they did not, by `implicit`.

    max sum ln sigmoid(u_u.(v_i - v_j) + b_i - b_j) - regularization |parameters|^2

over users u, items i that u took and items j that u did not (Rendle et al. 2009). It has no
fold-in: what users do after the fit changes nothing, and users who took nothing get the biases b.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rove.baselines.als import optional
from rove.baselines.base import Floats, Ints, Log, Profiles


class Bpr:
    """Score items by factors learnt with `implicit`, an optional dependency."""

    def __init__(
        self,
        *,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularization: float = 0.01,
        iterations: int = 50,
        seed: int = 0,
    ) -> None:
        self._implicit = optional("implicit.cpu.bpr")
        self._settings = {
            "factors": factors,
            "learning_rate": learning_rate,
            "regularization": regularization,
            "iterations": iterations,
            "random_state": seed,
            "num_threads": 1,  # several threads race for the same factors
        }
        self._item_factors: NDArray[np.float32] = np.zeros((0, 1), np.float32)  # (N, F + 1)
        self._user_factors: NDArray[np.float32] = np.zeros((0, 1), np.float32)  # (U, F + 1)

    def fit(self, log: Log) -> None:
        """Learn the factors; the last one is the items' bias, and 1 for every user."""
        taken_UN = Profiles(log).matrix(np.arange(log.num_users), log.num_items)
        taken_UN = sparse.csr_matrix(taken_UN)  # the only kind that implicit knows
        model: Any = self._implicit.BayesianPersonalizedRanking(**self._settings)
        model.fit(taken_UN, show_progress=False)
        self._item_factors, self._user_factors = model.item_factors, model.user_factors.copy()
        self._user_factors[np.diff(taken_UN.indptr) == 0, :-1] = 0.0

    def scores(self, user: int, now: float) -> Floats:
        """Return the scores (N,)."""
        return np.asarray(self.score_block(np.array([user]), np.array([now]))[0], np.float64)

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return the scores of several users (B, N)."""
        factors_BF = np.zeros((len(users), self._item_factors.shape[1]), np.float32)
        factors_BF[:, -1] = 1.0
        known = users < len(self._user_factors)
        factors_BF[known] = self._user_factors[users[known]]
        scores: NDArray[np.float32] = factors_BF @ self._item_factors.T
        return scores

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Learn nothing."""
