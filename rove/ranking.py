"""How good a ranking is: precision, recall, NDCG and reciprocal rank per request, with intervals.

- Every measure is one number per request (R,), so means, intervals and paired differences follow.
- A request has at least one relevant item; one without says nothing about a ranking.
- Intervals resample requests, or whole groups of them: requests of one user are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# R requests, K slots, G groups, D draws.
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]

_DRAWS_PER_BLOCK = 100


def hits(ranked_RK: Ints, relevant: Sequence[Ints]) -> Hits:
    """Return which slots hold a relevant item (R, K); codes below 0 are empty slots."""
    assert len(ranked_RK) == len(relevant), (len(ranked_RK), len(relevant))
    if not len(relevant):
        return np.zeros(ranked_RK.shape, bool)
    sizes = np.array([len(items) for items in relevant])
    items = np.concatenate(relevant).astype(np.int64)
    width = int(max(ranked_RK.max(initial=0), items.max(initial=0))) + 1
    request = np.arange(len(relevant))
    wanted = np.repeat(request, sizes) * width + items
    return np.isin(request[:, None] * width + ranked_RK, wanted) & (ranked_RK >= 0)


def precision(hits_RK: Hits, k: int) -> Floats:
    """Return the share of the first k slots that are relevant (R,); empty slots count as misses."""
    return np.asarray(hits_RK[:, :k].sum(axis=1) / k)


def recall(hits_RK: Hits, num_relevant: Ints, k: int) -> Floats:
    """Return the share of the relevant items that are in the first k slots (R,)."""
    return np.asarray(hits_RK[:, :k].sum(axis=1) / num_relevant)


def ndcg(hits_RK: Hits, num_relevant: Ints, k: int) -> Floats:
    """Return the discounted cumulative gain over the best possible one (R,).

    DCG = sum over slots s = 1..k of hit_s / log2(s + 1); the best has min(k, num_relevant) hits
    first.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate(([0.0], np.cumsum(discounts)))[np.minimum(num_relevant, k)]
    shown = hits_RK[:, :k]
    return shown @ discounts[: shown.shape[1]] / ideal


def reciprocal_rank(hits_RK: Hits) -> Floats:
    """Return 1 / (place of the first relevant item), 0 where there is none (R,)."""
    first = hits_RK.argmax(axis=1)
    return np.where(hits_RK.any(axis=1), 1.0 / (first + 1), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


def interval(
    values: Floats,
    rng: np.random.Generator,
    *,
    groups: Ints | None = None,
    level: float = 0.95,
    num_draws: int = 2000,
) -> Interval:
    """Return the mean of `values` (R,) with its percentile bootstrap interval.

    `groups` (R,) says which values belong together (a user's requests); groups are then resampled
    whole. Without it every value is its own group.
    """
    if not len(values):
        return Interval(mean=np.nan, low=np.nan, high=np.nan)
    sums, counts = _per_group(values, groups)
    means = np.concatenate(
        [
            _resampled_means(sums, counts, rng, min(_DRAWS_PER_BLOCK, num_draws - start))
            for start in range(0, num_draws, _DRAWS_PER_BLOCK)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def paired_difference(
    values: Floats,
    others: Floats,
    rng: np.random.Generator,
    *,
    groups: Ints | None = None,
    level: float = 0.95,
    num_draws: int = 2000,
) -> Interval:
    """Return the mean of `values - others` on the same requests, with its interval.

    Much narrower than the difference of two separate intervals: what makes a request hard is
    shared.
    """
    assert values.shape == others.shape, (values.shape, others.shape)
    return interval(values - others, rng, groups=groups, level=level, num_draws=num_draws)


def _per_group(values: Floats, groups: Ints | None) -> tuple[Floats, Floats]:
    if groups is None:
        return values, np.ones(len(values))
    _, code = np.unique(groups, return_inverse=True)
    return np.bincount(code, values).astype(np.float64), np.bincount(code).astype(np.float64)


def _resampled_means(
    sums: Floats, counts: Floats, rng: np.random.Generator, num_draws: int
) -> Floats:
    chosen_DG = rng.integers(0, len(sums), (num_draws, len(sums)))
    means: Floats = sums[chosen_DG].sum(axis=1) / counts[chosen_DG].sum(axis=1)
    return means
