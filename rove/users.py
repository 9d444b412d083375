"""What is known of each user: a view of the ledger, built when needed and forgotten at will.

- A user's view depends on the user's own rows and the release only, never on the order in which
  rows arrived or on what was cached, so building it again gives the same posterior.
- Positive rewards set a pair's standing reward: the largest after decay. Negative ones, and
  explicit rewards of zero, are trials of their own: exact updates on top.
- `UserCache` is bounded in bytes and forgets the least recently used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rove.events import InteractionType
from rove.model import UserPosterior
from rove.user_rows import ExplicitTrials, Standing
from rove.user_rows import Observation as Observation

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Features = Callable[[Sequence[int]], Vectors]
"""Rows of items (n,) -> their features (n, D)."""

_BYTES_A_PAIR = 27  # 24, and what arrays take to grow
_BYTES_A_USER = 820  # objects, and the cache's entry
_EXPLICIT = frozenset({InteractionType.REWARD, InteractionType.RATING})


def is_observation(kind: InteractionType | str, reward: float) -> bool:
    """Say whether an interaction tells anything: neutral ones of other types do not."""
    return reward != 0.0 or kind in _EXPLICIT


class User:
    """One user's interactions, folded; `as_of_s` is the time of the latest."""

    __slots__ = ("as_of_s", "pull_D", "standing", "trials")

    standing: Standing
    """Item row -> (reward, timestamp) of the positive interaction that counts most."""
    trials: ExplicitTrials
    pull_D: Array
    """sum over standing of reward * 2^(-(as_of - timestamp) / half_life) * phi."""
    as_of_s: float

    def __init__(self, num_factors: int) -> None:
        self.standing = Standing()
        self.trials = ExplicitTrials()
        self.pull_D = np.zeros(num_factors)
        self.as_of_s = -np.inf

    @property
    def has_past(self) -> bool:
        """Whether the user ever did anything that counts."""
        return bool(self.standing or self.trials)

    @property
    def size_bytes(self) -> int:
        """About what the view takes in memory."""
        pairs = len(self.standing) + len(self.trials)
        return _BYTES_A_USER + self.pull_D.nbytes + _BYTES_A_PAIR * pairs

    def learn(
        self, observations: Iterable[Observation], features: Features, half_life_s: float
    ) -> None:
        """Fold observations in, in any order."""
        changed: dict[int, tuple[float, float] | None] = {}
        for seen in observations:
            if not seen.is_positive:
                self.trials.append(seen)
                self._advance(seen.timestamp, half_life_s)
                continue
            before = self.standing.get(seen.row)
            if before is None or _counts_more(seen, before, half_life_s):
                changed.setdefault(seen.row, before)
                self.standing[seen.row] = (seen.reward, seen.timestamp)
        if not changed:
            return
        rows = list(changed)
        self._advance(max(self.standing[row][1] for row in rows), half_life_s)
        weights = [
            self.weight(self.standing[row], half_life_s)
            - (0.0 if (before := changed[row]) is None else self.weight(before, half_life_s))
            for row in rows
        ]
        self.pull_D += np.array(weights) @ features(rows).astype(np.float64)

    def decay(self, now_s: float, half_life_s: float) -> float:
        """Return what `pull_D` is to be multiplied with at `now_s`."""
        if not self.standing:
            return 0.0
        return float(np.exp2(min(0.0, (self.as_of_s - now_s) / half_life_s)))

    def weight(self, pair: tuple[float, float], half_life_s: float) -> float:
        """Return what a standing (reward, timestamp) counts as of `as_of_s`."""
        reward, timestamp = pair
        return float(reward * np.exp2((timestamp - self.as_of_s) / half_life_s))

    def _advance(self, time_s: float, half_life_s: float) -> None:
        if time_s > self.as_of_s:
            if self.standing and np.isfinite(self.as_of_s):
                self.pull_D *= np.exp2((self.as_of_s - time_s) / half_life_s)
            self.as_of_s = time_s


