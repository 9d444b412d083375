"""What a user had with the very item before: three numbers of every pair, weights learnt.

    x = [log(1 + n), log(1 + s), e / sqrt(1 + n)]

for an item that was shown to the user n times, earned s, and e more than the item does.

e sums each reward less the item's mean at that time, shrunk to that of all. Sums that are negative
keep their sign outside of the logarithm. All are zero for a pair that is new and for a visitor who
is not known, so a catalogue that shows nothing twice has no such term. Unlike an effect of each
pair, the weights may say that what was bought yesterday is not bought today.

The weights are N(0, s) with s given: a learnt one runs away where what was shown once never earns
again.

- With a half-life all sums fade as trials do.
- `observe` returns the numbers as they were before the trial: what the fit may learn from.

Shapes: n trials, B requests, S candidates, X = 3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.compiled import compiled
from rove.mixed.variances import Array

Codes = npt.NDArray[np.int64]

NUM_PAST = 3
"""X."""
ITEM_STRENGTH = 5.0
"""Trials that the overall mean counts for in an item's."""


class Past:
    """Counts and sums of every pair of user and item that was shown."""

    def __init__(self, num_items: int, half_life: float | None = None) -> None:
        self._half_life = half_life
        self._now = -np.inf
        self._num_J = np.zeros(num_items)
        self._sum_J = np.zeros(num_items)
        self._row_of: dict[int, dict[int, int]] = {}
        """User, item: the row of the table."""
        self._table = np.zeros((64, NUM_PAST))
        """n, s, e at the time of the row."""
        self._time = np.zeros(64)
        self._size = 0
        self._scratch_JX = np.zeros((num_items, NUM_PAST))

    def observe(self, users_n: Codes, items_n: Codes, rewards_n: Array, time: float = 0.0) -> Array:
        """Return what was before these trials, (n, X), and count them."""
        if time > self._now:
            fade = self._faded(self._now, time)
            self._num_J *= fade
            self._sum_J *= fade
            self._now = time
        before_nX = np.zeros((len(users_n), NUM_PAST))
        if (int(users_n[0]) if len(users_n) == 1 else users_n.max(initial=-1)) < 0:
            self._count(items_n, rewards_n)
            return before_nX
        total = self._num_J.sum()
        overall = self._sum_J.sum() / total if total else 0.0
        mean_n = (self._sum_J[items_n] + ITEM_STRENGTH * overall) / (
            self._num_J[items_n] + ITEM_STRENGTH
        )
        trials = zip(users_n.tolist(), items_n.tolist(), strict=True)
        for number, (user, item) in enumerate(trials):
            if user < 0:
                continue
            rows = self._row_of.setdefault(user, {})
            row = rows.get(item)
            if row is None:
                row = rows[item] = self._new()
            entry = self._table[row]
            entry *= self._faded(float(self._time[row]), self._now)
            self._time[row] = self._now
            before_nX[number] = entry
            reward = rewards_n[number]
            entry += (1.0, reward, reward - mean_n[number])
        self._count(items_n, rewards_n)
        return past_features(before_nX) if before_nX.any() else before_nX

    def _count(self, items_n: Codes, rewards_n: Array) -> None:
        items_n = np.ascontiguousarray(items_n, np.int64)
        _count(self._num_J, self._sum_J, items_n, np.ascontiguousarray(rewards_n, np.float64))

    def read(self, users_B: Codes, items_BS: Codes) -> Array | None:
        """Return the numbers of candidates, (B, S, X); None where nobody has a past."""
        found: Array | None = None
        for number, user in enumerate(users_B.tolist()):
            rows = self._row_of.get(user) if user >= 0 else None
            if not rows:
                continue
            if found is None:
                found = np.zeros((*items_BS.shape, NUM_PAST))
            shown = np.fromiter(rows.keys(), np.int64, len(rows))
            places = np.fromiter(rows.values(), np.int64, len(rows))
            fade_n = self._faded(self._time[places], self._now)
            self._scratch_JX[shown] = self._table[places] * np.reshape(fade_n, (-1, 1))
            found[number] = self._scratch_JX[items_BS[number]]
            self._scratch_JX[shown] = 0.0
        return None if found is None else past_features(found)

    def _faded(self, then: float | Array, now: float) -> float | Array:
        if self._half_life is None:
            return 1.0
        return np.asarray(np.exp2((then - now) / self._half_life))

    def _new(self) -> int:
        if self._size == len(self._table):
            self._time = np.concatenate([self._time, np.zeros_like(self._time)])
            self._table = np.vstack([self._table, np.zeros_like(self._table)])
        self._size += 1
        return self._size - 1


@compiled("void(f8[::1], f8[::1], i8[::1], f8[::1])")
def _count(num_J: Array, sum_J: Array, items_n: Codes, rewards_n: Array) -> None:
    for n in range(len(items_n)):
        num_J[items_n[n]] += 1.0
        sum_J[items_n[n]] += rewards_n[n]


def past_features(table: Array) -> Array:
    """Return x of rows (n, s, e)."""
    n, s, e = table[..., 0], table[..., 1], table[..., 2]
    return np.stack([np.log1p(n), np.sign(s) * np.log1p(np.abs(s)), e / np.sqrt(1.0 + n)], -1)


def past_weights(past_nX: Array, weight_n: Array, rest_n: Array, variance: float) -> Array:
    """Return the posterior mean of the weights (X,), given what other effects leave of trials."""
    precision_XX = (past_nX * weight_n[:, None]).T @ past_nX + np.eye(NUM_PAST) / variance
    return np.asarray(np.linalg.solve(precision_XX, past_nX.T @ (weight_n * rest_n)))
