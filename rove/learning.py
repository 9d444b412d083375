"""From behaviour and embeddings to a reward model: what `training.factorise` and `refit` run.

    rove.behaviour      the interactions in columns
    rove.factorisation  features of items, taste of the population, noise
    rove.item_means     how often each item is chosen
    rove.calibration    half-lives and gains, from the last part of the behaviour

The model is calibrated on the last part of the behaviour with a fit to the part before, and then
fitted to all of it with the half-lives and gains that were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse
from threadpoolctl import threadpool_limits

from rove.behaviour import Behaviour
from rove.calibration import (
    DAY_S,
    NUM_VISITS,
    HeldOut,
    ItemMeanFit,
    Taste,
    TasteFit,
    fit_item_means,
    fit_taste,
)
from rove.config import TrainingSection
from rove.errors import DataError
from rove.factorisation import Factorisation, TextFactors, fit, led_by_taste, text_factors
from rove.item_means import ItemMeans
from rove.model import ItemFeatures, RewardModel, trained_features, user_posterior
from rove.ridge import Ridge, evidence_ridge
from rove.user_blocks import Spread, here
from rove.visits import item_means_of

Array = npt.NDArray[np.float64]

CALIBRATION_SHARE = 0.15
TASTE_HALF_LIVES_S = tuple(DAY_S * days for days in (14, 28, 56, 112, 224, 448))
LEARNED_FACTORS = (16, 64)
"""Tried where `training.learned_factors` is not set."""
BREADTH = 3
"""Among so many times more components of the text those directions are found that matter."""
_HALF_A_REWARD = 0.5
_DEFAULT_PRIOR_VARIANCE = 1e-2
"""Only of a release without any behaviour: taste is then worth a tenth of a reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A reward model with its items, and how it came out."""

    model: RewardModel
    items: ItemFeatures
    sums_J: Array
    """Decayed sums of rewards at `as_of_s`."""
    as_of_s: float
    num_sweeps: int
    calibration: dict[str, float]

    def item_means(self) -> ItemMeans:
        """Return the item means as of `as_of_s`."""
        return ItemMeans(
            sums_J=self.sums_J,
            promise_J=self.items.promise_J,
            as_of_s=self.as_of_s,
            half_life_s=self.model.item_half_life_s,
            pseudo_count=self.model.pseudo_count,
        )


def learn(
    behaviour: Behaviour,
    embeddings_JE: npt.NDArray[np.floating],
    config: TrainingSection,
    *,
    calibrated: RewardModel | None = None,
    text: TextFactors | None = None,
    spread: Spread = here,
) -> Learned:
    """Learn the reward model of a catalogue (embeddings, one row an item) from the behaviour.

    With `calibrated`, its half-lives, gains and number of learned factors are kept, and only the
    rest is learnt anew; with `text`, also which directions of the text tastes are over. `spread`
    says who works on the users (`rove.user_blocks`); it changes no bit of the result.
    """
    if len(embeddings_JE) == 0:
        raise DataError("the catalogue is empty; add items before learning a release")
    # The matrices are slim: more BLAS threads make them no faster on an idle machine (and five
    # times slower on a busy one); the candidates of the calibration run in parallel instead.
    with threadpool_limits(1, user_api="blas"):
        return _learn(behaviour, embeddings_JE, config, calibrated, text, spread)


def _learn(
    behaviour: Behaviour,
    embeddings_JE: npt.NDArray[np.floating],
    config: TrainingSection,
    calibrated: RewardModel | None,
    text: TextFactors | None,
    spread: Spread,
) -> Learned:
    if len(behaviour) == 0:
        text = text_factors(embeddings_JE, config.text_factors)
        return _without_behaviour(text, text(embeddings_JE), embeddings_JE)
    fits = _Fits(embeddings_JE=embeddings_JE, config=config, spread=spread)
    chosen = _calibrate(behaviour, fits, text) if calibrated is None else _kept(calibrated)
    means, taste, num_learned = chosen.means, chosen.taste, chosen.num_learned
    text = fits.text(behaviour, num_learned) if text is None else text
    text_JF = text(embeddings_JE)
    factorisation, trained_J = fits.fit(behaviour, text_JF, taste.half_life_s, num_learned)
    model = _model(factorisation, text, _promise(behaviour, text_JF), means, taste)
    items = trained_features(factorisation, model, embeddings_JE, trained_J)
    after = item_means_of(behaviour, items.promise_J, means.half_life_s, means.pseudo_count)
    return Learned(
        model=model,
        items=items,
        sums_J=after.sums_J,
        as_of_s=after.latest_s,
        num_sweeps=factorisation.num_sweeps,
        calibration=chosen.evidence,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What a part of the behaviour that was held out says is best."""

    means: ItemMeanFit
    taste: TasteFit
    num_learned: int
    """K."""
    evidence: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fits:
    """Fits of the factorisation to one catalogue."""

    embeddings_JE: npt.NDArray[np.floating]
    config: TrainingSection
    spread: Spread

    def text(self, behaviour: Behaviour, num_learned: int) -> TextFactors:
        """Return the directions of the text that users differ in, found among more of them."""
        wide = text_factors(self.embeddings_JE, BREADTH * self.config.text_factors)
        if wide.components_EF.shape[1] <= self.config.text_factors:
            return wide
        wide_JF = wide(self.embeddings_JE)
        fitted, _ = self.fit(behaviour, wide_JF, TASTE_HALF_LIVES_S[-1], num_learned)
        return led_by_taste(wide, wide_JF, fitted, self.config.text_factors)

    def fit(
        self, behaviour: Behaviour, text_JF: Array, half_life_s: float, num_learned: int
    ) -> tuple[Factorisation, npt.NDArray[np.bool_]]:
        """Fit to the items that were chosen at all; return the fit and which those are."""
        targets = behaviour.targets(float(behaviour.timestamps[-1]), half_life_s)
        trained_J = np.zeros(len(text_JF), bool)
        trained_J[np.unique(behaviour.items)] = True
        active = np.unique(behaviour.users)
        factorisation = fit(
            sparse.csr_array(targets[active][:, np.flatnonzero(trained_J)]),
            text_JF[trained_J],
            num_learned_factors=num_learned,
            max_sweeps=self.config.max_sweeps,
            rng=np.random.default_rng(self.config.seed),
            spread=self.spread,
        )
        return factorisation, trained_J

    def taste(
        self, behaviour: Behaviour, text_JF: Array, half_life_s: float, num_learned: int
    ) -> tuple[float, Taste]:
        """Return a half-life with a function that fits and scores all items for given pasts."""

        def taste(weights_BJ: sparse.csr_array, has_past_B: npt.NDArray[np.bool_]) -> Array:
            factorisation, trained_J = self.fit(behaviour, text_JF, half_life_s, num_learned)
            features_JD = np.hstack([text_JF, text_JF @ factorisation.prior_map_FK])
            features_JD[trained_J] = factorisation.features_JD
            posterior = user_posterior(
                feature_gram_DD=_feature_gram(factorisation),
                intercept_D=factorisation.intercept_J @ factorisation.features_JD,
                taste_mean_D=factorisation.taste_mean_D,
                taste_covariance_DD=factorisation.taste_covariance_DD,
                noise_variance=factorisation.noise_variance,
            )
            return posterior.means(weights_BJ @ features_JD, has_past_B) @ features_JD.T

        return half_life_s, taste


