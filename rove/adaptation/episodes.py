"""Episodes: what a user had done before a visit, and what was new in it.

- Visits with something new to the user are episodes; what it was is the query, what the user had
  done last before is the support.
- In training a user gives at most four episodes an epoch, and half of them see only a part of the
  support, so that the first few interactions count too.
- A smaller shop is another batch: F items drawn evenly from those that were taken at all, and the
  users who took two of them or more. A part of what each took is the support, the rest the query.

Shapes: B episodes, S support, Q queries, K all items known before, F items of a smaller shop; -1
fills up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from rove.behaviour import Behaviour, latest_of_pairs

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PER_USER = 4
_MAX_QUERIES = 16
_QUERIES_A_STEP = 2  # of an episode in training, drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """B of them, in rows of items."""

    users_B: Ints
    support_BS: Ints
    """Latest first."""
    query_BQ: Ints
    weight_BQ: Floats
    known_BK: Ints
    time_s_B: Floats
    """Unix time of the visit."""
    shop_F: Ints | None = None
    """All that there is in a smaller shop, rising."""

    def __len__(self) -> int:
        return len(self.users_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    user: int
    known: Ints
    """Distinct, latest first."""
    query: Ints
    weights: Floats
    time_s: float


class History:
    """All episodes of a behaviour, made when they are drawn."""

    def __init__(
        self,
        visits: Sequence[_Visit],
        behaviour: Behaviour,
        weights: Floats,
        since_s: float = -np.inf,
    ) -> None:
        self._visits = visits
        self.behaviour = behaviour
        self.since_s = since_s
        self._weights = weights
        self._pairs: sparse.csc_array | None = None
        self._of_user: dict[int, list[int]] = {}
        for number, visit in enumerate(visits):
            self._of_user.setdefault(visit.user, []).append(number)

    @classmethod
    def of(cls, behaviour: Behaviour, weights: Floats, since_s: float = -np.inf) -> History:
        """Cut every user's interactions at each visit that begins at `since_s` or later.

        `weights` (n,) are those of the interactions as queries.
        """
        known: dict[int, dict[int, None]] = {}
        visits = []
        for rows in behaviour.rows_by_visit():
            user = int(behaviour.users[rows[0]])
            before = known.setdefault(user, {})
            items = behaviour.items[rows].tolist()
            worth = dict(zip(items, weights[rows].tolist(), strict=True))
            new = {item: worth[item] for item in worth if item not in before}
            if before and new and behaviour.timestamps[rows[0]] >= since_s:
                visits.append(
                    _Visit(
                        user=user,
                        known=np.array(list(before)[::-1], np.int64),
                        query=np.array(list(new), np.int64),
                        weights=np.array(list(new.values())),
                        time_s=float(behaviour.timestamps[rows[0]]),
                    )
                )
            for item in items:
                before.pop(item, None)
                before[item] = None
        return cls(visits, behaviour, weights, since_s)

    @property
    def num_items(self) -> int:
        """J."""
        return self.behaviour.num_items

    def without(self, items_J: npt.NDArray[np.bool_]) -> History:
        """Return the history as it were without some of the items."""
        rows = np.flatnonzero(~items_J[self.behaviour.items])
        return History.of(self.behaviour.take(rows), self._weights[rows], self.since_s)

    def __len__(self) -> int:
        return len(self._visits)

    def num_drawn(self) -> int:
        """Return how many episodes an epoch of training has."""
        return sum(min(_PER_USER, len(own)) for own in self._of_user.values())

    def epoch(
        self,
        rng: np.random.Generator,
        size: int,
        support: int,
        rank: int = 0,
        num_ranks: int = 1,
        num_steps: int | None = None,
    ) -> Iterator[Episodes]:
        """Yield the batches of one epoch; every rank gets as many, of `size` episodes each."""
        chosen = np.concatenate(
            [rng.permutation(own)[:_PER_USER] for own in self._of_user.values()]
        )
        rng.shuffle(chosen)
        shares = np.where(rng.random(len(chosen)) < 0.5, rng.random(len(chosen)), 1.0)
        stop = (num_steps or self.num_steps(size, num_ranks)) * size * num_ranks
        seeds = rng.integers(0, 2**32, 1 + stop // size)
        for start in range(0, stop, size):
            if start // size % num_ranks == rank:
                part = np.arange(start, start + size) % len(chosen)
                limits = np.ceil(shares[part] * support).astype(np.int64)
                own_rng = np.random.default_rng(seeds[start // size])
                yield self._padded(chosen[part], np.maximum(limits, 1), own_rng)

    def smaller_shops(
        self, rng: np.random.Generator, size: int, support: int, num_shops: int, num_items: int
    ) -> Iterator[Episodes]:
        """Yield smaller shops of `num_items` items with at most `size` of their users each."""
        if self._pairs is None:
            self._pairs = _pairs(self.behaviour, self._weights)
        on_sale = np.flatnonzero(np.diff(self._pairs.indptr))
        of_user = sparse.csr_array(self._pairs)
        with_two = np.flatnonzero(np.diff(of_user.indptr) >= 2)
        for _ in range(num_shops):
            one = int(rng.choice(with_two))  # at least this user is in the shop
            own = of_user.indices[of_user.indptr[one] : of_user.indptr[one + 1]]
            first = rng.permutation(own)[:2]
            others = rng.permutation(np.setdiff1d(on_sale, first))[: num_items - 2]
            items = np.sort(np.concatenate([first, others])).astype(np.int64)
            taken = sparse.csr_array(self._pairs[:, items])
            users = rng.permutation(np.flatnonzero(np.diff(taken.indptr) >= 2))[:size]
            yield _shop(taken, users, items, support, rng)

    def num_steps(self, size: int, num_ranks: int) -> int:
        """Return how many batches every rank gets in an epoch."""
        return max(1, self.num_drawn() // (size * num_ranks))

    def all(self, size: int, support: int, limit: int) -> Iterator[Episodes]:
        """Yield batches of the first `limit` episodes, with whole support."""
        numbers = np.arange(min(limit, len(self)))
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            yield self._padded(part, np.full(len(part), support))

    def _padded(
        self, numbers: Ints, limits: Ints, rng: np.random.Generator | None = None
    ) -> Episodes:
        visits = [self._visits[number] for number in numbers]
        picked = [
            np.arange(len(visit.query))[:_MAX_QUERIES]
            if rng is None
            else rng.permutation(len(visit.query))[:_QUERIES_A_STEP]
            for visit in visits
        ]
        both = list(zip(visits, picked, strict=True))
        supports = zip(visits, limits.tolist(), strict=True)
        return Episodes(
            users_B=np.array([visit.user for visit in visits], np.int64),
            support_BS=_pad([visit.known[:limit] for visit, limit in supports]),
            query_BQ=_pad([visit.query[rows] for visit, rows in both]),
            weight_BQ=_pad_weights([visit.weights[rows] for visit, rows in both]),
            known_BK=_pad([visit.known for visit in visits]),
            time_s_B=np.array([visit.time_s for visit in visits]),
        )


def _pairs(behaviour: Behaviour, weights: Floats) -> sparse.csc_array:
    """Return the weight of every pair that happened, (users, items); the largest of its rows'."""
    shape = (behaviour.num_users, behaviour.num_items)
    least = np.maximum(weights, 1e-12)  # a pair that happened stays one
    return sparse.csc_array(latest_of_pairs(behaviour.users, behaviour.items, least, shape))


