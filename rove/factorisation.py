"""The language model's view of the items, and everybody's behaviour, as one Gaussian factorisation.

The reward of user i with item j is `y_ij = b_j + phi_j . theta_i + noise`, where

    phi_j   = [f_j, v_j]                what is known of the item
    f_j     = (e_j - mean) W            directions of its embedding e_j (`TextFactors`)
    v_j     ~ N(A' f_j, diag(tau))      learned factors; their prior mean is read from the text
    theta_i ~ N(mu_0, S_0)              the user's taste over both
    noise   ~ N(0, sigma2)

Every pair counts, the pairs without an interaction as zeros. `fit` alternates the exact Gaussian
posteriors of users and items (mean-field variational EM; Bishop 1999, "Variational principal
components"; Lim and Teh 2007) and re-estimates mu_0, S_0, A, tau, sigma2 from their moments, so no
strength of regularisation is set by hand: what the data do not support shrinks to nothing. Because
every pair is observed, all users share one posterior covariance, and so do all items: a sweep is a
few sparse-dense products, O(nnz D + (users + items) D^2), and what it needs of the users are sums
over them (`rove.user_blocks`), which several processes can share.

Shapes: I users, J items, E embedding size, F text factors, K learned factors, D = F + K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from rove.errors import DataError
from rove.user_blocks import BLOCK_USERS, Block, Spread, Taste, Work, add_up, cut, here

Array = npt.NDArray[np.float64]

_RELATIVE_TOLERANCE = 1e-4
_FLOOR = 1e-10
"""Smallest variance; keeps every inverse finite when a factor has shrunk to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFactors:
    """The map from an embedding to directions of it, together scaled to unit mean square."""

    mean_E: Array
    components_EF: Array

    def __call__(self, embeddings_JE: npt.NDArray[np.floating]) -> Array:
        """Return the text factors (J, F) of the embeddings (J, E)."""
        return (np.asarray(embeddings_JE, np.float64) - self.mean_E) @ self.components_EF


@dataclass(frozen=True, slots=True, kw_only=True)
class Factorisation:
    """What `fit` learns; see the module's docstring for the model."""

    features_JD: Array
    """phi: text factors beside the posterior means of the learned factors."""
    factor_covariance_KK: Array
    """Posterior covariance of every trained item's learned factors."""
    prior_map_FK: Array
    """A: the learned factors a text promises."""
    prior_variance_K: Array
    """tau: how far the learned factors stray from it."""
    intercept_J: Array
    """b."""
    taste_mean_D: Array
    """mu_0."""
    taste_covariance_DD: Array
    """S_0."""
    noise_variance: float
    """sigma2."""
    num_sweeps: int


def text_factors(embeddings_JE: npt.NDArray[np.floating], num_factors: int) -> TextFactors:
    """Return the map to the leading `num_factors` principal components of the embeddings."""
    embeddings = np.asarray(embeddings_JE, np.float64)
    mean_E = embeddings.mean(0)
    centred = embeddings - mean_E
    values, vectors_EE = np.linalg.eigh(centred.T @ centred)
    num_kept = min(num_factors, int(np.sum(values > values[-1] * 1e-9)))
    components_EF = vectors_EE[:, ::-1][:, :num_kept]
    return _unit(mean_E, components_EF, centred @ components_EF)


def led_by_taste(
    text: TextFactors, text_JF: Array, fitted: Factorisation, num_factors: int
) -> TextFactors:
    """Return the map to those directions of the text that users differ in most.

    A user's taste over the text has the second moment M = S_0 + mu_0 mu_0'. With G the items' Gram
    matrix, the leading eigenvectors of G^1/2 M G^1/2 keep the largest share of what f_j . theta_i
    varies by (Eckart and Young 1936). `fitted` is a fit to `text_JF`, the items by `text`; in the
    new factors M is the identity, up to the scale.
    """
    width = text_JF.shape[1]
    mean_F, covariance_FF = fitted.taste_mean_D[:width], fitted.taste_covariance_DD[:width, :width]
    sizes_F, axes_FF = np.linalg.eigh(text_JF.T @ text_JF)
    sizes_F = np.sqrt(np.maximum(sizes_F, _FLOOR))
    half_FF = (axes_FF * sizes_F) @ axes_FF.T
    moment_FF = covariance_FF + np.outer(mean_F, mean_F)
    shares_F, directions_FF = np.linalg.eigh(half_FF @ moment_FF @ half_FF)
    leading = slice(None, -num_factors - 1, -1)
    scaled_FN = directions_FF[:, leading] * np.sqrt(np.maximum(shares_F[leading], 0.0))
    rotated_FN = (axes_FF / sizes_F) @ (axes_FF.T @ scaled_FN)
    return _unit(text.mean_E, text.components_EF @ rotated_FN, text_JF @ rotated_FN)


