"""ALS: matrix factorisation for implicit feedback (Hu, Koren and Volinsky 2008), by `implicit`.

    min sum_ui c_ui (x_ui - u_u.v_i)^2 + regularization (sum_u |u_u|^2 + sum_i |v_i|^2)

x_ui = 1 and c_ui = alpha where the user took the item, x_ui = 0 and c_ui = 1 elsewhere. A user's
vector is solved anew from the user's current items at every request (fold-in).
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from rove.baselines.base import Floats, Ints, Log, Profiles
from rove.errors import InvalidInput


class Als:
    """Score items by factors learnt with `implicit`, an optional dependency."""

    def __init__(
        self,
        *,
        factors: int = 32,
        regularization: float = 10.0,
        alpha: float = 1.0,
        iterations: int = 15,
        seed: int = 0,
    ) -> None:
        self._implicit = optional("implicit.cpu.als")
        self._settings = {
            "factors": factors,
            "regularization": regularization,
            "alpha": alpha,
            "iterations": iterations,
            "random_state": seed,
        }
        self._model: Any = None
        self._profiles: Profiles
        self._num_items = 0

    def fit(self, log: Log) -> None:
        """Learn the factors."""
        self._profiles = Profiles(log)
        self._num_items = log.num_items
        matrix = sparse.csr_matrix(self._profiles.matrix(np.arange(log.num_users), log.num_items))
        # implicit threads over rows itself and warns when BLAS has threads of its own.
        with threadpool_limits(1, "blas"):
            self._model = self._implicit.AlternatingLeastSquares(**self._settings)
            self._model.fit(matrix, show_progress=False)
        self._model.num_threads = 1  # one user's fold-in is too small to share out

    def scores(self, user: int, now: float) -> Floats:
        """Return the scores for the user's items so far (N,)."""
        return np.asarray(self.score_block(np.array([user]), np.array([now]))[0], np.float64)

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return the scores of several users (B, N)."""
        rows = sparse.csr_matrix(self._profiles.matrix(users, self._num_items))
        vectors_BF = self._model.recalculate_user(np.arange(len(users)), rows)
        # Not `@`: a product this small is slower on the threads of BLAS.
        scores: NDArray[np.floating] = (
            np.einsum("bf,nf->bn", vectors_BF, self._model.item_factors)
            if len(users) == 1
            else vectors_BF @ self._model.item_factors.T
        )
        return scores

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Add the items to the user's profile; the item factors stay."""
        self._profiles.add(user, items)


def optional(module: str) -> Any:
    """Import a module of `implicit`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"this baseline needs the package implicit, but {error.name} is not installed; "
            "run: pip install 'rove[baselines]'"
        ) from None
