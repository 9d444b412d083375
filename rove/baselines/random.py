"""Random: what chance achieves."""

from __future__ import annotations

import numpy as np

from rove.baselines.base import Floats, Ints, Log


class Random:
    """Give every item an independent uniform score."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._num_items = 0

    def fit(self, log: Log) -> None:
        """Take the number of items."""
        self._num_items = log.num_items

    def scores(self, user: int, now: float) -> Floats:
        """Return fresh draws from [0, 1), (N,)."""
        return self._rng.random(self._num_items)

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Learn nothing."""