def _calibrate(behaviour: Behaviour, fits: _Fits, text: TextFactors | None) -> _Chosen:
    """Read half-lives, gains and the number of factors off the last part of the behaviour.

    The half-life is chosen with the fewest factors, their number with that half-life.
    """
    past, future = behaviour.split(CALIBRATION_SHARE)
    if len(past) == 0:
        past = future
    given = fits.config.learned_factors
    fewest, *more = LEARNED_FACTORS if given is None else (given,)
    text_JF = (text or fits.text(past, fewest))(fits.embeddings_JE)
    promise_J = np.exp(_promise(past, text_JF)(text_JF))
    means = fit_item_means(past, future, promise_J)
    rng = np.random.default_rng(fits.config.seed)
    held_out = HeldOut.of(past, future, promise_J, means, rng)
    taste = fit_taste(
        held_out, [fits.taste(past, text_JF, time_s, fewest) for time_s in TASTE_HALF_LIVES_S]
    )
    num_learned = fewest
    for number in more:
        other = fit_taste(held_out, [fits.taste(past, text_JF, taste.half_life_s, number)])
        if other.ndcg > taste.ndcg:
            taste, num_learned = other, number
    evidence = {
        NUM_VISITS: float(len(held_out.visits)),
        "calibration_ndcg_at_10": taste.ndcg,
        "calibration_log_likelihood": means.log_likelihood,
    }
    return _Chosen(means=means, taste=taste, num_learned=num_learned, evidence=evidence)


