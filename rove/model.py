"""The reward model of a release: what reward to expect of a user and an item, and how surely.

    r_ij(t) = item_gain * share_j(t) + taste_gain * phi_j . theta_i(t) + noise

`share_j` is the item mean (`rove.item_means`); `phi_j`, `theta_i` are those of
`rove.factorisation`. This is its first form: every term is a Gaussian effect that adds its mean and
its variance, so further terms (user mean, context) are further summands.

- A user without a past has the population's taste N(mu_0, S_0). After the first interaction every
  pair counts: all users share the covariance C = (G / sigma2 + S_0^-1)^-1, and a user's mean is
  idle + pull sum_r w_r phi_r, over the items r of the past with decayed rewards w_r.
- An item that was never interacted with when the release was learnt is `untrained`: its learned
  factors are what its text promises, A' f_j, with variance tau.

Shapes: J items, E embedding size, F text factors, K learned factors, D = F + K.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from rove.factorisation import Factorisation, TextFactors
from rove.ridge import Ridge

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFeatures:
    """What the model knows of n items, apart from how often they are chosen."""

    features_JD: Vectors
    """phi."""
    promise_J: Array
    """The share an item's text promises."""
    trained_J: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """The parameters; all learnt from data (`rove.learning`)."""

    item_gain: float
    taste_gain: float
    item_half_life_s: float
    taste_half_life_s: float
    pseudo_count: float
    noise_variance: float
    text_mean_E: Array
    text_components_EF: Array
    promise_weights_F: Array
    """log of the promised share on the text factors."""
    promise_intercept: float
    prior_map_FK: Array
    prior_variance_K: Array
    factor_variance_K: Array
    """Posterior variance of trained items' learned factors."""
    intercept_D: Array
    """sum_j b_j phi_j."""
    feature_gram_DD: Array
    """G."""
    taste_mean_D: Array
    taste_covariance_DD: Array

    @property
    def num_factors(self) -> int:
        """D."""
        return len(self.taste_mean_D)

    @property
    def embedding_size(self) -> int:
        """E."""
        return len(self.text_mean_E)

    @property
    def text(self) -> TextFactors:
        """From embeddings to text factors."""
        return TextFactors(mean_E=self.text_mean_E, components_EF=self.text_components_EF)

    def posterior(self) -> UserPosterior:
        """Return the part of every user's posterior that does not depend on the user."""
        return user_posterior(
            feature_gram_DD=self.feature_gram_DD,
            intercept_D=self.intercept_D,
            taste_mean_D=self.taste_mean_D,
            taste_covariance_DD=self.taste_covariance_DD,
            noise_variance=self.noise_variance,
        )

    def read(self, embeddings_nE: npt.NDArray[np.floating]) -> ItemFeatures:
        """Return what the text alone says of items with these embeddings."""
        factors_nF = self.text(embeddings_nE)
        promise = Ridge(
            weights_F=self.promise_weights_F, intercept=self.promise_intercept, noise_variance=0.0
        )
        return ItemFeatures(
            features_JD=np.hstack([factors_nF, factors_nF @ self.prior_map_FK]).astype(np.float32),
            promise_J=np.exp(promise(factors_nF)),
            trained_J=np.zeros(len(factors_nF), bool),
        )

    def tensors(self) -> dict[str, Array]:
        """Return every parameter as an array, by name."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Any]) -> RewardModel:
        """Undo `tensors`."""
        values: dict[str, Any] = {
            name: float(value) if np.ndim(value) == 0 else np.asarray(value)
            for name, value in tensors.items()
        }
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPosterior:
    """What all users' posteriors have in common; see the module's docstring."""

    prior_mean_D: Array
    prior_covariance_DD: Array
    idle_mean_D: Array
    """Mean of a user who was around and did nothing."""
    covariance_DD: Array
    """C."""
    pull_DD: Array
    """C / sigma2."""

    def means(self, pulls_BD: Array, has_past_B: npt.NDArray[np.bool_]) -> Array:
        """Return the taste means (B, D) from sum_r w_r phi_r of each user."""
        active_BD = self.idle_mean_D + pulls_BD @ self.pull_DD
        return np.where(has_past_B[:, None], active_BD, self.prior_mean_D)


def user_posterior(
    *,
    feature_gram_DD: Array,
    intercept_D: Array,
    taste_mean_D: Array,
    taste_covariance_DD: Array,
    noise_variance: float,
) -> UserPosterior:
    """Condition the population's taste on all items at once.

    C = (G / sigma2 + S_0^-1)^-1, idle = C (S_0^-1 mu_0 - sum_j b_j phi_j / sigma2): the posterior
    under rewards of zero; each reward w_r adds C phi_r w_r / sigma2.
    """
    prior_DD = np.linalg.inv(taste_covariance_DD)
    covariance = np.linalg.inv(feature_gram_DD / noise_variance + prior_DD)
    covariance = (covariance + covariance.T) / 2.0
    return UserPosterior(
        prior_mean_D=taste_mean_D,
        prior_covariance_DD=taste_covariance_DD,
        idle_mean_D=covariance @ (prior_DD @ taste_mean_D - intercept_D / noise_variance),
        covariance_DD=covariance,
        pull_DD=covariance / noise_variance,
    )


def trained_features(
    factorisation: Factorisation,
    model: RewardModel,
    embeddings_JE: npt.NDArray[np.floating],
    trained_J: npt.NDArray[np.bool_],
) -> ItemFeatures:
    """Return all items' features: the learned ones where there was something to learn from."""
    read = model.read(embeddings_JE)
    features_JD = read.features_JD
    features_JD[trained_J] = factorisation.features_JD.astype(np.float32)
    return ItemFeatures(features_JD=features_JD, promise_J=read.promise_J, trained_J=trained_J)
