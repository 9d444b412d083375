"""How to choose one item from candidates whose reward is known up to a mean and a variance.

Each policy is a few lines over (mean, deviation); `policy_of` makes the one that a configuration
names. What a policy is: `rove.choosing`; those that draw from the posterior: `rove.thompson`.

- The floor is mixed in here, so that what is logged is what was sampled from.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.choosing import (
    Chooser,
    Floats,
    Open,
    Policy,
    Probabilities,
    Source,
    one_hot,
    penalised,
)
from rove.config import PolicySection
from rove.thompson import Thompson, TopTwo


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
        case "regulated":  # the strength of each request scales its deviations
            return Thompson(1.0, section.num_draws)
        case "top_two":
            return TopTwo(section.strength, section.num_draws, section.leader_share)
        case "igw":
            return InverseGapWeighting(section.gamma)


class _Best:
    """Chooses the largest index, for certain; the first of equals."""

    def __init__(self, index_BS: Floats) -> None:
        self._index_BS = index_BS

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        index_BS = penalised(self._index_BS, open_BS, penalty_BS)
        return one_hot(index_BS.argmax(1), index_BS.shape)


class Greedy:
    """Choose the largest mean."""

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> Chooser:
        return _Best(mean_BS)


class UpperConfidenceBound:
    """Choose the largest mean + strength * deviation (Auer 2002; LinUCB: Li et al. 2010).

    Deterministic: give it a floor if the log is to evaluate other policies.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> Chooser:
        return _Best(mean_BS + self.strength * deviation_BS)


class Softmax:
    """p_s proportional to exp(mean_s / temperature) (Boltzmann exploration; Sutton and Barto)."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> Chooser:
        return _Softmax(mean_BS.astype(np.float64, copy=False), self.temperature)


class _Softmax:
    def __init__(self, mean_BS: Probabilities, temperature: float) -> None:
        self._mean_BS = mean_BS
        self._temperature = temperature

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        logit_BS = penalised(self._mean_BS, open_BS, penalty_BS)
        logit_BS = logit_BS - np.maximum.reduce(logit_BS, axis=1, keepdims=True)
        logit_BS /= self._temperature
        weight_BS: Probabilities = np.exp(logit_BS, out=logit_BS)
        weight_BS /= np.add.reduce(weight_BS, axis=1, keepdims=True)
        return weight_BS


class InverseGapWeighting:
    """SquareCB: p_s = 1 / (A + gamma (max - mean_s)) for all but the best, which gets the rest.

    A is the number of open candidates (Abe and Long 1999; Foster and Rakhlin 2020).
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> Chooser:
        return _InverseGap(mean_BS.astype(np.float64, copy=False), self.gamma)


class _InverseGap:
    def __init__(self, mean_BS: Probabilities, gamma: float) -> None:
        self._mean_BS = mean_BS
        self._gamma = gamma
        self._rows = np.arange(len(mean_BS))

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        mean_BS = penalised(self._mean_BS, open_BS, penalty_BS)
        best_B = mean_BS.argmax(1)
        gap_BS = mean_BS[self._rows, best_B][:, None] - mean_BS
        gap_BS *= self._gamma
        gap_BS += _num_open(mean_BS, open_BS)
        probability_BS: Probabilities = np.reciprocal(gap_BS, out=gap_BS)
        probability_BS[self._rows, best_B] = 0.0
        probability_BS[self._rows, best_B] = 1.0 - np.add.reduce(probability_BS, axis=1)
        return probability_BS


def _num_open(score_BS: Floats, open_BS: Open | None) -> npt.NDArray[np.int_] | int:
    """Return how many candidates each request has open: (B, 1), or one number for all."""
    return score_BS.shape[1] if open_BS is None else np.asarray(open_BS.sum(1, keepdims=True))


class Floored:
    """Mix a uniform choice into a policy: (1 - share) p + share / A, A open candidates."""

    def __init__(self, policy: Policy, share: float) -> None:
        self.policy = policy
        self.share = share

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> Chooser:
        return _Floored(self.policy.start(mean_BS, deviation_BS, rngs), self.share)


class _Floored:
    def __init__(self, chooser: Chooser, share: float) -> None:
        self._chooser = chooser
        self._share = share

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        chosen_BS = self._chooser.distribution(open_BS, penalty_BS)
        chosen_BS *= 1.0 - self._share
        uniform = self._share / _num_open(chosen_BS, open_BS)
        chosen_BS += uniform if open_BS is None else uniform * open_BS
        return chosen_BS
