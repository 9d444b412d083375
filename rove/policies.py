"""How to choose one item from candidates whose reward is known up to a mean and a variance.

A policy is a distribution over the open candidates that can be sampled and evaluated:
`start` looks at the scores of B requests and returns a `Chooser`; `Chooser.distribution` gives the
probability of every candidate (B, S) given what is still open. `rove.slates` fills slates with it.

- Every row of a distribution sums to one and is zero where the candidate is closed.
- The floor is mixed in here, so that what is logged is what was sampled from.
- Random numbers come from one generator per request, so a slate does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rove.config import PolicySection

Floats = npt.NDArray[np.floating]
Probabilities = npt.NDArray[np.float64]
Open = npt.NDArray[np.bool_]


class Chooser(Protocol):
    """A policy that has seen the scores of a batch."""

    def distribution(self, open_BS: Open) -> Probabilities:
        """Return the probability of choosing each candidate, (B, S)."""
        ...


class Policy(Protocol):
    """A way to explore; scores are `mean_BS` and standard deviation `deviation_BS`."""

    def start(
        self, mean_BS: Floats, deviation_BS: Floats, rngs: Sequence[np.random.Generator]
    ) -> Chooser:
        """Return the chooser of a batch; closed candidates may hold any finite number."""
        ...


def policy_of(section: PolicySection) -> Policy:
    """Return the policy that a configuration describes."""
    policy = _unfloored(section)
    return Floored(policy, section.floor) if section.floor else policy


def _unfloored(section: PolicySection) -> Policy:
    match section.kind:
        case "greedy":
            return Greedy()
        case "epsilon_greedy":
            return Floored(Greedy(), section.epsilon)
        case "softmax":
            return Softmax(section.temperature)
        case "ucb":
            return UpperConfidenceBound(section.strength)
        case "thompson":
            return Thompson(section.strength, section.num_draws)
        case "igw":
            return InverseGapWeighting(section.gamma)


class _Best:
    """Chooses the largest index, for certain; the first of equals."""

    def __init__(self, index_BS: Floats) -> None:
        self._index_BS = index_BS

    def distribution(self, open_BS: Open) -> Probabilities:
        best_B = np.where(open_BS, self._index_BS, -np.inf).argmax(1)
        return one_hot(best_B, open_BS.shape)


def one_hot(chosen_B: npt.NDArray[np.intp], shape: tuple[int, ...]) -> Probabilities:
    """Return the distributions that choose `chosen_B` for certain."""
    probability_BS = np.zeros(shape)
    probability_BS[np.arange(shape[0]), chosen_B] = 1.0
    return probability_BS


class Greedy:
    """Choose the largest mean."""

    def start(
        self, mean_BS: Floats, deviation_BS: Floats, rngs: Sequence[np.random.Generator]
    ) -> Chooser:
        return _Best(mean_BS)


class UpperConfidenceBound:
    """Choose the largest mean + strength * deviation (Auer 2002; LinUCB: Li et al. 2010).

    Deterministic: give it a floor if the log is to evaluate other policies.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def start(
        self, mean_BS: Floats, deviation_BS: Floats, rngs: Sequence[np.random.Generator]
    ) -> Chooser:
        return _Best(mean_BS + self.strength * deviation_BS)


class Softmax:
    """p_s proportional to exp(mean_s / temperature) (Boltzmann exploration)."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def start(
        self, mean_BS: Floats, deviation_BS: Floats, rngs: Sequence[np.random.Generator]
    ) -> Chooser:
        return _Softmax(np.asarray(mean_BS, np.float64) / self.temperature)


class _Softmax:
    def __init__(self, logit_BS: Probabilities) -> None:
        self._logit_BS = logit_BS

    def distribution(self, open_BS: Open) -> Probabilities:
        logit_BS = np.where(open_BS, self._logit_BS, -np.inf)
        weight_BS = np.exp(logit_BS - logit_BS.max(1, keepdims=True))
        return np.asarray(weight_BS / weight_BS.sum(1, keepdims=True))


class InverseGapWeighting:
    """SquareCB: p_s = 1 / (A + gamma (max - mean_s)) for all but the best, which gets the rest.

    A is the number of open candidates (Abe and Long 1999; Foster and Rakhlin 2020).
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def start(
        self, mean_BS: Floats, deviation_BS: Floats, rngs: Sequence[np.random.Generator]
    ) -> Chooser:
        return _InverseGap(np.asarray(mean_BS, np.float64), self.gamma)