def _unit(mean_E: Array, components_EF: Array, factors_JF: Array) -> TextFactors:
    """Fix what eigenvectors leave open, so that equal input gives equal output: sign and scale."""
    if components_EF.shape[1]:
        largest_F = np.abs(components_EF).argmax(0)
        signs_F = np.sign(components_EF[largest_F, np.arange(components_EF.shape[1])])
        components_EF = components_EF * (signs_F / np.sqrt(np.square(factors_JF).sum(1).mean()))
    return TextFactors(mean_E=mean_E, components_EF=components_EF)


def fit(
    targets_IJ: sparse.csr_array,
    text_JF: Array,
    *,
    num_learned_factors: int,
    max_sweeps: int,
    rng: np.random.Generator,
    spread: Spread = here,
    block_users: int = BLOCK_USERS,
) -> Factorisation:
    """Fit the factorisation to `targets_IJ` (reward of each pair, zero where nothing happened).

    `text_JF` are the items' text factors. `spread` says who computes the sums over users; it
    changes no bit of the result. Another size of blocks rounds differently.
    """
    if targets_IJ.shape[0] == 0 or targets_IJ.nnz == 0:
        raise DataError("there is no positive interaction to learn from; see the read report")
    if not np.isfinite(targets_IJ.data).all():
        raise DataError("a reward is not a finite number; check the reward rules")
    blocks = list(cut(targets_IJ, block_users))
    sweep = _Sweep(targets_IJ, text_JF, num_learned_factors, rng, spread(blocks), blocks)
    noise = np.inf
    num_sweeps = 0
    while num_sweeps < max_sweeps:
        num_sweeps += 1
        sweep.users()
        sweep.items()
        sweep.hyperparameters()
        if abs(noise - sweep.noise) < _RELATIVE_TOLERANCE * sweep.noise:
            break
        noise = sweep.noise
    return Factorisation(
        features_JD=sweep.features,
        factor_covariance_KK=sweep.factor_covariance,
        prior_map_FK=sweep.prior_map,
        prior_variance_K=sweep.prior_variance,
        intercept_J=sweep.intercept,
        taste_mean_D=sweep.taste_mean,
        taste_covariance_DD=sweep.taste_covariance,
        noise_variance=sweep.noise,
        num_sweeps=num_sweeps,
    )


