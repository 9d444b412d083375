"""Blend: two baselines added, each on its own scale."""

from __future__ import annotations

from rove.baselines.base import Baseline, Floats, Ints, Log


class Blend:
    """Add to the scores of `personal` those of `shared`, scaled to at most `weight`."""

    def __init__(self, personal: Baseline, shared: Baseline, weight: float) -> None:
        self._personal = personal
        self._shared = shared
        self._weight = weight

    def fit(self, log: Log) -> None:
        """Fit both."""
        self._personal.fit(log)
        self._shared.fit(log)

    def scores(self, user: int, now: float) -> Floats:
        """Return personal + weight * shared / max(shared), (N,)."""
        shared = self._shared.scores(user, now)
        scale = max(float(shared.max(initial=0.0)), 1e-12)
        return self._personal.scores(user, now) + shared * (self._weight / scale)

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Tell both."""
        self._personal.observe(user, items, now)
        self._shared.observe(user, items, now)