def _counts_more(seen: Observation, before: tuple[float, float], half_life_s: float) -> bool:
    reward, timestamp = before
    gained = np.log2(seen.reward) - np.log2(reward)
    return bool(gained + (seen.timestamp - timestamp) / half_life_s > 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """A user's posterior at one time."""

    mean_D: Array
    covariance_DD: Array
    now_s: float
    gain_Dm: Array | None = None
    """K: what each explicit trial's residual adds to the mean, if there are any."""


def taste_of(
    user: User,
    now_s: float,
    posterior: UserPosterior,
    features: Features,
    half_life_s: float,
    noise_variance: float,
) -> Taste:
    """Return the exact posterior of the user's taste.

    Trials X (m, D) of rewards y count with W = decay / sigma2. They turn N(m, C) into
    S = (C^-1 + X' W X)^-1, K = S X' W, mean m + K (y - X m).
    """
    if not user.has_past:
        return Taste(
            mean_D=posterior.prior_mean_D,
            covariance_DD=posterior.prior_covariance_DD,
            now_s=now_s,
        )
    pull_D = user.pull_D * user.decay(now_s, half_life_s)
    mean_D = posterior.idle_mean_D + posterior.pull_DD @ pull_D
    if not user.trials:
        return Taste(mean_D=mean_D, covariance_DD=posterior.covariance_DD, now_s=now_s)
    x_mD = features([trial.row for trial in user.trials]).astype(np.float64)
    age_m = np.array([now_s - trial.timestamp for trial in user.trials])
    weight_m = np.exp2(-np.maximum(age_m, 0.0) / half_life_s) / noise_variance
    reward_m = np.array([trial.reward for trial in user.trials])
    covariance_DD, gain_Dm = _conditioned(posterior.covariance_DD, x_mD, weight_m)
    return Taste(
        mean_D=mean_D + gain_Dm @ (reward_m - x_mD @ mean_D),
        covariance_DD=covariance_DD,
        now_s=now_s,
        gain_Dm=gain_Dm,
    )


def _conditioned(covariance_DD: Array, x_mD: Array, weight_m: Array) -> tuple[Array, Array]:
    """Return S and K of `taste_of` by the smaller of two systems.

    With Z = W^1/2 X: S = C - C Z' (I + Z C Z')^-1 Z C (Kalman), or S = (I + C Z' Z)^-1 C.
    """
    num_trials, num_factors = x_mD.shape
    scale_m = np.sqrt(weight_m)
    z_mD = x_mD * scale_m[:, None]
    cross_mD = z_mD @ covariance_DD
    if num_trials <= num_factors:
        grown_mm = np.eye(num_trials) + cross_mD @ z_mD.T
        solved_mD = np.asarray(np.linalg.solve(grown_mm, cross_mD), np.float64)
        conditioned_DD = covariance_DD - solved_mD.T @ cross_mD
        gain_Dm = solved_mD.T * scale_m
    else:
        grown_DD = np.eye(num_factors) + cross_mD.T @ z_mD
        conditioned_DD = np.asarray(np.linalg.solve(grown_DD, covariance_DD), np.float64)
        gain_Dm = conditioned_DD @ (z_mD.T * scale_m)
    return np.asarray((conditioned_DD + conditioned_DD.T) / 2.0, np.float64), gain_Dm


def influence_of(
    user: User, taste: Taste, posterior: UserPosterior, features: Features, half_life_s: float
) -> tuple[list[int], Array]:
    """Split a posterior mean into one term per past item: rows (p,) and terms (p, D).

    The mean is linear in the rewards, so the terms and the prior's part sum to it exactly. A
    standing reward w_r gives C phi_r w_r / sigma2, less what the trials take back: (I - K X); a
    trial gives its column of K times its reward.
    """
    rows = list(user.standing)
    weight_p = np.array(
        [
            reward * np.exp2(min(0.0, (timestamp - taste.now_s) / half_life_s))
            for reward, timestamp in user.standing.values()
        ]
    )
    if user.as_of_s > taste.now_s:  # as `decay`: nothing weighs more than at its own time
        weight_p = np.array([user.weight(pair, half_life_s) for pair in user.standing.values()])
    term_pD = (weight_p[:, None] * features(rows)) @ posterior.pull_DD
    if taste.gain_Dm is None:
        return rows, term_pD
    trial_rows = [trial.row for trial in user.trials]
    reward_m = np.array([trial.reward for trial in user.trials])
    x_mD = features(trial_rows).astype(np.float64)
    term_pD = term_pD - (term_pD @ x_mD.T) @ taste.gain_Dm.T
    return rows + trial_rows, np.vstack([term_pD, (taste.gain_Dm * reward_m).T])


class Sized(Protocol):
    """A user's view; `size_bytes` is about what it takes in memory."""

    @property
    def size_bytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class UserCache(Generic[V]):
    """Views of the users seen lately, at most `max_bytes` of them."""

    max_bytes: int
    size_bytes: int

    def __init__(self, max_bytes: int, build: Callable[[str], V]) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._build = build
        self._users: OrderedDict[str, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._users

    def get(self, user_id: str) -> V:
        """Return the user's view, built from the ledger unless it is cached."""
        found = self._users.get(user_id)
        if found is not None:
            self._users.move_to_end(user_id)
            return found[0]
        user = self._build(user_id)
        self._users[user_id] = (user, user.size_bytes)
        self.size_bytes += user.size_bytes
        self._evict()
        return user

    def resized(self, user_id: str) -> None:
        """Take note that a cached view has grown."""
        user, size_bytes = self._users[user_id]
        self._users[user_id] = (user, user.size_bytes)
        self.size_bytes += user.size_bytes - size_bytes
        self._evict()

    def forget(self, user_id: str) -> None:
        """Drop a view, if there is one."""
        _, size_bytes = self._users.pop(user_id, (None, 0))
        self.size_bytes -= size_bytes

    def clear(self) -> None:
        """Drop all views."""
        self._users.clear()
        self.size_bytes = 0

    def _evict(self) -> None:
        while self.size_bytes > self.max_bytes and len(self._users) > 1:
            _, (_, size_bytes) = self._users.popitem(last=False)
            self.size_bytes -= size_bytes