class _Sweep:
    """The moving parts of `fit`: one method per half-step, each an exact update of its block."""

    def __init__(
        self,
        targets_IJ: sparse.csr_array,
        text_JF: Array,
        num_learned_factors: int,
        rng: np.random.Generator,
        work: Work,
        blocks: Sequence[Block],
    ) -> None:
        self.work, self.blocks = work, blocks
        self.num_users, self.num_items = targets_IJ.shape
        self.num_text = text_JF.shape[1]
        self.text_gram_FF = text_JF.T @ text_JF
        width, start = (
            self.num_text + num_learned_factors,
            0.1 / np.sqrt(max(num_learned_factors, 1)),
        )
        learned_JK = rng.normal(0.0, start, (self.num_items, num_learned_factors))
        self.features = np.hstack([text_JF, learned_JK])
        self.factor_covariance = np.eye(num_learned_factors) * start**2
        self.prior_map = np.zeros((self.num_text, num_learned_factors))
        self.prior_variance = np.full(num_learned_factors, start**2)
        self.map_variance = np.full(num_learned_factors, start**2)
        self.taste_mean = np.zeros(width)
        self.taste_covariance = np.eye(width)
        self.rewards_J = np.asarray(targets_IJ.sum(0))
        self.intercept = self.rewards_J / self.num_users
        self.sum_of_squares = float(np.square(targets_IJ.data).sum())
        around = self.sum_of_squares - self.num_users * float(self.intercept @ self.intercept)
        self.noise = max(around / (self.num_users * self.num_items), _FLOOR)

    def _feature_gram(self) -> Array:
        gram_DD = self.features.T @ self.features
        gram_DD[self.num_text :, self.num_text :] += self.num_items * self.factor_covariance
        return gram_DD

    def users(self) -> None:
        """theta_i: precision G / sigma2 + S_0^-1, the same for every user; mean y_i phi P + c.

        P = C / sigma2 and c = (S_0^-1 mu_0 - b phi / sigma2) C, with C the covariance. Of the means
        only sums over users are kept: everything else here is a function of them.
        """
        prior_DD = np.linalg.inv(self.taste_covariance)
        covariance_DD = np.linalg.inv(self._feature_gram() / self.noise + prior_DD)
        expected_D = self.intercept @ self.features / self.noise
        taste = Taste(
            features_JD=self.features,
            pull_DD=covariance_DD / self.noise,
            idle_D=(prior_DD @ self.taste_mean - expected_D) @ covariance_DD,
        )
        sums = add_up(self.blocks, self.work(taste), self.num_items)
        self.user_sum, self.rewarded_users_JD = sums.users_D, sums.rewards_ND
        self.user_gram = sums.gram_DD + self.num_users * covariance_DD

    def items(self) -> None:
        """v_j: precision sum_i E[u u'] / sigma2 + tau^-1, the same for every item."""
        text, learned = slice(0, self.num_text), slice(self.num_text, None)
        precision_KK = self.user_gram[learned, learned] / self.noise + np.diag(
            1.0 / self.prior_variance
        )
        self.factor_covariance = np.linalg.inv(precision_KK)
        text_JF = self.features[:, text]
        residual_JK = self.rewarded_users_JD[:, learned] - np.outer(
            self.intercept, self.user_sum[learned]
        )
        residual_JK -= text_JF @ self.user_gram[text, learned]
        promised_JK = text_JF @ self.prior_map
        self.features[:, learned] = (
            residual_JK / self.noise + promised_JK / self.prior_variance
        ) @ self.factor_covariance

    def hyperparameters(self) -> None:
        """mu_0, S_0, A, tau, b and sigma2 from the posterior moments."""
        self.taste_mean = self.user_sum / self.num_users
        self.taste_covariance = self.user_gram / self.num_users - np.outer(
            self.taste_mean, self.taste_mean
        )
        self._text_map()
        fitted_J = self.features @ self.user_sum
        self.intercept = (self.rewards_J - fitted_J) / self.num_users
        # sum_ij y_ij theta_i . phi_j
        cross = float(np.vdot(self.rewarded_users_JD, self.features))
        intercept = self.intercept
        squares = (
            self.sum_of_squares
            - 2.0 * (float(self.rewards_J @ intercept) + cross)
            + self.num_users * float(intercept @ intercept)
            + 2.0 * float(intercept @ fitted_J)
            + float(np.vdot(self.user_gram, self._feature_gram()))
        )
        self.noise = max(squares / (self.num_users * self.num_items), _FLOOR)

    def _text_map(self) -> None:
        """A and tau: one Bayesian ridge regression of each learned factor on the text factors.

        The ridge's own strength comes from its evidence (MacKay 1992): alpha = E[|a|^2] / F.
        """
        text_JF, learned_JK = self.features[:, : self.num_text], self.features[:, self.num_text :]
        values_F, vectors_FF = np.linalg.eigh(self.text_gram_FF)
        rotated_FK = vectors_FF.T @ (text_JF.T @ learned_JK)
        ridge_K = self.prior_variance / np.maximum(self.map_variance, _FLOOR)
        shrunk_FK = 1.0 / (values_F[:, None] + ridge_K)
        self.prior_map = vectors_FF @ (rotated_FK * shrunk_FK)
        if self.num_text:
            uncertainty_K = self.prior_variance * shrunk_FK.sum(0)
            self.map_variance = (np.square(self.prior_map).sum(0) + uncertainty_K) / self.num_text
        strayed_JK = learned_JK - text_JF @ self.prior_map
        self.prior_variance = np.maximum(
            np.square(strayed_JK).mean(0) + np.diag(self.factor_covariance), _FLOOR
        )
