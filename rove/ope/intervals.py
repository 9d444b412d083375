"""Intervals around an estimate whose sample size was fixed beforehand.

`rove.ope.sequences` has the interval that may be looked at while the log grows.

- Rows are resampled whole; numbers come from the generator that is given.
- An interval that cannot be justified is refused with the reason, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from rove.errors import DataError
from rove.ope.estimators import Estimate
from rove.ope.log import Floats, check_level

Kind = Literal["percentile", "bca", "studentised", "normal"]

_CELLS_PER_BLOCK = 4_000_000  # of the matrix of resampled counts; 32 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An interval for the value at a confidence level."""

    low: float
    high: float
    kind: str


def bootstrap(
    estimates: Sequence[Estimate],
    rng: np.random.Generator,
    *,
    kind: Kind = "studentised",
    level: float = 0.95,
    draws: int = 1000,
) -> list[Interval]:
    """Return an interval for every estimate, all from the same resampled rows.

    - percentile: quantiles of the resampled values (Efron 1979).
    - bca: the same, corrected for bias and skewness (Efron 1987).
    - studentised: quantiles of (value* - value) / error*, times the error (Hall 1988).
    - normal: value +- 1.96 standard errors for 95 %; draws nothing.
    """
    check_level(level)
    if not estimates or draws < 2:
        raise DataError(
            f"the bootstrap needs an estimate and at least 2 draws, got {len(estimates)} estimates "
            f"and {draws} draws; 1,000 draws are usual"
        )
    if kind == "normal":
        return [_normal(one, level) for one in estimates]
    return from_draws(estimates, *resample(estimates, rng, draws), kind=kind, level=level)


def from_draws(
    estimates: Sequence[Estimate],
    value_DE: Floats,
    error_DE: Floats,
    *,
    kind: Kind,
    level: float = 0.95,
) -> list[Interval]:
    """Return the intervals from what `resample` returned."""
    check_level(level)
    return [
        _normal(one, level)
        if kind == "normal"
        else _resampled(one, value_DE[:, index], error_DE[:, index], kind, level)
        for index, one in enumerate(estimates)
    ]


def _resampled(
    one: Estimate, value_D: Floats, error_D: Floats, kind: Kind, level: float
) -> Interval:
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    finite_D = np.isfinite(value_D)  # a ratio without a row to use is not a number
    value_D, error_D = value_D[finite_D], error_D[finite_D]
    if kind == "studentised":
        low, high = _studentised(one, value_D, error_D, tails)
    else:
        levels = _bca(one, value_D, tails) if kind == "bca" else tails
        low, high = np.quantile(value_D, levels).tolist()
    return Interval(low=low, high=high, kind=kind)


def _normal(one: Estimate, level: float) -> Interval:
    margin = float(ndtri((1 + level) / 2)) * one.standard_error
    return Interval(low=one.value - margin, high=one.value + margin, kind="normal")


def _studentised(
    one: Estimate, value_D: Floats, error_D: Floats, tails: Floats
) -> tuple[float, float]:
    """Return the bounds; draws of equal terms have no error and are left out."""
    usable_D = error_D > 1e-12 * max(abs(one.value), 1e-12)
    if not usable_D.any():
        return one.value, one.value
    t_D = (value_D[usable_D] - one.value) / error_D[usable_D]
    below, above = np.quantile(t_D, tails)
    return one.value - above * one.standard_error, one.value - below * one.standard_error


def resample(
    estimates: Sequence[Estimate], rng: np.random.Generator, draws: int
) -> tuple[Floats, Floats]:
    """Return the estimates' values and standard errors on resampled rows, both (draws, E)."""
    n = len(estimates[0].term_N)
    x_NE = np.stack([one.term_N for one in estimates], axis=1)
    ratio = any(one.denominator_N is not None for one in estimates)
    ones_N = np.ones(n)
    y_NE = np.stack(
        [ones_N if one.denominator_N is None else one.denominator_N for one in estimates], axis=1
    )
    parts = [x_NE, x_NE * x_NE] + ([y_NE, x_NE * y_NE, y_NE * y_NE] if ratio else [])
    moments = np.hstack(parts)
    block = max(1, _CELLS_PER_BLOCK // n)
    sums = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        picked = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts_DN = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        sums.append(counts_DN.astype(np.float64) @ moments / n)
    means = np.split(np.vstack(sums), len(parts), axis=1)
    x, xx = means[:2]
    y, xy, yy = means[2:] if ratio else (np.ones_like(x), x, np.ones_like(x))
    with np.errstate(divide="ignore", invalid="ignore"):
        value_DE = x / y
        variance_DE = (xx - 2 * value_DE * xy + value_DE**2 * yy) / y**2
    return value_DE, np.sqrt(np.maximum(variance_DE, 0.0) / max(n - 1, 1))


def _bca(one: Estimate, value_D: Floats, tails: Floats) -> Floats:
    """Return the quantile levels of the BCa interval; acceleration from the influence values."""
    share = float(np.mean(value_D < one.value) + 0.5 * np.mean(value_D == one.value))
    z0 = ndtri(min(max(share, 1e-6), 1 - 1e-6))
    influence_N = one.influence_N
    spread = float(np.square(influence_N).sum())
    acceleration = float((influence_N**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    z = z0 + ndtri(tails)
    levels: Floats = ndtr(z0 + z / (1 - acceleration * z))
    return levels


def empirical_bernstein(one: Estimate, *, level: float = 0.95) -> Interval:
    """Return the interval of Maurer & Pontil 2009 (theorem 4), both sides at half the risk.

        value +- sqrt(2 V ln(4 / d) / N) + 7 (high - low) ln(4 / d) / (3 (N - 1)),  d = 1 - level

    It holds at every N for terms within known bounds, so it is wide where weights can be large.
    """
    check_level(level)
    if one.denominator_N is not None:
        raise DataError(
            f"empirical Bernstein needs a mean of independent terms, got the ratio {one.name}; "
            "use the bootstrap for it, or IPS or DR"
        )
    if one.bounds is None:
        raise DataError(
            f"empirical Bernstein needs bounds of the terms, got {one.name} without; "
            "set max_weight of the log, or clip the weights"
        )
    n = len(one.term_N)
    if n < 2:
        raise DataError(f"empirical Bernstein needs at least 2 rows, got {n}; log more")
    low, high = one.bounds
    log_risk = math.log(4 / (1 - level))
    spread = math.sqrt(2 * float(one.term_N.var(ddof=1)) * log_risk / n)
    margin = spread + 7 * (high - low) * log_risk / (3 * (n - 1))
    return Interval(low=one.value - margin, high=one.value + margin, kind="empirical Bernstein")
