"""Kinds of runs that environments share: what is known of every request is laid out beforehand.

- `Table`: a few items, the same for every request; a context; visitors who do not return.
- `Sessions`: users who come and go, each with items of their own, none of them twice.

Both keep count of what uniform and the best choice would have earned so far. Whatever is drawn is
drawn when the run is opened, so that all agents meet the same requests and the same luck.

R requests, A items of a table, U users, N items of a user, T requests of a user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.interface import (
    Batch,
    Choice,
    Feedback,
    Floats,
    Ints,
    Vectors,
    World,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Every reward that a run could have shown, for what looks at it in hindsight."""

    users_N: Ints
    items_N: Ints
    reward_N: Floats


class Counted:
    """A run that counts what uniform and the best choice earn."""

    world: World

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = 0.0
        self.oracle = 0.0
        self._counted = np.zeros((0, 2))

    def count(self, random_B: Floats, oracle_B: Floats) -> None:
        """Add what uniform and the best choice earn in the requests of a batch."""
        self.random += float(random_B.sum())
        self.oracle += float(oracle_B.sum())
        self._counted = np.column_stack([random_B, oracle_B])

    def counted_B2(self) -> Floats:
        """Return what uniform and the best choice earn in each request of the last batch."""
        return self._counted

    def totals(self) -> tuple[float, float]:
        """Return what uniform choice and the best choice earn so far, in expectation."""
        return self.random, self.oracle

    def item_values_J(self) -> Floats | None:
        """Return each item's mean value where it can be chosen; None: items do not stay."""
        return None


