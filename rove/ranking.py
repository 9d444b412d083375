"""How good a ranking is: precision, recall, NDCG and reciprocal rank per request, with intervals.

- Every measure is one number per request (R,), so means, intervals and paired differences follow.
- A request has at least one relevant item; one without says nothing about a ranking.
- Intervals resample requests, or whole groups of them: requests of one user are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

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
    [one] = intervals(values[:, None], rng, groups=groups, level=level, num_draws=num_draws)
    return one


def intervals(
    values_RM: Floats,
    rng: np.random.Generator,
    *,
    per_RM: Floats | None = None,
    groups: Ints | None = None,
    level: float = 0.95,
    num_draws: int = 2000,
) -> list[Interval]:
    """Return the mean of each of M columns with its interval, all from the same resamples.

    With `per_RM`, the ratio sum(values) / sum(per) instead of the mean. One group alone has no
    interval (NaN): nothing says how another would differ.
    """
    per_RM = np.ones_like(values_RM, np.float64) if per_RM is None else per_RM
    sums_GM, sizes_GM = _per_group(values_RM, groups), _per_group(per_RM, groups)
    means = _ratio(values_RM.sum(axis=0), per_RM.sum(axis=0))
    if len(sums_GM) < 2:
        return [Interval(mean=float(mean), low=np.nan, high=np.nan) for mean in means]
    draws = []
    for start in range(0, num_draws, _DRAWS_PER_BLOCK):
        counts_DG = _resamples(rng, min(_DRAWS_PER_BLOCK, num_draws - start), len(sums_GM))
        draws.append(_ratio(counts_DG @ sums_GM, counts_DG @ sizes_GM))
    levels = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(np.concatenate(draws), levels, axis=0)
    return [
        Interval(mean=float(one), low=float(least), high=float(most))
        for one, least, most in zip(means, low, high, strict=True)
    ]


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


def coverage(
    ranked_RK: Ints, num_items: int, *, groups: Ints | None = None, level: float = 0.95
) -> Interval:
    """Return the share of `num_items` that is in anybody's slots; codes below 0 are empty.

    A resample shows fewer distinct items than there are, so the interval is the jackknife's
    instead (Heltshe and Forrester 1983): without group g the share loses the items u_g that g
    alone was shown, and se^2 = (G - 1) / G sum_g (u_g - mean u)^2.
    """
    names, code = np.unique(
        np.arange(len(ranked_RK)) if groups is None else groups, return_inverse=True
    )
    num_groups, width = len(names), int(ranked_RK.max(initial=0)) + 1
    pairs = np.unique((code[:, None] * width + ranked_RK)[ranked_RK >= 0])
    items, first, times = np.unique(pairs % width, return_index=True, return_counts=True)
    share = len(items) / num_items if num_items else np.nan
    if num_groups < 2:
        return Interval(mean=share, low=np.nan, high=np.nan)
    alone_G = np.bincount(pairs[first[times == 1]] // width, minlength=num_groups) / num_items
    error = float(np.sqrt((num_groups - 1) * alone_G.var()))
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(mean=share, low=max(0.0, share - half), high=min(1.0, share + half))


def _per_group(values_RM: Floats, groups: Ints | None) -> Floats:
    """Return the sums of each group, (G, M)."""
    if groups is None:
        return np.asarray(values_RM, np.float64)
    names, code = np.unique(groups, return_inverse=True)
    sums_GM = np.zeros((len(names), values_RM.shape[1]))
    np.add.at(sums_GM, code, values_RM)
    return sums_GM


def _resamples(rng: np.random.Generator, num_draws: int, num_groups: int) -> Floats:
    """Return how often each draw has each group, (D, G)."""
    chosen_DG = rng.integers(0, num_groups, (num_draws, num_groups))
    chosen_DG += np.arange(num_draws)[:, None] * num_groups
    counts = np.bincount(chosen_DG.ravel(), minlength=num_draws * num_groups)
    return counts.reshape(num_draws, num_groups).astype(np.float64)


def _ratio(sums: Floats, sizes: Floats) -> Floats:
    ratio: Floats = np.full(sums.shape, np.nan)
    return np.divide(sums, sizes, out=ratio, where=sizes != 0)
