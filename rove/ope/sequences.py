"""A confidence sequence: an interval that holds at all sample sizes at once.

Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro 2022, "Anytime-valid off-policy inference for
contextual bandits": bet against the value being m, with the doubly robust pseudo-outcome

    f_t = w_t (r_t - g_t(x_t, a_t)) + sum_a evaluation(a | x_t) g_t(x_t, a),
    g_t(x, a) = min(q_t(x, a), k_t / w(x, a)),                              so that f_t >= -k_t,
    capital_t(m) = prod_{s <= t} (1 + bet_s (f_s - m)),   0 <= bet_s <= TOP / (k_s + 1),

where q_t, k_t and bet_s depend on earlier rows only. The capital against the true value is a
nonnegative martingale, so with probability 1 - d it never reaches 1 / d (Ville), and the m with
less capital are a lower confidence sequence. The upper one is that of 1 - r, reflected. Weights
need no bound; with g = 0 it is their one-sided bound for w r and w (1 - r).

- Predictions must be made from other data or from earlier rows (`reward_model.predicted_ahead`):
  cross-fitted ones know later rewards and are not allowed.
- Rows must be in the order of logging; the logging policy may have been learning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rove.errors import DataError
from rove.ope.log import Floats, Ints, Log, check_level, check_shape

TOP = 0.9
"""The largest share of the capital a row can lose; 1 could lose everything at once."""

_BOUNDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Candidates for k; a large one keeps predictions whole where weights are large, for small bets."""

