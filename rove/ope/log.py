"""Logged decisions, alone (`Logged`) and beside the policy to evaluate (`Log`, `SlateLog`).

Axes: N decisions, S actions of a decision (padded to the largest), K slots of a slate, F features.

- What is held can be used: a record that breaks a rule raises `DataError` with the number of bad
  rows and the first of them. `rove.ope.cleaning` leaves such rows out of raw columns instead.
- Actions are numbers below `num_actions`; what they stand for is the caller's.
- Rewards are within `reward_range`, which is known beforehand and not taken from the rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SUM_TOLERANCE = 1e-4
"""How far probabilities may be from one: logs hold them as float32 or with few digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """N decisions: the action taken, its propensity, and the reward it earned."""

    action_N: Ints
    reward_N: Floats
    propensity_N: Floats
    """Probability with which the logged action was taken."""
    num_actions: int
    logging_NS: Floats | None = None
    """The logging policy's probability of every action, where known."""
    features_NF: Floats | None = None
    """What was known when deciding."""
    reward_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raise `DataError` unless every row can be used."""
        n = len(self.action_N)
        if n == 0:
            raise DataError("the log has no decisions; read another file or loosen its filter")
        if self.action_N.dtype.kind not in "iu":
            raise DataError(
                f"actions must be whole numbers, got {self.action_N.dtype}; number the actions"
            )
        for name in ("action_N", "reward_N", "propensity_N"):
            check_shape(name, getattr(self, name), (n,))
        if self.features_NF is not None:
            check_shape("features_NF", self.features_NF, (n, self.features_NF.shape[-1]))
            refuse("features that are no finite numbers", ~_rows(np.isfinite(self.features_NF)))
        outside = (self.action_N < 0) | (self.action_N >= self.num_actions)
        refuse(f"an action outside 0..{self.num_actions - 1}", outside, self.action_N)
        check_rewards(self.reward_N, self.reward_range)
        check_propensities(self.propensity_N)
        if self.logging_NS is not None:
            check_shape("logging_NS", self.logging_NS, (n, self.num_actions))
            check_distribution("logging", self.logging_NS)
            chosen_N = self.logging_NS[np.arange(n), self.action_N]
            off_N = np.abs(chosen_N - self.propensity_N) > SUM_TOLERANCE
            refuse("a propensity that is not logging_NS of its action", off_N, self.propensity_N)

    def under(
        self,
        evaluation: Floats,
        *,
        q_NS: Floats | None = None,
        category_S: Ints | None = None,
        max_weight: float | None = None,
    ) -> Log:
        """Return the log beside the policy to evaluate; the arguments are fields of `Log`."""
        return Log(
            action_N=self.action_N,
            reward_N=self.reward_N,
            propensity_N=self.propensity_N,
            num_actions=self.num_actions,
            logging_NS=self.logging_NS,
            features_NF=self.features_NF,
            reward_range=self.reward_range,
            evaluation=evaluation,
            q_NS=q_NS,
            category_S=category_S,
            max_weight=max_weight,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Logged):
    """N logged decisions and the probabilities of the policy to evaluate."""

    evaluation: Floats
    """(N, S) of every action; or (N,) of the logged action, which leaves IPS, SNIPS and replay."""
    q_NS: Floats | None = None
    """Predicted mean reward of every action; not learnt from the row itself (`reward_model`)."""
    category_S: Ints | None = None
    """A category of every action, for MIPS."""
    max_weight: float | None = None
    """A bound of all weights known beforehand, e.g. 1 / the floor of the logging policy."""

    def __post_init__(self) -> None:
        """Raise `DataError` unless every row can be used."""
        Logged.__post_init__(self)
        n, s = len(self.action_N), self.num_actions
        if self.evaluation.ndim == 1:
            check_shape("evaluation", self.evaluation, (n,))
            bad_N = ~((self.evaluation >= 0) & (self.evaluation <= 1 + SUM_TOLERANCE))
            refuse("an evaluation probability outside [0, 1]", bad_N, self.evaluation)
        else:
            check_shape("evaluation", self.evaluation, (n, s))
            check_distribution("evaluation", self.evaluation)
        if self.q_NS is not None:
            check_shape("q_NS", self.q_NS, (n, s))
            refuse("predictions that are no finite numbers", ~_rows(np.isfinite(self.q_NS)))
        if self.category_S is not None:
            check_shape("category_S", self.category_S, (s,))
            if self.category_S.dtype.kind not in "iu":
                raise DataError(
                    f"categories must be whole numbers, got {self.category_S.dtype}; number them"
                )
            if self.category_S.min() < 0:
                raise DataError(f"categories start at 0, got {self.category_S.min()}; number them")
        if self.max_weight is not None:
            if not 0 < self.max_weight < np.inf:
                raise DataError(
                    f"max_weight must be a number above 0, got {self.max_weight}; leave it out if "
                    "weights have no bound"
                )
            above_N = self.weight_N > self.max_weight * (1 + SUM_TOLERANCE)
            refuse(f"a weight above max_weight {self.max_weight:g}", above_N, self.weight_N)

    @property
    def weight_N(self) -> Floats:
        """Importance weights w = evaluation / propensity of the logged actions, (N,)."""
        if self.evaluation.ndim == 1:
            return self.evaluation / self.propensity_N
        chosen_N: Floats = self.evaluation[np.arange(len(self.action_N)), self.action_N]
        return chosen_N / self.propensity_N


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateLog:
    """N logged slates of K slots; a shorter slate is padded (probabilities 1, reward 0)."""

    reward_NK: Floats
    propensity_NK: Floats
    """Probability of the slot's item given the slots before it, under the logging policy."""
    evaluation_NK: Floats
    """The same under the policy to evaluate."""
    q_NK: Floats | None = None
    """Predicted reward of this slot and all later ones, given the slate up to this slot."""
    v_NK: Floats | None = None
    """Mean of that prediction over the evaluation policy's item of this slot."""
    reward_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raise `DataError` unless every row can be used."""
        if self.reward_NK.ndim != 2 or self.reward_NK.size == 0:
            raise DataError(
                "reward_NK must be (N, K) with N > 0 and K > 0, got the shape "
                f"{self.reward_NK.shape}; give one row a slate"
            )
        shape = self.reward_NK.shape
        for name in ("propensity_NK", "evaluation_NK", "q_NK", "v_NK"):
            values = getattr(self, name)
            if values is not None:
                check_shape(name, values, shape)
        if (self.q_NK is None) != (self.v_NK is None):
            raise DataError("q_NK and v_NK go together, got one of them; give both or neither")
        check_rewards(self.reward_NK, self.reward_range)
        check_propensities(self.propensity_NK)
        bad_NK = ~((self.evaluation_NK >= 0) & (self.evaluation_NK <= 1 + SUM_TOLERANCE))
        refuse("an evaluation probability outside [0, 1]", ~_rows(~bad_NK), self.evaluation_NK)
        for values in (self.q_NK, self.v_NK):
            if values is not None:
                refuse("predictions that are no finite numbers", ~_rows(np.isfinite(values)))

    @property
    def weight_NK(self) -> Floats:
        """Weights of the slots given the slots before, (N, K)."""
        return self.evaluation_NK / self.propensity_NK


def check_shape(name: str, values: npt.NDArray[np.generic], shape: tuple[int, ...]) -> None:
    """Raise `DataError` unless `values` has `shape`."""
    if values.shape != shape:
        raise DataError(
            f"{name} must have the shape {shape}, got {values.shape}; give one row a decision"
        )


def check_rewards(rewards: Floats, bounds: tuple[float, float]) -> None:
    """Raise `DataError` unless all rewards are numbers within `bounds`."""
    low, high = bounds
    if not -np.inf < low < high < np.inf:
        raise DataError(
            f"reward_range must be (low, high) with low < high, got {bounds}; give what no reward "
            "can leave"
        )
    refuse("a reward that is no finite number", ~_rows(np.isfinite(rewards)), rewards)
    inside = (rewards >= low) & (rewards <= high)
    what = f"a reward outside reward_range [{low:g}, {high:g}]"
    refuse(what, ~_rows(inside), rewards, "correct the rewards, or set reward_range to theirs")


def check_propensities(propensities: Floats) -> None:
    """Raise `DataError` unless all propensities are in (0, 1]."""
    good = (propensities > 0) & (propensities <= 1 + SUM_TOLERANCE)
    refuse("a propensity outside (0, 1]", ~_rows(good), propensities)


def check_distribution(name: str, probability_NS: Floats) -> None:
    """Raise `DataError` unless every row is a distribution."""
    refuse(f"{name} probabilities below 0 or NaN", ~_rows(probability_NS >= 0))
    sum_N = probability_NS.sum(1)
    off_N = np.abs(sum_N - 1) > SUM_TOLERANCE
    refuse(f"{name} probabilities that do not sum to one", off_N, sum_N)


def check_level(level: float) -> None:
    """Raise `DataError` unless a confidence level is in (0, 1)."""
    if not 0.0 < level < 1.0:
        raise DataError(f"a confidence level is between 0 and 1, got {level}; 0.95 is usual")


def refuse(
    what: str,
    bad_N: Mask,
    values: npt.NDArray[np.generic] | None = None,
    advice: str = "correct the log or leave these rows out (rove.ope.clean)",
) -> None:
    """Raise `DataError` that names the number of bad rows and the first, if there is one."""
    rows = np.flatnonzero(bad_N)
    if rows.size:
        got = "" if values is None else f", got {values[rows[0]]}"
        raise DataError(
            f"{rows.size:,} of {len(bad_N):,} rows have {what}; the first is row "
            f"{rows[0]}{got}; {advice}"
        )


def _rows(good: Mask) -> Mask:
    """Return which rows are good in every column, (N,)."""
    rows_N: Mask = good if good.ndim == 1 else np.logical_and.reduce(good, axis=1)
    return rows_N
