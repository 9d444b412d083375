"""Fallback: a baseline that knows users, and what to answer to those it does not know."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rove.baselines.base import Baseline, Floats, Ints, Log, Profiles, scores_of_each


class Fallback:
    """Ask `personal` about users who took anything, `shared` about the others."""

    def __init__(self, personal: Baseline, shared: Baseline) -> None:
        self._personal = personal
        self._shared = shared
        self._profiles: Profiles

    def fit(self, log: Log) -> None:
        """Fit both."""
        self.know(log)
        self._personal.fit(log)
        self._shared.fit(log)

    def know(self, log: Log) -> None:
        """Take who took anything, of two that are fitted to `log`."""
        self._profiles = Profiles(log)

    def scores(self, user: int, now: float) -> Floats:
        """Return the scores of the one who knows (N,)."""
        known = len(self._profiles.of(user)) > 0
        return (self._personal if known else self._shared).scores(user, now)

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return the scores of several users (B, N)."""
        is_known = np.array([len(self._profiles.of(user)) > 0 for user in users.tolist()])
        blocks = {
            known: scores_of_each(asked, users[is_known == known], times[is_known == known])
            for known, asked in ((True, self._personal), (False, self._shared))
            if (is_known == known).any()
        }
        scores_BN = np.empty((len(users), next(iter(blocks.values())).shape[1]))
        for known, block in blocks.items():
            scores_BN[is_known == known] = block
        return scores_BN

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Tell both."""
        self._profiles.add(user, items)
        self._personal.observe(user, items, now)
        self._shared.observe(user, items, now)
