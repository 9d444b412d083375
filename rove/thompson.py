"""Policies that draw from the posterior: Thompson sampling, top-two, and mixtures over strengths.

Their distributions are the empirical ones of the winners of M draws, so the propensity of what is
chosen is known exactly, and can be computed again from the scores and the seed. The draws are made
once per slate: later slots and other strengths look at the same ones.

- Draws lie (B, S, M): a maximum over candidates then runs along memory.
- Candidates with the very same drawn value share the win.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rove.choosing import (
    Chooser,
    Floats,
    Indices,
    Open,
    Probabilities,
    Source,
    Vectors,
    normals,
    one_hot,
    penalised,
)
from rove.compiled import compiled


@compiled("f8[:,::1](f4[:,:,::1], b1[:,::1], f4[:,::1])")
def _wins(draw_BSM: Vectors, open_BS: Open, penalty_BS: Vectors) -> Probabilities:
    num_requests, num_candidates, num_draws = draw_BSM.shape
    won_BS = np.zeros((num_requests, num_candidates))
    best_M = np.empty(num_draws, np.float32)
    for b in range(num_requests):
        best_M[:] = -np.inf
        for s in range(num_candidates):
            if open_BS[b, s]:
                for m in range(num_draws):
                    best_M[m] = max(best_M[m], draw_BSM[b, s, m] - penalty_BS[b, s])
        total = 0
        for s in range(num_candidates):
            won = 0
            if open_BS[b, s]:
                for m in range(num_draws):
                    won += draw_BSM[b, s, m] - penalty_BS[b, s] == best_M[m]
            won_BS[b, s] = won
            total += won
        for s in range(num_candidates):
            won_BS[b, s] /= total
    return won_BS


def wins(draw_BSM: Vectors, open_BS: Open | None, penalty_BS: Floats | None) -> Probabilities:
    """Return the share of the draws that each open candidate wins, (B, S)."""
    if open_BS is None:
        open_BS = np.ones(draw_BSM.shape[:2], np.bool_)
    if penalty_BS is None:
        penalty_BS = np.zeros(draw_BSM.shape[:2], np.float32)
    penalty_32 = np.ascontiguousarray(penalty_BS, np.float32)
    return _wins(draw_BSM, np.ascontiguousarray(open_BS), penalty_32)


@compiled("void(f4[:,:,::1], f4[:,::1], f4[:,::1])")
def _scaled(normal_BSM: Vectors, mean_BS: Vectors, deviation_BS: Vectors) -> None:
    """Turn standard normals into draws, in place."""
    for b in range(normal_BSM.shape[0]):
        for s in range(normal_BSM.shape[1]):
            for m in range(normal_BSM.shape[2]):
                scaled = normal_BSM[b, s, m] * deviation_BS[b, s]
                normal_BSM[b, s, m] = mean_BS[b, s] + scaled


def _draws(mean_BS: Floats, deviation_BS: Floats, normal_BSM: Vectors) -> Vectors:
    mean_32, deviation_32 = (
        np.ascontiguousarray(given_BS, np.float32) for given_BS in (mean_BS, deviation_BS)
    )
    _scaled(normal_BSM, mean_32, deviation_32)
    return normal_BSM


class Thompson:
    """Choose the best of a sample from the posterior (Thompson 1933).

    p_s = share of the draws z_m with s = argmax_r mean_r + strength deviation_r z_mr. `strength` is
    its temperature: 0 is greedy, 1 the posterior as it is, above 1 explores more.
    """

    def __init__(self, strength: float, num_draws: int) -> None:
        self.strength = strength
        self.num_draws = num_draws

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> _Winners:
        """Draw `num_draws` samples for every request."""
        normal_BSM = normals(rngs, (*mean_BS.shape, self.num_draws))
        return _Winners(_draws(mean_BS, self.strength * deviation_BS, normal_BSM))


class _Winners:
    def __init__(self, draw_BSM: Vectors) -> None:
        self.draw_BSM = draw_BSM

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        return wins(self.draw_BSM, open_BS, penalty_BS)


class TopTwo:
    """Top-two Thompson sampling (Russo 2016, 2020): the winner of a draw, or the best other one.

    With probability beta the winner i of a draw; else draws are repeated until another one wins.
    With w the shares of wins that is in closed form

        p_j = beta w_j + (1 - beta) sum_{i != j} w_i w_j / (1 - w_i).

    Where one candidate wins all draws, its challenger is the winner among the others.
    """

    def __init__(self, strength: float, num_draws: int, leader_share: float) -> None:
        self._thompson = Thompson(strength, num_draws)
        self.leader_share = leader_share

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> Chooser:
        """Draw `num_draws` samples for every request."""
        return _TopTwo(self._thompson.start(mean_BS, deviation_BS, rngs), self.leader_share)


class _TopTwo:
    def __init__(self, winners: _Winners, leader_share: float) -> None:
        self._winners = winners
        self._leader_share = leader_share

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        won_BS = self._winners.distribution(open_BS, penalty_BS)
        certain_BS = won_BS == 1.0
        odds_BS = won_BS / np.where(certain_BS, np.inf, 1.0 - won_BS)
        others_BS = np.add.reduce(odds_BS, axis=1, keepdims=True) - odds_BS
        probability_BS = won_BS * (self._leader_share + (1.0 - self._leader_share) * others_BS)
        rows = np.flatnonzero(certain_BS.any(1))
        if len(rows):
            second_nS = self._runners_up(rows, certain_BS, open_BS, penalty_BS)
            probability_BS[rows] += (1.0 - self._leader_share) * second_nS
        return probability_BS

    def _runners_up(
        self, rows: Indices, certain_BS: Open, open_BS: Open | None, penalty_BS: Floats | None
    ) -> Probabilities:
        """Return who wins once the certain winners of some rows are out, or they if alone."""
        penalty_nS = None if penalty_BS is None else penalty_BS[rows]
        left_nS = ~certain_BS[rows]
        if open_BS is not None:
            left_nS &= open_BS[rows]
        left_nS |= certain_BS[rows] & ~left_nS.any(1, keepdims=True)
        return wins(self._winners.draw_BSM[rows], left_nS, penalty_nS)


class Mixture:
    """Thompson sampling whose strength is itself drawn, once per slate, with known weights.

    p(slot 1) = sum_g w_g p_g, with p_g the distribution at strength g, floor included. After a
    choice a the weights become w_g p_g(a) / sum, so that the product over the slots is exactly the
    probability of the slate with the strength summed out; propensities need no knowledge of it.
    """

    def __init__(
        self,
        strengths: Sequence[float],
        num_draws: int,
        floor: float = 0.0,
        weight_BG: Probabilities | None = None,
    ) -> None:
        self.strengths = tuple(strengths)
        self.num_draws = num_draws
        self.floor = floor
        self._weight_BG = weight_BG

    def weighted(self, weight_BG: Probabilities) -> Mixture:
        """Return the policy with the weights of each request's strengths; rows sum to one."""
        return Mixture(self.strengths, self.num_draws, self.floor, weight_BG)

    def start(self, mean_BS: Floats, deviation_BS: Floats, rngs: Source) -> MixtureChooser:
        """Draw `num_draws` samples for every request; all strengths look at the same ones."""
        num_strengths = len(self.strengths)
        weight_BG = self._weight_BG
        if weight_BG is None:
            weight_BG = np.full((len(mean_BS), num_strengths), 1.0 / num_strengths)
        normal_BSM = normals(rngs, (*mean_BS.shape, self.num_draws))
        return MixtureChooser(self, mean_BS, deviation_BS, normal_BSM, weight_BG)