class _InverseGap:
    def __init__(self, mean_BS: Probabilities, gamma: float) -> None:
        self._mean_BS = mean_BS
        self._gamma = gamma

    def distribution(self, open_BS: Open) -> Probabilities:
        mean_BS = np.where(open_BS, self._mean_BS, -np.inf)
        best_B = mean_BS.argmax(1)
        rows = np.arange(len(best_B))
        gap_BS = mean_BS[rows, best_B][:, None] - mean_BS
        num_open_B = open_BS.sum(1)
        probability_BS = 1.0 / (num_open_B[:, None] + self._gamma * gap_BS)
        probability_BS[rows, best_B] = 0.0
        probability_BS[rows, best_B] = 1.0 - probability_BS.sum(1)
        return np.asarray(probability_BS)


class Thompson:
    """Choose the best of a sample from the posterior (Thompson 1933).

    The distribution is the empirical one of the winners of `num_draws` samples with `strength`
    times the posterior deviation, so that the propensity of what is chosen is known exactly.
    """

    def __init__(self, strength: float, num_draws: int) -> None:
        self.strength = strength
        self.num_draws = num_draws

    def start(
        self, mean_BS: Floats, deviation_BS: Floats, rngs: Sequence[np.random.Generator]
    ) -> Chooser:
        num_requests, num_candidates = mean_BS.shape
        draw_BMS = np.empty((num_requests, self.num_draws, num_candidates), np.float32)
        for request, rng in enumerate(rngs):
            rng.standard_normal(dtype=np.float32, out=draw_BMS[request])
        draw_BMS *= (self.strength * deviation_BS[:, None, :]).astype(np.float32)
        draw_BMS += mean_BS[:, None, :].astype(np.float32)
        return _Winners(draw_BMS)


class _Winners:
    def __init__(self, draw_BMS: npt.NDArray[np.float32]) -> None:
        self._draw_BMS = draw_BMS
        self._open_BS = np.ones(draw_BMS.shape[::2], bool)

    def distribution(self, open_BS: Open) -> Probabilities:
        request, candidate = np.nonzero(self._open_BS & ~open_BS)
        self._draw_BMS[request, :, candidate] = -np.inf
        self._open_BS = open_BS.copy()
        num_requests, num_draws, num_candidates = self._draw_BMS.shape
        winner_BM = self._draw_BMS.argmax(2)
        winner_BM += np.arange(num_requests)[:, None] * num_candidates
        wins = np.bincount(winner_BM.ravel(), minlength=num_requests * num_candidates)
        return np.asarray(wins.reshape(num_requests, num_candidates) / num_draws)


class Floored:
    """Mix a uniform choice into a policy: (1 - share) p + share / A."""

    def __init__(self, policy: Policy, share: float) -> None:
        self.policy = policy
        self.share = share

    def start(
        self, mean_BS: Floats, deviation_BS: Floats, rngs: Sequence[np.random.Generator]
    ) -> Chooser:
        return _Floored(self.policy.start(mean_BS, deviation_BS, rngs), self.share)


class _Floored:
    def __init__(self, chooser: Chooser, share: float) -> None:
        self._chooser = chooser
        self._share = share

    def distribution(self, open_BS: Open) -> Probabilities:
        uniform_BS = open_BS / open_BS.sum(1, keepdims=True)
        chosen_BS = self._chooser.distribution(open_BS)
        return np.asarray((1.0 - self._share) * chosen_BS + self._share * uniform_BS)
