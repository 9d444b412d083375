"""ALS: matrix factorisation for implicit feedback (Hu, Koren and Volinsky 2008), by `implicit`.

    min sum_ui c_ui (x_ui - u_u.v_i)^2 + regularization (sum_u |u_u|^2 + sum_i |v_i|^2)

x_ui = 1 and c_ui = alpha where the user took the item, x_ui = 0 and c_ui = 1 elsewhere. A user's
vector is solved anew from the user's current items at every request (fold-in).
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
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
        self._implicit = _optional("implicit.cpu.als")
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
        matrix = sparse.csr_matrix(
            (np.ones(len(log.users), np.float32), (log.users, log.items)),
            shape=(log.num_users, log.num_items),
        )
        matrix.data[:] = 1.0  # an item taken twice is summed above
        # implicit threads over rows itself and warns when BLAS has threads of its own.
        with threadpool_limits(1, "blas"):
            self._model = self._implicit.AlternatingLeastSquares(**self._settings)
            self._model.fit(matrix, show_progress=False)
        self._model.num_threads = 1  # one user's fold-in is too small to share out

    def scores(self, user: int, now: float) -> Floats:
        """Return the scores for the user's items so far (N,)."""
        items = self._profiles.of(user)
        row = sparse.csr_matrix(
            (np.ones(len(items), np.float32), items, [0, len(items)]), shape=(1, self._num_items)
        )
        vector = self._model.recalculate_user(0, row)
        # Not `@`: a matrix-vector product this small is slower on the threads of BLAS.
        scores = np.einsum("nf,f->n", self._model.item_factors, vector)
        return np.asarray(scores, np.float64)

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Add the items to the user's profile; the item factors stay."""
        self._profiles.add(user, items)


def _optional(module: str) -> Any:
    """Import a module of the optional dependencies."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"the ALS baseline needs the package implicit, but {error.name} is not installed; "
            "run: pip install 'rove[baselines]'"
        ) from None
