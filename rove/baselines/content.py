"""Content: the items whose texts are most like the user's, by a language model as it is.

    score_j = cosine(e_j, mean of e_i / |e_i| over the user's current items i)

Of a user without items it says nothing: all scores are zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rove.baselines.base import Floats, Ints, Log, Profiles


class Content:
    """Score items by the cosine with the mean of the user's items; nothing is learnt."""

    def __init__(self, embeddings_NE: NDArray[np.floating]) -> None:
        sizes = np.linalg.norm(embeddings_NE, axis=1, keepdims=True)
        self._unit_NE = (embeddings_NE / np.maximum(sizes, 1e-12)).astype(np.float32)
        self._profiles: Profiles

    def fit(self, log: Log) -> None:
        """Take the users' items."""
        self._profiles = Profiles(log)

    def scores(self, user: int, now: float) -> Floats:
        """Return the cosines (N,)."""
        return np.asarray(self.score_block(np.array([user]), np.array([now]))[0], np.float64)

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return the cosines of several users (B, N)."""
        sums_BE = self._profiles.matrix(users, len(self._unit_NE)) @ self._unit_NE
        sizes_B = np.linalg.norm(sums_BE, axis=1, keepdims=True)
        scores: NDArray[np.floating] = (sums_BE / np.maximum(sizes_B, 1e-12)) @ self._unit_NE.T
        return scores

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Add the items to the user's profile."""
        self._profiles.add(user, items)