class Table(Counted):
    """A few items that are always there, a value of each for every request."""

    def __init__(
        self,
        *,
        values_RA: Floats,
        rewards_RA: Floats,
        context_RQ: Floats | None,
        context_is_text: bool,
        batch_size: int,
    ) -> None:
        num_requests, num_items = values_RA.shape
        super().__init__(
            World(
                num_items=num_items,
                num_users=0,
                num_slots=1,
                text_JE=None,
                groups_J=None,
                context_size=0 if context_RQ is None else context_RQ.shape[1],
                context_is_text=context_is_text,
                num_requests=num_requests,
            )
        )
        self._values_RA = values_RA
        self._rewards_RA = rewards_RA
        self._context_RQ: Vectors | None = (
            None if context_RQ is None else context_RQ.astype(np.float32)
        )
        self._batch_size = batch_size
        self._rows = slice(0, 0)

    def batches(self) -> Iterator[Batch]:
        """Yield the requests in order."""
        num_requests, num_items = self._values_RA.shape
        for start in range(0, num_requests, self._batch_size):
            self._rows = slice(start, min(start + self._batch_size, num_requests))
            size = self._rows.stop - start
            yield Batch(
                users_B=np.full(size, -1),
                candidates_BS=np.tile(np.arange(num_items), (size, 1)),
                open_BS=np.ones((size, num_items), dtype=np.bool_),
                context_BQ=None if self._context_RQ is None else self._context_RQ[self._rows],
            )

    def feedback(self, batch: Batch, choice: Choice) -> Feedback:
        """Return the chosen items' rewards and values."""
        values_BA = self._values_RA[self._rows]
        rewards_BA = self._rewards_RA[self._rows]
        self.count(values_BA.mean(1), values_BA.max(1))
        items_BK = choice.items(batch)
        return Feedback(
            reward_BK=np.take_along_axis(rewards_BA, items_BK, 1),
            value_BK=np.take_along_axis(values_BA, items_BK, 1),
        )

    def table(self) -> tuple[Floats, Vectors | None]:
        """Return rewards and contexts of all requests, for what looks at them in hindsight."""
        return self._rewards_RA, self._context_RQ

    def item_values_J(self) -> Floats:
        """Return the mean value of each item."""
        values: Floats = self._values_RA.mean(0)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Who asks when: requests in order, cut into batches of different users."""

    users_R: Ints
    starts: Ints
    """Where the batches start, and the number of requests."""


def staggered(
    num_users: int, num_steps: int, batch_size: int, rng: np.random.Generator, stay: float = 0.1
) -> Arrivals:
    """Return requests of users who arrive evenly over the run and stay for a share of it.

    User u asks at `a_u + e_1 + ... + e_t`, with a_u uniform in [0, 1) and e exponential of mean
    `stay / num_steps`. A batch ends when it is full or when a user would be in it twice.
    """
    gaps_UT = rng.exponential(stay / num_steps, (num_users, num_steps))
    times_UT = rng.random(num_users)[:, None] + gaps_UT.cumsum(1)
    users_R = np.argsort(times_UT, axis=None, kind="stable") // num_steps
    return Arrivals(users_R=users_R, starts=batch_starts(users_R, batch_size))


def batch_starts(users_R: Ints, batch_size: int) -> Ints:
    """Return where batches of at most `batch_size` different users start, and the end."""
    starts, present = [0], set[int]()
    for row, user in enumerate(users_R.tolist()):
        if len(present) == batch_size or user in present:
            starts.append(row)
            present = set()
        present.add(user)
    return np.array([*starts, len(users_R)], dtype=np.int64)


class Sessions(Counted):
    """Users who come and go; the reward of every item is known for every user.

    A user's best choice after t requests is the t items of the highest reward; uniform choice
    without repeats earns t times the mean reward.
    """

    def __init__(
        self,
        *,
        items_UN: Ints,
        rewards_UN: Floats,
        num_items: int,
        text_JE: Vectors,
        arrivals: Arrivals,
    ) -> None:
        super().__init__(
            World(
                num_items=num_items,
                num_users=len(items_UN),
                num_slots=1,
                text_JE=text_JE,
                groups_J=None,
                context_size=0,
                context_is_text=False,
                num_requests=len(arrivals.users_R),
            )
        )
        self._items_UN = items_UN
        self._rewards_UN = rewards_UN
        self._means_U = rewards_UN.mean(1)
        self._best_UN = -np.sort(-rewards_UN, axis=1)
        self._arrivals = arrivals
        self._open_UN = np.ones(items_UN.shape, dtype=np.bool_)
        self._steps_U = np.zeros(len(items_UN), dtype=np.int64)

    def batches(self) -> Iterator[Batch]:
        """Yield the requests in order; what a user has had is closed."""
        starts = self._arrivals.starts
        for start, end in zip(starts[:-1], starts[1:], strict=True):
            users_B = self._arrivals.users_R[start:end]
            yield Batch(
                users_B=users_B,
                candidates_BS=self._items_UN[users_B],
                open_BS=self._open_UN[users_B],
                context_BQ=None,
            )

    def feedback(self, batch: Batch, choice: Choice) -> Feedback:
        """Return the rewards and close what was shown."""
        users_B, positions_B = batch.users_B, choice.positions_BK[:, 0]
        assert self._open_UN[users_B, positions_B].all(), "an agent showed a closed item"
        self._open_UN[users_B, positions_B] = False
        self.count(self._means_U[users_B], self._best_UN[users_B, self._steps_U[users_B]])
        self._steps_U[users_B] += 1
        reward_BK = self._rewards_UN[users_B, positions_B][:, None]
        return Feedback(reward_BK=reward_BK, value_BK=reward_BK)

    def known(self) -> Known:
        """Return the rewards of all users' items."""
        num_users, num_items = self._items_UN.shape
        return Known(
            users_N=np.repeat(np.arange(num_users), num_items),
            items_N=self._items_UN.ravel(),
            reward_N=self._rewards_UN.ravel(),
        )

    def item_values_J(self) -> Floats:
        """Return the mean reward of each item over the users who may be shown it."""
        return mean_by_item(self._items_UN, self._rewards_UN, self.world.num_items)


def mean_by_item(items: Ints, values: Floats, num_items: int) -> Floats:
    """Return the mean of the values of each item, 0 where it has none, (num_items,)."""
    counts_J = np.bincount(items.ravel(), minlength=num_items)
    sums_J = np.bincount(items.ravel(), weights=values.ravel(), minlength=num_items)
    means: Floats = sums_J / np.maximum(counts_J, 1)
    return means