_BISECTIONS = 40
_NUM_TIMES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Bets:
    """One side's pseudo-outcomes (at least -k_t) and bets, in units of the reward range."""

    outcome_N: Floats
    bet_N: Floats

    def log_capital(self, mean: float) -> Floats:
        """Return the logarithm of the capital against `mean` after every row, (N,)."""
        return np.cumsum(np.log1p(self.bet_N * (self.outcome_N - mean)))

    def lower(self, risk: float, times: Ints) -> Floats:
        """Return the lower bound after `times` rows; it never falls."""
        goal = -np.log(risk)
        bounds, best = [], 0.0
        for time in times:
            bet, outcome = self.bet_N[:time], self.outcome_N[:time]
            if float(np.log1p(bet * (outcome - best)).sum()) > goal:
                best = _root(bet, outcome, goal, best)
            bounds.append(best)
        return np.array(bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSequence:
    """Bounds after `times` rows, and the bets they come from."""

    times: Ints
    low: Floats
    high: Floats
    lower_bets: Bets
    upper_bets: Bets
    level: float
    reward_range: tuple[float, float]

    def always_covers(self, value: float) -> bool:
        """Return whether the interval contains `value` after every single row."""
        low, high = self.reward_range
        mean, goal = (value - low) / (high - low), -np.log((1 - self.level) / 2)
        below = self.lower_bets.log_capital(mean).max()
        above = self.upper_bets.log_capital(1 - mean).max()
        return bool(max(below, above) < goal)


def confidence_sequence(
    log: Log,
    *,
    q_NS: Floats | None = None,
    level: float = 0.95,
    horizon: int | None = None,
    times: Ints | None = None,
) -> ConfidenceSequence:
    """Return the confidence sequence of the evaluation policy's value.

    `q_NS` are predictions as the module demands them; the running mean of the rewards when absent.
    Bets are tuned to be tightest after `horizon` rows, the log's own number when absent.
    """
    check_level(level)
    n = len(log.action_N)
    low, high = log.reward_range
    reward_N = (log.reward_N - low) / (high - low)
    times = _spaced(n) if times is None else times
    if len(times) == 0 or times.min() < 1 or times.max() > n:
        raise DataError(f"times must be within 1..{n}, got {times}; leave them out for a default")
    q_NS = _predictions(log, reward_N, None if q_NS is None else (q_NS - low) / (high - low))
    risk = (1 - level) / 2
    lower = _bets(log, reward_N, q_NS, risk, horizon or n)
    upper = _bets(log, 1 - reward_N, None if q_NS is None else 1 - q_NS, risk, horizon or n)
    return ConfidenceSequence(
        times=times,
        low=low + (high - low) * lower.lower(risk, times),
        high=high - (high - low) * upper.lower(risk, times),
        lower_bets=lower,
        upper_bets=upper,
        level=level,
        reward_range=log.reward_range,
    )


def _predictions(log: Log, reward_N: Floats, q_NS: Floats | None) -> Floats | None:
    """Return predictions in [0, 1], or None where the log does not say all weights."""
    known = log.logging_NS is not None and log.evaluation.ndim == 2
    if q_NS is None:
        if not known:
            return None
        mean_N = (_before(np.cumsum(reward_N)) + 0.5) / np.arange(1, len(reward_N) + 1)
        return np.broadcast_to(mean_N[:, None], log.evaluation.shape)
    if not known:
        raise DataError(
            "a confidence sequence with predictions needs logging_NS and evaluation (N, S), got a "
            "log without; give them or leave q_NS out"
        )
    check_shape("q_NS", q_NS, log.evaluation.shape)
    return np.clip(q_NS, 0.0, 1.0)


def _bets(log: Log, reward_N: Floats, q_NS: Floats | None, risk: float, horizon: int) -> Bets:
    """Return pseudo-outcomes and bets; of a few bounds k, each row takes the best one so far."""
    outcomes, bounds = [log.weight_N * reward_N], [0.0]
    if q_NS is not None:
        for bound in _BOUNDS:
            outcomes.append(_pseudo_outcomes(log, reward_N, q_NS, bound))
            bounds.append(bound)
    outcome_NB = np.stack(outcomes, axis=1)
    n, goal, cap_B = len(reward_N), np.log(1 / risk), TOP / (np.array(bounds) + 1)
    count_N1 = np.arange(1, n + 1)[:, None]
    mean_NB = np.clip((_before(np.cumsum(outcome_NB, axis=0)) + 0.5) / count_N1, 0.0, 1.0)
    squares_NB = np.cumsum(np.square(outcome_NB - mean_NB), axis=0)
    variance_NB = np.maximum((_before(squares_NB) + 0.25) / count_N1, 1e-12)
    bet_NB = np.minimum(np.sqrt(2 * goal / (variance_NB * horizon)), cap_B)
    # A bet's distance to the mean at the horizon, from log(1 + z) ~ z - z^2 / 2.
    width_NB = goal / (bet_NB * horizon) + bet_NB * variance_NB / 2
    rows, best_N = np.arange(n), width_NB.argmin(1)
    return Bets(outcome_N=outcome_NB[rows, best_N], bet_N=bet_NB[rows, best_N])


def _pseudo_outcomes(log: Log, reward_N: Floats, q_NS: Floats, bound: float) -> Floats:
    """Return f_t with k_t = bound, (N,)."""
    assert log.logging_NS is not None
    weight_NS = log.evaluation / np.maximum(log.logging_NS, 1e-12)
    kept_NS = np.minimum(weight_NS * q_NS, bound)  # w g
    value_N = (log.logging_NS * kept_NS).sum(1)  # sum_a evaluation g = sum_a logging w g
    kept_N = kept_NS[np.arange(len(reward_N)), log.action_N]
    outcome_N: Floats = log.weight_N * reward_N - kept_N + value_N
    return outcome_N


def _before(cumulated: Floats) -> Floats:
    """Return the values cumulated over the rows without the row itself."""
    return np.concatenate((np.zeros_like(cumulated[:1]), cumulated[:-1]))


def _spaced(n: int) -> Ints:
    return np.unique(np.geomspace(1, n, _NUM_TIMES).round().astype(np.int64))


def _root(bet: Floats, outcome: Floats, goal: float, low: float) -> float:
    """Return where the capital, which falls with the mean, reaches its goal; not above the root."""
    high = 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(np.log1p(bet * (outcome - middle)).sum()) > goal:
            low = middle
        else:
            high = middle
    return low
