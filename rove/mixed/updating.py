"""Move items and users by the trials that come between refits, one trial after the other.

An item's effects N(m, C) see a trial as y = z . effects + noise of precision w, with the
likelihood expanded at its predictor (`rove.mixed.links`) and the user's mean taken as known:

    p = C z,  g = w / (1 + w z . p),  m' = m + g (y - z . m) p,  C' = C - g p p'

and the user's effects likewise, the item's mean taken as known.

- Kept in float32, computed in float64. Rounding a covariance of P effects to float32 could make it
  indefinite; the diagonal is widened by P 2^-24 of itself each time, which is more than rounding
  can take away.

Shapes: n trials, J items, I users, C fixed inputs, K factors, P = C + K, F taste, D = 1 + F + K.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rove.compiled import compiled, inlined
from rove.mixed.links import expansion

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@inlined
def _condition(
    mean_P: npt.NDArray[np.floating],
    covariance_PP: npt.NDArray[np.floating],
    h_P: Array,
    weight: float,
    error: float,
    pull_P: Array,
) -> None:
    """Move one mean and covariance in place; `error` is y - h . m before, `pull_P` scratch."""
    size = len(h_P)
    pull_P[:size] = 0.0
    for q in range(size):
        for p in range(size):
            pull_P[p] += covariance_PP[q, p] * h_P[q]
    own = 0.0
    for p in range(size):
        own += h_P[p] * pull_P[p]
    gain = weight / (1.0 + weight * own)
    root = math.sqrt(gain)
    for p in range(size):
        mean_P[p] += gain * error * pull_P[p]
        pull_P[p] *= root
    for q in range(size):
        for p in range(size):
            covariance_PP[q, p] -= pull_P[q] * pull_P[p]
        covariance_PP[q, q] *= 1.0 + size * 2.0**-24


_SIGNATURE = (
    "void(f8[:,::1], f4[:,:,::1], f4[:,::1], f4[:,:,::1], "
    "i8[::1], i8[::1], f8[::1], f8[:,::1], f8[:,::1], f8[::1], f8[::1], i8, f8, f8)"
)


@compiled(_SIGNATURE)
def learn(
    beta_JP: Array,
    beta_covariance_JPP: Vectors,
    theta_ID: Vectors,
    theta_covariance_IDD: Vectors,
    users_n: Codes,
    items_n: Codes,
    rewards_n: Array,
    z_nC: Array,
    taste_JF: Array,
    known_n: Array,
    dispersion_J: Array,
    code: int,
    low: float,
    high: float,
) -> None:
    """Move items and users by n trials in place; a user of -1 is not known.

    `z_nC`: [1, c]; `known_n`: what the pair's past adds to the predictor; `code`: of the link;
    `low`, `high`: where the likelihood is expanded.
    """
    width, own = z_nC.shape[1], 1 + taste_JF.shape[1]
    num_factors = beta_JP.shape[1] - width
    z_P, h_D = np.zeros(width + num_factors), np.ones(own + num_factors)
    pull = np.empty(max(len(z_P), len(h_D)))
    for n in range(len(items_n)):
        item, user = items_n[n], users_n[n]
        eta = known_n[n]
        for c in range(width):
            z_P[c] = z_nC[n, c]
            eta += beta_JP[item, c] * z_P[c]
        z_P[width:] = 0.0
        if user >= 0:
            h_D[1:own] = taste_JF[item]
            h_D[own:] = beta_JP[item, width:]
            for k in range(num_factors):
                z_P[width + k] = theta_ID[user, own + k]
            for d in range(len(h_D)):
                eta += h_D[d] * theta_ID[user, d]
        expanded, mean, slope = expansion(code, eta, low, high)
        error = expanded + (rewards_n[n] - mean) / slope - eta
        weight = slope / dispersion_J[item]
        _condition(beta_JP[item], beta_covariance_JPP[item], z_P, weight, error, pull)
        if user >= 0:
            _condition(theta_ID[user], theta_covariance_IDD[user], h_D, weight, error, pull)
