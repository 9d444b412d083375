"""Replay: rank for every basket before it is observed, in the order of time.

- A user is offered only items that are new to the user; a basket counts when it has a new one.
- Every baseline answers the same requests and observes the same baskets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rove.baselines.base import Baseline, Basket, Floats, Ints, Log, Profiles

# R requests, K slots.


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """The baskets that count, and what was new to the user in each."""

    baskets: Ints  # (R,) index into the replayed baskets
    users: Ints  # (R,)
    relevant: list[Ints]  # R arrays of item codes


def requests_of(history: Log, baskets: Sequence[Basket]) -> Requests:
    """Return the baskets with at least one item that the user did not have before."""
    seen = Profiles(history)
    index, relevant = [], []
    for number, basket in enumerate(baskets):
        new = np.setdiff1d(basket.items, seen.of(basket.user), assume_unique=True)
        if len(new):
            index.append(number)
            relevant.append(new)
        seen.add(basket.user, basket.items)
    users = [baskets[number].user for number in index]
    return Requests(
        baskets=np.array(index, np.int64), users=np.array(users, np.int64), relevant=relevant
    )


def replay(baseline: Baseline, history: Log, baskets: Sequence[Basket], k: int = 10) -> Ints:
    """Return the k items a baseline fitted to `history` ranks first for every counted basket.

    Returns item codes (R, K), in the order of `requests_of(history, baskets)`; -1 where the
    catalogue has no more items that are new to the user.
    """
    seen = Profiles(history)
    rows = []
    for basket in baskets:
        have = seen.of(basket.user)
        if not np.isin(basket.items, have, assume_unique=True).all():
            rows.append(top_k(baseline.scores(basket.user, basket.timestamp), have, k))
        seen.add(basket.user, basket.items)
        baseline.observe(basket.user, basket.items, basket.timestamp)
    return np.array(rows, np.int64).reshape(-1, k)


def replay_all(
    baselines: Mapping[str, Baseline], history: Log, baskets: Sequence[Basket], k: int = 10
) -> dict[str, Ints]:
    """Replay several fitted baselines: name -> item codes (R, K)."""
    return {name: replay(baseline, history, baskets, k) for name, baseline in baselines.items()}


def top_k(scores: Floats, excluded: Ints, k: int) -> Ints:
    """Return the codes of the k highest scores (k,), best first, -1 where there are no more."""
    scores = scores.astype(np.float64)
    scores[excluded] = -np.inf
    best = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
    best = best[np.lexsort((best, -scores[best]))]
    codes = np.full(k, -1, np.int64)
    usable = best[scores[best] > -np.inf]
    codes[: len(usable)] = usable
    return codes
