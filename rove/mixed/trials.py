"""What was shown and what it earned: the observations that the mixed model learns from.

A trial is one item shown to one user in one context with its reward. Trials of visitors who are not
known, without a context, differ only in their item: they are added up, so that a million visitors
of six headlines are six rows.

With a half-life a trial weighs 2^(-age / half_life): `Trials.weighted` gives counts and spreads at
a time. What is added up keeps no times of its own, so it fades when it is added to.

Columns grow by doubling; `Trials.columns` are views.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from rove.mixed.past import NUM_PAST

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

FORGOTTEN = 1e-3
"""A row that weighs less is left out of a fit."""
_COLUMNS = "_users _items _counts _means _spreads _times _contexts _past".split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """n rows of trials."""

    users: Codes  # (n,), -1: not known
    items: Codes  # (n,)
    counts: Array  # (n,), how many trials the row stands for
    means: Array  # (n,), their mean reward
    spreads: Array  # (n,), sum of their squared deviations from it
    times: Array  # (n,), the latest
    contexts: Vectors  # (n, Q), as given
    past: Vectors  # (n, X), of the user with the item before (`rove.mixed.past`)

    def __len__(self) -> int:
        return len(self.users)


class Trials:
    """A growing record of trials."""

    def __init__(self, context_size: int, half_life: float | None = None) -> None:
        self.half_life = half_life
        self._size = 0
        self._num_trials = 0
        self._users = np.empty(64, np.int64)
        self._items = np.empty(64, np.int64)
        self._counts = np.empty(64)
        self._means = np.empty(64)
        self._spreads = np.empty(64)
        self._times = np.empty(64)
        self._contexts = np.empty((64, context_size), np.float32)
        self._past = np.empty((64, NUM_PAST), np.float32)
        self._row_of_item: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of trials, not of rows."""
        return self._num_trials

    @property
    def context_size(self) -> int:
        """Q."""
        return self._contexts.shape[1]

    @property
    def columns(self) -> Columns:
        """All rows, without a copy."""
        n = self._size
        return Columns(
            users=self._users[:n],
            items=self._items[:n],
            counts=self._counts[:n],
            means=self._means[:n],
            spreads=self._spreads[:n],
            times=self._times[:n],
            contexts=self._contexts[:n],
            past=self._past[:n],
        )

    def weighted(self, now: float) -> Columns:
        """Return the rows as they weigh at `now`, without those that hardly do."""
        rows = self.columns
        if self.half_life is None:
            return rows
        share_n = np.exp2(np.minimum((rows.times - now) / self.half_life, 0.0))
        kept = np.flatnonzero(share_n > FORGOTTEN)
        part = {field.name: getattr(rows, field.name)[kept] for field in fields(rows)}
        part["counts"] *= share_n[kept]
        part["spreads"] *= share_n[kept]
        return Columns(**part)

    def add(
        self,
        users: Codes,
        items: Codes,
        rewards: Array,
        contexts: Vectors | None,
        time: float,
        past: Array | None = None,
    ) -> None:
        """Record n trials that happened at `time`; `past` (n, X): None where nobody had one."""
        self._num_trials += len(users)
        if self.context_size == 0 and len(users) and users.max() < 0:
            self._add_up(items, rewards, time)
            return
        if self.context_size == 0:
            unknown = users < 0
            if unknown.any():
                self._add_up(items[unknown], rewards[unknown], time)
                users, items, rewards = users[~unknown], items[~unknown], rewards[~unknown]
                past = None if past is None else past[~unknown]
        self._append(users, items, rewards, contexts, time, past)

    def _append(
        self,
        users: Codes,
        items: Codes,
        rewards: Array,
        contexts: Vectors | None,
        time: float,
        past: Array | None,
    ) -> None:
        start, stop = self._size, self._size + len(users)
        self._reserve(stop)
        self._users[start:stop] = users
        self._items[start:stop] = items
        self._counts[start:stop] = 1.0
        self._means[start:stop] = rewards
        self._spreads[start:stop] = 0.0
        self._times[start:stop] = time
        if self.context_size:
            self._contexts[start:stop] = 0.0 if contexts is None else contexts
        self._past[start:stop] = 0.0 if past is None else past
        self._size = stop

    def _add_up(self, items: Codes, rewards: Array, time: float) -> None:
        """Fold trials into their items' rows (Chan et al. 1983)."""
        distinct, inverse = np.unique(items, return_inverse=True)
        new = [item for item in distinct.tolist() if item not in self._row_of_item]
        if new:
            start, num = self._size, len(new)
            empty = np.zeros(num)
            self._append(np.full(num, -1), np.array(new), empty, None, time, None)
            self._counts[start : start + num] = 0.0
            self._row_of_item.update(zip(new, range(start, start + num), strict=True))
        rows = np.array([self._row_of_item[item] for item in distinct.tolist()], np.int64)
        count = np.bincount(inverse).astype(np.float64)
        mean = np.bincount(inverse, rewards) / count
        spread = np.bincount(inverse, np.square(rewards - mean[inverse]))
        if self.half_life is not None:
            faded = np.exp2(np.minimum((self._times[rows] - time) / self.half_life, 0.0))
            self._counts[rows] *= faded
            self._spreads[rows] *= faded
        total = self._counts[rows] + count
        apart = mean - self._means[rows]
        self._spreads[rows] += spread + np.square(apart) * self._counts[rows] * count / total
        self._means[rows] += apart * count / total
        self._counts[rows] = total
        self._times[rows] = time

    def _reserve(self, size: int) -> None:
        if size <= len(self._users):
            return
        capacity = max(size, 2 * len(self._users))
        for name in _COLUMNS:
            old = getattr(self, name)
            grown = np.empty((capacity, *old.shape[1:]), old.dtype)
            grown[: self._size] = old[: self._size]
            setattr(self, name, grown)
