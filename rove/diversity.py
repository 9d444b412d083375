"""Make the slots of a slate unlike: what is like the slots before loses score.

A penalty (B, S) is taken off the scores of each slot before the policy looks at them, the same in
every posterior draw. It is a function of the slots before, so propensities stay exact.

- Items are compared by k_ij = (1 + cos(v_i, v_j)) / 2, in [0, 1]; a zero vector is like nothing
  in particular (1/2).
- `strength` s in [0, 1) weighs likeness against the spread of the scores: the penalty's factor is
  s / (1 - s) times the standard deviation of the open candidates' means, so that the same setting
  serves every kind of reward.

Shapes: B requests, S candidates, D dimensions, k slots filled before.
"""

from __future__ import annotations

import numpy as np

from rove.choosing import Floats, Indices, Open, Vectors
from rove.config import DiversitySection
from rove.slates import Penalty

_LEAST_VARIANCE = 1e-4
"""Of what is left of an item given the slots before: bounds the penalty of a copy."""


def penalty_of(
    section: DiversitySection, mean_BS: Floats, vector_BSD: Floats, open_BS: Open | None = None
) -> Penalty | None:
    """Return what a configuration takes off the scores of one batch, or None for nothing."""
    if section.kind == "none" or section.strength == 0.0:
        return None
    factor_B = section.strength / (1.0 - section.strength) * _spread(mean_BS, open_BS)
    penalty = MarginalRelevance if section.kind == "mmr" else Determinant
    return penalty(factor_B, _comparable(vector_BSD))


def _spread(mean_BS: Floats, open_BS: Open | None) -> Floats:
    mean_BS = mean_BS.astype(np.float64, copy=False)
    if open_BS is None:
        return np.asarray(mean_BS.std(1))
    num_B = np.maximum(open_BS.sum(1), 1)
    centre_B = np.where(open_BS, mean_BS, 0.0).sum(1) / num_B
    square_BS = np.where(open_BS, np.square(mean_BS - centre_B[:, None]), 0.0)
    return np.asarray(np.sqrt(square_BS.sum(1) / num_B))


def _comparable(vector_BSD: Floats) -> Vectors:
    """Return u = [1, v / |v|] / sqrt(2), (B, S, D + 1), so that u_i . u_j = k_ij."""
    num_requests, num_candidates, size = vector_BSD.shape
    unit_BSD = np.empty((num_requests, num_candidates, size + 1), np.float32)
    unit_BSD[:, :, 0] = 1.0
    norm_BS = np.sqrt(np.einsum("bsd,bsd->bs", vector_BSD, vector_BSD))
    unit_BSD[:, :, 1:] = vector_BSD / np.where(norm_BS > 0.0, norm_BS, 1.0)[:, :, None]
    unit_BSD *= np.float32(0.5**0.5)
    return unit_BSD


def _likeness(unit_BSD: Vectors, chosen_B: Indices) -> Floats:
    """Return k of every candidate with the chosen one, (B, S)."""
    chosen_BD = unit_BSD[np.arange(len(chosen_B)), chosen_B]
    return np.asarray(np.einsum("bsd,bd->bs", unit_BSD, chosen_BD), np.float64)


class MarginalRelevance:
    """MMR (Carbonell and Goldstein 1998): penalty_i = factor * max over the slots before of k_ij.

    Their lambda is 1 - strength: lambda r_i - (1 - lambda) max k_ij, divided by lambda.
    """

    def __init__(self, factor_B: Floats, unit_BSD: Vectors) -> None:
        self._factor_B = factor_B
        self._unit_BSD = unit_BSD
        self._most_BS = np.zeros(unit_BSD.shape[:2])

    def after(self, chosen_B: Indices) -> Floats:
        """Return the penalty (B, S) of the next slot."""
        np.maximum(self._most_BS, _likeness(self._unit_BSD, chosen_B), out=self._most_BS)
        return np.asarray(self._factor_B[:, None] * self._most_BS)


class Determinant:
    """DPP: greedy maximum of log det of the slate's kernel (Chen, Zhang and Zhou 2018).

    With r_i the score: sum_i r_i + factor log det K_slate grows by r_i + factor log d_i^2 with item
    i, where d_i^2 = k_ii - |c_i|^2 is what the slots before leave of it; so penalty_i =
    -factor log d_i^2. The Cholesky rows c_i get one entry per slot:
    e_i = (k_ji - c_j . c_i) / d_j for the item j chosen last; d_i^2 -= e_i^2.
    """

    def __init__(self, factor_B: Floats, unit_BSD: Vectors) -> None:
        self._factor_B = factor_B
        self._unit_BSD = unit_BSD
        # A zero vector is a half by itself; its other half is like nothing.
        self._left_BS = np.ones(unit_BSD.shape[:2])
        self._row_kBS = np.zeros((0, *unit_BSD.shape[:2]))

    def after(self, chosen_B: Indices) -> Floats:
        """Return the penalty (B, S) of the next slot."""
        lines = np.arange(len(chosen_B))
        row_kB = self._row_kBS[:, lines, chosen_B]
        depth_B = np.sqrt(np.maximum(self._left_BS[lines, chosen_B], _LEAST_VARIANCE))
        row_BS = _likeness(self._unit_BSD, chosen_B)
        row_BS = row_BS - np.einsum("kb,kbs->bs", row_kB, self._row_kBS)
        row_BS /= depth_B[:, None]
        self._left_BS -= np.square(row_BS)
        self._row_kBS = np.concatenate([self._row_kBS, row_BS[None]])
        left_BS = np.maximum(self._left_BS, _LEAST_VARIANCE)
        return np.asarray(-self._factor_B[:, None] * np.log(left_BS))