class MixtureChooser:
    """A mixture that has seen the scores of a batch, and what was chosen so far."""

    weight_BG: Probabilities
    """The strengths' probabilities, given the slots that were sampled so far."""

    def __init__(
        self,
        policy: Mixture,
        mean_BS: Floats,
        deviation_BS: Floats,
        normal_BSM: Vectors,
        weight_BG: Probabilities,
    ) -> None:
        self.weight_BG = np.array(weight_BG, np.float64)
        self._floor = policy.floor
        self._mean_BS = mean_BS
        self._used = np.flatnonzero(self.weight_BG.any(0)).tolist()
        # Only strengths that somebody in the batch may have are computed; 0 needs no draws.
        self._choosers: dict[int, _Winners] = {
            g: _Winners(_draws(mean_BS, policy.strengths[g] * deviation_BS, normal_BSM.copy()))
            for g in self._used
            if policy.strengths[g] > 0.0
        }
        self._last_GBS = np.zeros((len(policy.strengths), *mean_BS.shape))

    def distribution(self, open_BS: Open | None, penalty_BS: Floats | None = None) -> Probabilities:
        """Return the probability of choosing each candidate, the strength summed out, (B, S)."""
        shape = self._mean_BS.shape
        uniform_BS = np.ones(shape) if open_BS is None else open_BS.astype(np.float64)
        uniform_BS *= self._floor / uniform_BS.sum(1, keepdims=True)
        mixed_BS = np.zeros(shape)
        for g in self._used:
            if g in self._choosers:
                chosen_BS = self._choosers[g].distribution(open_BS, penalty_BS)
            else:
                score_BS = penalised(self._mean_BS, open_BS, penalty_BS)
                chosen_BS = one_hot(score_BS.argmax(1), shape)
            self._last_GBS[g] = (1.0 - self._floor) * chosen_BS + uniform_BS
            mixed_BS += self.weight_BG[:, g, None] * self._last_GBS[g]
        return mixed_BS

    def chose(self, chosen_B: Indices, sampled_B: Open) -> None:
        """Take note of what was chosen, in those rows where it was sampled."""
        likelihood_GB = self._last_GBS[:, np.arange(len(chosen_B)), chosen_B]
        joint_BG = np.where(sampled_B[:, None], likelihood_GB.T, 1.0) * self.weight_BG
        self.weight_BG = joint_BG / joint_BG.sum(1, keepdims=True)