def _shop(
    taken: sparse.csr_array, users: Ints, items: Ints, support: int, rng: np.random.Generator
) -> Episodes:
    """Part what each user took: 1 to `support` of it are known, at least one is the query."""
    known, queries, weights = [], [], []
    for user in users.tolist():
        own = slice(*taken.indptr[user : user + 2])
        order = rng.permutation(own.stop - own.start)
        number = min(1 + int(rng.random() * (len(order) - 1)), support)
        rows = taken.indices[own][order]
        known.append(items[rows[:number]])
        queries.append(items[rows[number:][:_MAX_QUERIES]])
        # A user counts once, however much is predicted of them.
        weights.append(taken.data[own][order][number:][:_MAX_QUERIES] / len(queries[-1]))
    return Episodes(
        users_B=users,
        support_BS=_pad(known),
        query_BQ=_pad(queries),
        weight_BQ=_pad_weights(weights),
        known_BK=_pad(known),
        time_s_B=np.full(len(users), np.inf),
        shop_F=items,
    )


def _pad(rows: Sequence[Ints]) -> Ints:
    """Return a matrix of the rows, filled up with -1 at their ends."""
    out = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


def _pad_weights(rows: Sequence[Floats]) -> Floats:
    out = np.zeros((len(rows), max(map(len, rows))))
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out
