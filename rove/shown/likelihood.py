"""The expanded likelihood of trials, and a user's posterior under it.

Shapes: n trials of one user or of many; C = 1 + Q, H = 1 + F, K factors, P = C + K, D = H + K.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.mixed.links import Kind, expectation, within_reach

Array = npt.NDArray[np.float64]

_STEPS = 3
"""Newton steps from the population's mean; each is exact for rewards on the identity link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What n trials have of their items and contexts."""

    context_nC: Array
    """[1, c]."""
    text_nH: Array
    """[1, f_j]."""
    beta_nP: Array
    """The items' mean effects."""
    dispersion_n: Array
    known_n: Array
    """What the pair's past says (`rove.mixed.past`)."""

    @property
    def fixed_n(self) -> Array:
        """The part of the predictor without the user's effects."""
        width = self.context_nC.shape[1]
        fixed_n = np.einsum("nc,nc->n", self.context_nC, self.beta_nP[:, :width])
        return np.asarray(fixed_n + self.known_n)

    @property
    def user_nD(self) -> Array:
        """What a user's effects are multiplied with."""
        return np.hstack([self.text_nH, self.beta_nP[:, self.context_nC.shape[1] :]])

    def item_nP(self, theta_nD: Array) -> Array:
        """Return what the items' effects are multiplied with."""
        return np.hstack([self.context_nC, theta_nD[:, self.text_nH.shape[1] :]])


def expanded(
    kind: Kind, eta_n: Array, centre: float, reward_n: Array, dispersion_n: Array
) -> tuple[Array, Array]:
    """Return weight and error of the Gaussian trials: response = eta + error (`rove.mixed.links`).

    Where the likelihood is expanded out of reach, the error is that of where it is expanded.
    """
    at_n = within_reach(kind, eta_n, centre)
    mean_n, slope_n = expectation(kind, at_n)
    return slope_n / dispersion_n, at_n - eta_n + (reward_n - mean_n) / slope_n


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPosterior:
    """Mean and covariance of one user's effects, and what each trial gave to the mean."""

    mean_D: Array
    covariance_DD: Array
    term_nD: Array


def user_posterior(
    features: Features,
    reward_n: Array,
    share_n: Array,
    population_DD: Array,
    kind: Kind,
    centre: float,
) -> UserPosterior:
    """Return the posterior given one user's trials, the items' effects taken as known.

    `share_n`: what each trial weighs, 1 unless it is being forgotten.

    C = (T^-1 + H' W H)^-1, mean = C H' W y with responses y; T is the population's covariance.
    """
    h_nD, fixed_n = features.user_nD, features.fixed_n
    mean_D, covariance_DD = np.zeros(len(population_DD)), population_DD
    term_nD = np.zeros_like(h_nD)
    for _ in range(_STEPS if len(reward_n) else 0):
        eta_n = fixed_n + h_nD @ mean_D
        weight_n, error_n = expanded(kind, eta_n, centre, reward_n, features.dispersion_n)
        scaled_nD = h_nD * (share_n * weight_n)[:, None]
        grown_DD = np.eye(len(population_DD)) + population_DD @ (scaled_nD.T @ h_nD)
        solved_DD = np.asarray(np.linalg.solve(grown_DD, population_DD), np.float64)
        covariance_DD = (solved_DD + solved_DD.T) / 2.0
        response_n = eta_n + error_n - fixed_n
        term_nD = (scaled_nD * response_n[:, None]) @ covariance_DD
        mean_D = term_nD.sum(0)
    return UserPosterior(mean_D=mean_D, covariance_DD=covariance_DD, term_nD=term_nD)
