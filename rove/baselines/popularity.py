"""Popularity: the same items for everyone."""

from __future__ import annotations

import numpy as np

from rove.baselines.base import DAY_S, Floats, Ints, Log


class RecentPopularity:
    """Count, per item, the baskets of the log's last `window_days`; frozen afterwards."""

    def __init__(self, window_days: float = 28.0) -> None:
        self._window_s = window_days * DAY_S
        self._counts: Floats = np.zeros(0)

    def fit(self, log: Log) -> None:
        """Count the baskets that began less than the window before the last one began."""
        self._counts = np.zeros(log.num_items)
        baskets = log.baskets()
        for basket in baskets:
            if basket.timestamp > baskets[-1].timestamp - self._window_s:
                self._counts[basket.items] += 1.0

    def scores(self, user: int, now: float) -> Floats:
        """Return the counts (N,)."""
        return self._counts

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Learn nothing."""


class LivePopularity:
    """Count, per item, all baskets so far, each worth half after `half_life_days`.

    score_j(now) = sum over baskets b with j of 2 ** (-(now - t_b) / half_life)
    """

    def __init__(self, half_life_days: float = 7.0) -> None:
        self._half_life_s = half_life_days * DAY_S
        self._counts: Floats = np.zeros(0)
        self._as_of: float | None = None

    def fit(self, log: Log) -> None:
        """Count the log's baskets."""
        self._counts = np.zeros(log.num_items)
        self._as_of = None
        for basket in log.baskets():
            self.observe(basket.user, basket.items, basket.timestamp)

    def scores(self, user: int, now: float) -> Floats:
        """Return the decayed counts at `now` (N,)."""
        if self._as_of is None:
            return self._counts
        return self._counts * self._decay(now - self._as_of)

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Count one basket, which may be older than those counted before."""
        if self._as_of is None:
            self._as_of = now
        elif now > self._as_of:
            self._counts *= self._decay(now - self._as_of)
            self._as_of = now
        self._counts[items] += self._decay(self._as_of - now)

    def _decay(self, age_s: float) -> float:
        return float(0.5 ** (age_s / self._half_life_s))