def _kept(calibrated: RewardModel) -> _Chosen:
    """Return what a model was given; it has no new evidence for it."""
    means = ItemMeanFit(
        half_life_s=calibrated.item_half_life_s,
        pseudo_count=calibrated.pseudo_count,
        log_likelihood=float("nan"),
    )
    taste = TasteFit(
        half_life_s=calibrated.taste_half_life_s,
        item_gain=calibrated.item_gain,
        taste_gain=calibrated.taste_gain,
        ndcg=float("nan"),
    )
    num_learned = calibrated.prior_map_FK.shape[1]
    return _Chosen(means=means, taste=taste, num_learned=num_learned, evidence={})


def _feature_gram(factorisation: Factorisation) -> Array:
    """G = sum_j E[phi_j phi_j'] over the trained items."""
    features_JD = factorisation.features_JD
    covariance_KK = factorisation.factor_covariance_KK
    gram_DD = features_JD.T @ features_JD
    learned = slice(features_JD.shape[1] - len(covariance_KK), None)
    gram_DD[learned, learned] += len(features_JD) * covariance_KK
    return gram_DD


def _promise(behaviour: Behaviour, text_JF: Array) -> Ridge:
    """Learn what share of all rewards a text promises: log share on text factors.

    The predictions sum to one over the catalogue.
    """
    rewards_J = np.bincount(behaviour.items, behaviour.rewards, minlength=len(text_JF))
    ridge = evidence_ridge(text_JF, np.log(rewards_J + _HALF_A_REWARD))
    total = float(np.exp(ridge(text_JF)).sum())
    return replace(ridge, intercept=ridge.intercept - float(np.log(total)))


def _model(
    factorisation: Factorisation,
    text: TextFactors,
    promise: Ridge,
    means: ItemMeanFit,
    taste: TasteFit,
) -> RewardModel:
    return RewardModel(
        item_gain=taste.item_gain,
        taste_gain=taste.taste_gain,
        item_half_life_s=means.half_life_s,
        taste_half_life_s=taste.half_life_s,
        pseudo_count=means.pseudo_count,
        noise_variance=factorisation.noise_variance,
        text_mean_E=text.mean_E,
        text_components_EF=text.components_EF,
        promise_weights_F=promise.weights_F,
        promise_intercept=promise.intercept,
        prior_map_FK=factorisation.prior_map_FK,
        prior_variance_K=factorisation.prior_variance_K,
        factor_variance_K=np.diag(factorisation.factor_covariance_KK).copy(),
        intercept_D=factorisation.intercept_J @ factorisation.features_JD,
        feature_gram_DD=_feature_gram(factorisation),
        taste_mean_D=factorisation.taste_mean_D,
        taste_covariance_DD=factorisation.taste_covariance_DD,
    )


def _without_behaviour(
    text: TextFactors, text_JF: Array, embeddings_JE: npt.NDArray[np.floating]
) -> Learned:
    """Return the release of a catalogue that nothing has happened to: only the texts speak."""
    num_items, num_factors = text_JF.shape
    model = RewardModel(
        item_gain=1.0,
        taste_gain=1.0,
        item_half_life_s=28 * DAY_S,
        taste_half_life_s=112 * DAY_S,
        pseudo_count=float(num_items),
        noise_variance=_DEFAULT_PRIOR_VARIANCE,
        text_mean_E=text.mean_E,
        text_components_EF=text.components_EF,
        promise_weights_F=np.zeros(num_factors),
        promise_intercept=-float(np.log(num_items)),
        prior_map_FK=np.zeros((num_factors, 0)),
        prior_variance_K=np.zeros(0),
        factor_variance_K=np.zeros(0),
        intercept_D=np.zeros(num_factors),
        feature_gram_DD=text_JF.T @ text_JF,
        taste_mean_D=np.zeros(num_factors),
        taste_covariance_DD=np.eye(num_factors) * _DEFAULT_PRIOR_VARIANCE,
    )
    return Learned(
        model=model,
        items=model.read(embeddings_JE),
        sums_J=np.zeros(num_items),
        as_of_s=0.0,
        num_sweeps=0,
        calibration={},
    )
