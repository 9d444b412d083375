"""Episodes: what a user had done before a visit, and what was new in it.

- Visits with something new to the user are episodes; what it was is the query, what the user had
  done last before is the support.
- In training a user gives at most four episodes an epoch, and half of them see only a part of the
  support, so that the first few interactions count too.

Shapes: B episodes, S support, Q queries, K all items known before; -1 fills up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.behaviour import Behaviour

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

    def __init__(self, visits: Sequence[_Visit], num_items: int) -> None:
        self._visits = visits
        self.num_items = num_items
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
        return cls(visits, behaviour.num_items)

    def __len__(self) -> int:
        return len(self._visits)

    def num_drawn(self) -> int:
        """Return how many episodes an epoch of training has."""
        return sum(min(_PER_USER, len(own)) for own in self._of_user.values())

    def epoch(
        self, rng: np.random.Generator, size: int, support: int, rank: int = 0, num_ranks: int = 1
    ) -> Iterator[Episodes]:
        """Yield the batches of one epoch; every rank gets as many, of `size` episodes each."""
        chosen = np.concatenate(
            [rng.permutation(own)[:_PER_USER] for own in self._of_user.values()]
        )
        rng.shuffle(chosen)
        shares = np.where(rng.random(len(chosen)) < 0.5, rng.random(len(chosen)), 1.0)
        seeds = rng.integers(0, 2**32, 1 + len(chosen) // size + num_ranks)
        for start in range(0, max(1, len(chosen) // (size * num_ranks)) * size * num_ranks, size):
            if start // size % num_ranks == rank:
                part = np.arange(start, start + size) % len(chosen)
                limits = np.ceil(shares[part] * support).astype(np.int64)
                own_rng = np.random.default_rng(seeds[start // size])
                yield self._padded(chosen[part], np.maximum(limits, 1), own_rng)

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
