"""What a baseline is, and the log of interactions it learns from.

Users and items are integer codes here: users 0 to U - 1, items 0 to N - 1; `encode` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Basket:
    """What one user took at one time: an invoice, a visit."""

    session: int
    user: int
    items: Ints  # (n,) distinct, ascending
    timestamp: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Positive interactions as columns; the rows of one session are one basket."""

    users: Ints  # (n,)
    items: Ints  # (n,)
    timestamps: Floats  # (n,) unix seconds
    sessions: Ints  # (n,)
    num_users: int
    num_items: int

    def baskets(self) -> list[Basket]:
        """Return the sessions in the order of their first timestamps."""
        if not len(self.users):
            return []
        rows = np.lexsort((self.items, self.timestamps, self.sessions))
        starts = np.flatnonzero(np.diff(self.sessions[rows], prepend=self.sessions[rows[0]] - 1))
        groups = np.split(rows, starts[1:])
        baskets = [
            Basket(
                session=int(self.sessions[group[0]]),
                user=int(self.users[group[0]]),
                items=np.unique(self.items[group]),
                timestamp=float(self.timestamps[group[0]]),
            )
            for group in groups
        ]
        return sorted(baskets, key=lambda basket: basket.timestamp)

    def split(self, share: float) -> tuple[Log, Log]:
        """Cut at the time after which `share` of the rows lie: (earlier, later).

        A session belongs wholly to the side on which it began.
        """
        if not len(self.users):
            return self, self
        num_earlier = min(round((1.0 - share) * len(self.users)), len(self.users) - 1)
        cut = np.sort(self.timestamps)[num_earlier]
        _, session = np.unique(self.sessions, return_inverse=True)
        starts = np.full(session.max() + 1, np.inf)
        np.minimum.at(starts, session, self.timestamps)
        is_later = starts[session] >= cut
        return self.rows(~is_later), self.rows(is_later)

    def rows(self, chosen: NDArray[np.bool_]) -> Log:
        """Return the chosen rows as a log over the same users and items."""
        return Log(
            users=self.users[chosen],
            items=self.items[chosen],
            timestamps=self.timestamps[chosen],
            sessions=self.sessions[chosen],
            num_users=self.num_users,
            num_items=self.num_items,
        )


class Baseline(Protocol):
    """A recommender that can be replayed."""

    def fit(self, log: Log) -> None:
        """Learn from `log`, forgetting everything before."""

    def scores(self, user: int, now: float) -> Floats:
        """Return a score per item (N,), higher is better, as known at unix time `now`."""

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Take in that `user` took the distinct `items` at unix time `now`."""


@runtime_checkable
class InBlocks(Protocol):
    """A baseline that scores many requests at once faster than one by one."""

    def score_block(self, users: Ints, times: Floats) -> NDArray[np.floating]:
        """Return `scores` of each user (B,) at each unix time (B,), (B, N)."""


class Profiles:
    """The distinct items of every user, kept current."""

    def __init__(self, log: Log) -> None:
        self._items: dict[int, Ints] = {}
        order = np.lexsort((log.items, log.users))
        users, starts = np.unique(log.users[order], return_index=True)
        for user, items in zip(users, np.split(log.items[order], starts[1:]), strict=False):
            self._items[int(user)] = np.unique(items)

    def of(self, user: int) -> Ints:
        """Return the items of `user` (n,), ascending; none for an unknown user."""
        return self._items.get(user, _NOTHING)

    def add(self, user: int, items: Ints) -> None:
        """Add `items` to the profile of `user`."""
        self._items[user] = np.union1d(self.of(user), items)

    def matrix(self, users: Ints, num_items: int) -> sparse.csr_array:
        """Return who of the users (B,) took what as ones, (B, N)."""
        items = [self.of(user) for user in users.tolist()]
        bounds = np.concatenate([[0], np.cumsum([len(some) for some in items], dtype=np.int64)])
        columns = np.concatenate([_NOTHING, *items])
        ones = np.ones(len(columns), np.float32)
        return sparse.csr_array((ones, columns, bounds), shape=(len(users), num_items))


def scores_of_each(baseline: Baseline, users: Ints, times: Floats) -> NDArray[np.floating]:
    """Return the scores of several users (B,) at their unix times (B,), (B, N)."""
    if isinstance(baseline, InBlocks):
        return baseline.score_block(users, times)
    each = zip(users.tolist(), times.tolist(), strict=True)
    return np.stack([baseline.scores(user, now) for user, now in each])


_NOTHING: Ints = np.empty(0, np.int64)


def encode(ids: Iterable[str], known: dict[str, int]) -> Ints:
    """Return the code of every id; an id that is not in `known` gets the next free code there."""
    return np.fromiter((known.setdefault(id_, len(known)) for id_ in ids), np.int64)
