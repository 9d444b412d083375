"""Held-out visits in columns, and the item means as they were before some of them.

A log of millions of interactions has hundreds of thousands of visits; what is made of each is
made only of those that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.behaviour import Behaviour, Codes, Floats
from rove.item_means import ItemMeans


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One held-out visit: who, when, and the items that came in it."""

    user: int
    time_s: float
    items: Codes
    new_items: Codes
    """Those the user had no earlier interaction with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """V visits in order of time, with the N items of them all."""

    users_V: Codes
    times_V: Floats
    bounds_V: Codes
    """Where each visit's items begin; one more for the end of the last."""
    items_N: Codes
    """Distinct and rising within a visit."""
    is_new_N: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.users_V)

    def __getitem__(self, number: int) -> Visit:
        part = slice(self.bounds_V[number], self.bounds_V[number + 1])
        items = self.items_N[part]
        return Visit(
            user=int(self.users_V[number]),
            time_s=float(self.times_V[number]),
            items=items,
            new_items=items[self.is_new_N[part]],
        )

    def with_new(self) -> Codes:
        """Return the numbers of the visits with something new to their users."""
        visit_N = np.repeat(np.arange(len(self)), np.diff(self.bounds_V))
        return np.unique(visit_N[self.is_new_N])

    def spaced(self, most: int) -> Codes:
        """Return the numbers of all visits, or of `most` of them at equal distances."""
        if len(self) <= most:
            return np.arange(len(self))
        return np.linspace(0, len(self) - 1, most).astype(np.int64)


def visits_of(past: Behaviour, future: Behaviour) -> Visits:
    """Return the visits of `future` in order of time."""
    rows, firsts = _by_visit(future)
    visit_n = np.repeat(np.arange(len(firsts) - 1), np.diff(firsts))
    # One row for each visit and item, by visit and then by item.
    both = np.unique(visit_n * future.num_items + future.items[rows])
    visit_N, items_N = both // max(future.num_items, 1), both % max(future.num_items, 1)
    users_V = future.users[rows[firsts[:-1]]]
    pair_N = users_V[visit_N] * future.num_items + items_N
    _, first_N = np.unique(pair_N, return_index=True)  # the first visit of each pair
    is_new_N = np.zeros(len(pair_N), bool)
    is_new_N[first_N] = True
    is_new_N &= ~np.isin(pair_N, past.users * past.num_items + past.items)
    return Visits(
        users_V=users_V,
        times_V=future.timestamps[rows[firsts[:-1]]],
        bounds_V=np.searchsorted(visit_N, np.arange(len(users_V) + 1)),
        items_N=items_N,
        is_new_N=is_new_N,
    )


def item_means_before(
    numbers: Codes,
    past: Behaviour,
    future: Behaviour,
    promise_J: Floats,
    half_life_s: float,
    pseudo_count: float,
) -> Iterator[ItemMeans]:
    """Yield, for each of the visits `numbers` (rising), the item means as they were before it."""
    means = item_means_of(past, promise_J, half_life_s, pseudo_count)
    rows, firsts = _by_visit(future)
    done = 0
    for number in numbers.tolist():
        new = rows[firsts[done] : firsts[number]]
        if len(new):
            times = future.timestamps[new]
            means.add(future.items[new], means.decayed(future.rewards[new], times), times.max())
        done = number
        yield means


def item_means_of(
    past: Behaviour, promise_J: Floats, half_life_s: float, pseudo_count: float
) -> ItemMeans:
    """Return the item means after `past`."""
    as_of_s = float(past.timestamps[-1]) if len(past) else 0.0
    decayed = past.rewards * np.exp2((past.timestamps - as_of_s) / half_life_s)
    sums_J = np.bincount(past.items, decayed, minlength=len(promise_J)).astype(np.float64)
    return ItemMeans(
        sums_J=sums_J,
        promise_J=promise_J,
        as_of_s=as_of_s,
        half_life_s=half_life_s,
        pseudo_count=pseudo_count,
    )


def _by_visit(future: Behaviour) -> tuple[Codes, Codes]:
    """Return the rows in order of the visits, and where each visit begins; one more for the end."""
    starts = future.visit_starts()
    order = np.argsort(starts, kind="stable")
    return order, np.flatnonzero(np.r_[True, np.diff(starts[order]) != 0, True])
