"""Estimators of a policy's value from another policy's log, as terms per row.

In every formula w_i = evaluation(a_i | x_i) / propensity_i is the weight of row i, q the predicted
mean reward, v_i = sum_a evaluation(a | x_i) q(x_i, a), and mean_i the mean over the log's N rows.

- An estimator is a pure function of a `Log`; it never learns a model or draws numbers.
- `Estimate` keeps the terms: value, standard error and every interval come from them.
- A log that lacks what an estimator needs raises `DataError` which says what.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rove.errors import DataError
from rove.ope.log import Floats, Log

Estimator = Callable[[Log], "Estimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean of terms, or a ratio of two means; rows are independent."""

    name: str
    term_N: Floats
    denominator_N: Floats | None = None
    """Of a ratio estimator; None for a plain mean."""
    bounds: tuple[float, float] | None = None
    """What no term can leave, where known beforehand."""

    @property
    def value(self) -> float:
        """The estimated mean reward of a decision."""
        if self.denominator_N is None:
            return float(self.term_N.mean())
        return float(self.term_N.sum() / self.denominator_N.sum())

    @property
    def influence_N(self) -> Floats:
        """What every row moves the value by, times N; sums to zero (delta method for a ratio)."""
        if self.denominator_N is None:
            return np.asarray(self.term_N - self.value)
        rest_N = self.term_N - self.value * self.denominator_N
        return np.asarray(rest_N / self.denominator_N.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the value from the variance of its terms."""
        n = len(self.term_N)
        return float(np.sqrt(np.square(self.influence_N).sum() / (n * max(n - 1, 1))))


def ips(log: Log, clip: float | None = None) -> Estimate:
    """Return inverse propensity scoring, mean_i min(w_i, clip) r_i.

    Horvitz & Thompson 1952; Strehl et al. 2010. Unclipped it is unbiased and its variance grows
    with the largest weights; a clip trades that for a bias towards zero.
    """
    if clip is not None:
        _check_dial("clip", clip)
    low, high = log.reward_range
    limits = [one for one in (log.max_weight, clip) if one is not None and np.isfinite(one)]
    bounds = None
    if limits:
        bounds = (min(0.0, low * min(limits)), max(0.0, high * min(limits)))
    if clip is None:
        return Estimate(name="IPS", term_N=log.weight_N * log.reward_N, bounds=bounds)
    term_N = np.minimum(log.weight_N, clip) * log.reward_N
    return Estimate(name="clipped IPS", term_N=term_N, bounds=bounds)


def snips(log: Log) -> Estimate:
    """Return self-normalised IPS, sum_i w_i r_i / sum_i w_i.

    Swaminathan & Joachims 2015. A weighted mean of rewards, so always within their range; biased
    by O(1/N), and usually of much less variance than IPS.
    """
    return _ratio("SNIPS", log.weight_N * log.reward_N, log.weight_N)


def direct(log: Log) -> Estimate:
    """Return the direct method, mean_i v_i.

    Beygelzimer & Langford 2009. Of the least variance, and as biased as the predictions are under
    the evaluation policy, which its intervals cannot see.
    """
    return Estimate(name="DM", term_N=_values(log)[1], bounds=None)


def doubly_robust(log: Log) -> Estimate:
    """Return doubly robust, mean_i [v_i + w_i (r_i - q(x_i, a_i))].

    Dudik, Langford & Li 2011. Unbiased whatever the predictions, as they do not come from the row
    itself; the better they are, the less weights add to the variance.
    """
    residual_N, value_N = _values(log)
    bounds = None
    if log.max_weight is not None:
        assert log.q_NS is not None
        (low, high), limit = log.reward_range, log.max_weight
        if low <= log.q_NS.min() and log.q_NS.max() <= high:
            span = limit * (high - low)
            bounds = (low - span, high + span)
    return Estimate(name="DR", term_N=value_N + log.weight_N * residual_N, bounds=bounds)


def self_normalised_doubly_robust(log: Log) -> Estimate:
    """Return self-normalised DR, mean_i v_i + sum_i w_i (r_i - q(x_i, a_i)) / sum_i w_i.

    Thomas & Brunskill 2016 (weighted DR, one step). Calms DR's large weights for a bias of O(1/N).
    The terms are the linearisation around the estimate.
    """
    residual_N, value_N = _values(log)
    weight_N = log.weight_N
    _positive("SNDR", weight_N)
    scale = weight_N.mean()
    correction = float((weight_N * residual_N).mean() / scale)
    term_N = value_N + correction + weight_N * (residual_N - correction) / scale
    return Estimate(name="SNDR", term_N=term_N)


def switch_doubly_robust(log: Log, threshold: float) -> Estimate:
    """Return SWITCH-DR, mean_i [v_i + 1{w_i <= threshold} w_i (r_i - q(x_i, a_i))].

    Wang, Agarwal & Dudik 2017. Trusts the predictions where weights are large: less variance than
    DR and the direct method's bias there. The threshold: `rove.ope.tuning`.
    """
    residual_N, value_N = _values(log)
    _check_dial("threshold", threshold)
    weight_N = np.where(log.weight_N <= threshold, log.weight_N, 0.0)
    return Estimate(name="SWITCH-DR", term_N=value_N + weight_N * residual_N)


def shrunk_doubly_robust(log: Log, shrinkage: float) -> Estimate:
    """Return DR with optimistic shrinkage, mean_i [v_i + u_i (r_i - q(x_i, a_i))].

    u = shrinkage * w / (w^2 + shrinkage): Su, Dimakopoulou, Krishnamurthy & Dudik 2020. Between
    the direct method (0) and DR (infinity) without SWITCH's jump: large weights cause bias instead
    of variance. The shrinkage: `rove.ope.tuning`.
    """
    _check_dial("shrinkage", shrinkage)
    residual_N, value_N = _values(log)
    weight_N = log.weight_N
    if np.isfinite(shrinkage):
        weight_N = shrinkage * weight_N / (np.square(weight_N) + max(shrinkage, 1e-300))
    return Estimate(name="DRos", term_N=value_N + weight_N * residual_N)


def mips(log: Log) -> Estimate:
    """Return marginalised IPS, mean_i [evaluation(c_i | x_i) / logging(c_i | x_i)] r_i.

    Saito & Joachims 2022, with deterministic categories c of the actions. The fewer categories the
    less variance; unbiased if the action matters only through its category (no direct effect).
    """
    if log.category_S is None or log.logging_NS is None or log.evaluation.ndim == 1:
        raise DataError(
            "MIPS needs category_S, logging_NS and evaluation (N, S), got a log without; "
            "give them, e.g. by rove.ope.categories_of, or use another estimator"
        )
    rows, category_N = np.arange(len(log.action_N)), log.category_S[log.action_N]
    one_hot_SC = np.eye(int(log.category_S.max()) + 1)[log.category_S]
    above_N = (log.evaluation @ one_hot_SC)[rows, category_N]
    below_N = (log.logging_NS @ one_hot_SC)[rows, category_N]
    return Estimate(name="MIPS", term_N=above_N / below_N * log.reward_N)


def replay(log: Log, rng: np.random.Generator, largest: float | None = None) -> Estimate:
    """Return the mean reward of the rows that rejection accepts with probability w_i / largest.

    Li, Chu, Langford & Wang 2011: under uniform logging and a deterministic policy, the rows where
    both agree. Unbiased given the accepted rows, and wasteful: about N / largest of them are used.
    """
    weight_N = log.weight_N
    if largest is None:
        largest = log.max_weight or float(weight_N.max())
    accepted_N = (rng.random(len(weight_N)) * largest < weight_N).astype(np.float64)
    return _ratio("replay", accepted_N * log.reward_N, accepted_N)


def _values(log: Log) -> tuple[Floats, Floats]:
    """Return r_i - q(x_i, a_i) and v_i, both (N,)."""
    if log.q_NS is None or log.evaluation.ndim == 1:
        raise DataError(
            "estimators with a reward model need q_NS and evaluation (N, S), got a log without; "
            "fit q_NS by rove.ope.cross_fitted, or use IPS or SNIPS"
        )
    q_N = log.q_NS[np.arange(len(log.action_N)), log.action_N]
    value_N: Floats = (log.evaluation * log.q_NS).sum(1)
    return log.reward_N - q_N, value_N


def _ratio(name: str, term_N: Floats, denominator_N: Floats) -> Estimate:
    _positive(name, denominator_N)
    return Estimate(name=name, term_N=term_N, denominator_N=denominator_N)


def _positive(name: str, weight_N: Floats) -> None:
    if not weight_N.sum() > 0:
        raise DataError(
            f"{name} has no row to use: the evaluation policy takes none of the logged actions; "
            "evaluate a policy that overlaps with the logging policy"
        )


def _check_dial(name: str, value: float) -> None:
    if not value >= 0.0:
        raise DataError(f"{name} must be a number of at least 0, got {value}; see rove.ope.tuning")
