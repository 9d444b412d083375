"""The factorisation: one sweep by hand, planted worlds recovered, unsupported factors shrunk."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from rove.errors import DataError
from rove.factorisation import Factorisation, fit, led_by_taste, text_factors

Array = npt.NDArray[np.float64]


def fitted(
    targets_IJ: Array, text_JF: Array, learned: int = 0, sweeps: int = 30, seed: int = 0
) -> Factorisation:
    return fit(
        sparse.csr_array(targets_IJ),
        text_JF,
        num_learned_factors=learned,
        max_sweeps=sweeps,
        rng=np.random.default_rng(seed),
    )


def scores(found: Factorisation, targets_IJ: Array) -> Array:
    """Return every user's expected rewards, by the exact posterior given all the user's pairs."""
    features_JD = found.features_JD
    gram_DD = features_JD.T @ features_JD
    learned = slice(gram_DD.shape[0] - len(found.factor_covariance_KK), None)
    gram_DD[learned, learned] += len(features_JD) * found.factor_covariance_KK
    prior_DD = np.linalg.inv(found.taste_covariance_DD)
    pulls_ID = (targets_IJ - found.intercept_J) @ features_JD / found.noise_variance
    covariance_DD = np.linalg.inv(gram_DD / found.noise_variance + prior_DD)
    taste_ID = (pulls_ID + prior_DD @ found.taste_mean_D) @ covariance_DD
    return np.asarray(found.intercept_J + taste_ID @ features_JD.T)


def planted(
    num_users: int, num_items: int, rank: int, noise: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return noisy and true rewards, (users, items), of random tastes over random factors."""
    true_IJ = rng.normal(size=(num_users, rank)) @ rng.normal(size=(rank, num_items)) / rank**0.5
    true_IJ += rng.normal(size=num_items)
    return true_IJ + noise * rng.normal(size=true_IJ.shape), true_IJ


def test_one_sweep_of_two_users_and_two_items_by_hand() -> None:
    """f = (1, -1), y = [[1, 0], [0, 1]], b = column means = (1/2, 1/2).

    Start: sigma2 = mean square around b = 1/4, mu_0 = 0, S_0 = 1. Users: G = 1 + 1 = 2,
    C = 1 / (2 / (1/4) + 1) = 1/9, theta_1 = C (1/2 + 1/2) / (1/4) = 4/9, theta_2 = -4/9.
    Then mu_0 = 0, S_0 = 16/81 + 1/9 = 25/81. A residual is 1/2 - 4/9 = 1/18 in each of 4 cells,
    and each user adds G C = 2/9: sigma2 = (4 (1/18)^2 + 2 (2/9)) / 4 = (1/81 + 36/81) / 4 = 37/324.
    """
    found = fitted(np.eye(2), np.array([[1.0], [-1.0]]), sweeps=1)
    assert found.intercept_J == pytest.approx([0.5, 0.5])
    assert found.taste_mean_D == pytest.approx([0.0])
    assert found.taste_covariance_DD == pytest.approx(np.array([[25 / 81]]))
    assert found.noise_variance == pytest.approx(37 / 324)
    assert found.num_sweeps == 1


def test_a_planted_model_is_recovered_better_than_by_item_means() -> None:
    """Truth has 3 factors of variance 1/3 each: item means leave about 1 of squared error."""
    noisy_IJ, true_IJ = planted(200, 80, 3, 0.5, np.random.default_rng(0))
    found = fitted(noisy_IJ, np.zeros((80, 0)), learned=6)
    error = np.square(scores(found, noisy_IJ) - true_IJ).mean()
    of_means = np.square(noisy_IJ.mean(0) - true_IJ).mean()
    assert of_means > 0.5
    assert error < 0.1 * of_means


def test_equal_seeds_give_equal_results() -> None:
    noisy_IJ, _ = planted(30, 20, 2, 0.5, np.random.default_rng(1))
    text_JF = np.random.default_rng(2).normal(size=(20, 3))
    first, second = (fitted(noisy_IJ, text_JF, 4, 5, seed=7) for _ in range(2))
    assert np.array_equal(first.features_JD, second.features_JD)
    assert np.array_equal(first.taste_covariance_DD, second.taste_covariance_DD)
    assert not np.array_equal(first.features_JD, fitted(noisy_IJ, text_JF, 4, 5, 8).features_JD)


def test_noise_decreases_to_the_planted_one() -> None:
    """Noise of deviation 0.5: variance 0.25."""
    noisy_IJ, _ = planted(150, 80, 3, 0.5, np.random.default_rng(3))
    noise = [
        fitted(noisy_IJ, np.zeros((80, 0)), 3, sweeps).noise_variance for sweeps in (1, 3, 10, 60)
    ]
    assert noise == sorted(noise, reverse=True)
    assert noise[0] > 0.4
    assert noise[-1] == pytest.approx(0.25, rel=0.1)


def test_factors_without_support_shrink_to_nothing() -> None:
    """Two factors are planted, eight offered: what is left beyond two is next to nothing."""
    noisy_IJ, _ = planted(200, 80, 2, 0.3, np.random.default_rng(4))
    found = fitted(noisy_IJ, np.zeros((80, 0)), learned=8, sweeps=200)
    strength = np.linalg.eigvalsh(
        found.features_JD @ found.taste_covariance_DD @ found.features_JD.T
    )[::-1]
    assert strength[2:].sum() < 0.02 * strength[:2].sum()


def test_the_map_from_text_to_factors_is_recovered() -> None:
    """v_j = A' f_j exactly, so what the text promises explains nearly all of what is learnt."""
    rng = np.random.default_rng(5)
    text_JF = rng.normal(size=(100, 4))
    hidden_JK = text_JF @ rng.normal(size=(4, 2))
    noisy_IJ = rng.normal(size=(300, 2)) @ hidden_JK.T + 0.3 * rng.normal(size=(300, 100))
    found = fit(
        sparse.csr_array(noisy_IJ),
        np.hstack([text_JF, np.zeros((100, 0))]),
        num_learned_factors=2,
        max_sweeps=60,
        rng=rng,
    )
    features_JD = np.hstack([text_JF, text_JF @ found.prior_map_FK])
    promised_JJ = features_JD @ found.taste_covariance_DD @ features_JD.T
    true_JJ = hidden_JK @ hidden_JK.T
    assert np.linalg.norm(promised_JJ - true_JJ) < 0.15 * np.linalg.norm(true_JJ)


def test_text_factors_are_the_leading_components_at_unit_mean_square() -> None:
    """Points (3, 0), (-3, 0), (0, 1), (0, -1): the first axis leads; 18 / 4 = 4.5 scales it."""
    points = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    factors_JF = text_factors(points, 1)(points)
    assert factors_JF[:, 0] == pytest.approx(np.array([3, -3, 0, 0]) / 4.5**0.5)
    assert np.square(text_factors(points, 2)(points)).sum(1).mean() == pytest.approx(1.0)


def test_text_factors_need_no_more_directions_than_there_are() -> None:
    embeddings = np.random.default_rng(6).normal(size=(3, 8))
    assert text_factors(embeddings, 32)(embeddings).shape == (3, 2)
    assert text_factors(embeddings[:1], 32)(embeddings[:1]).shape == (1, 0)


def test_the_directions_kept_are_those_that_users_differ_in() -> None:
    """Items (3, 0), (-3, 0), (0, 1), (0, -1): the first axis is nine times the second in variance.

    Tastes of variance .1 and 1.8 along them, in units of the items: 9 * .1 < 1 * 1.8, so one
    direction is the second axis, scaled to a unit mean square: (0, 1) becomes sqrt(2).
    """
    points = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    wide = text_factors(points, 2)
    found = replace(
        fitted(np.ones((1, 4)), wide(points)),
        taste_mean_D=np.zeros(2),
        taste_covariance_DD=np.diag([0.1, 1.8]),
    )
    led = led_by_taste(wide, wide(points), found, 1)
    assert led(points)[:, 0] == pytest.approx([0.0, 0.0, 2**0.5, -(2**0.5)])


def test_a_population_of_one_mind_has_a_direction_too() -> None:
    """Nobody differs (S_0 = 0), but all like the first axis: it is what is kept."""
    points = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    wide = text_factors(points, 2)
    found = replace(
        fitted(np.ones((1, 4)), wide(points)),
        taste_mean_D=np.array([1.0, 0.0]),
        taste_covariance_DD=np.zeros((2, 2)),
    )
    led = led_by_taste(wide, wide(points), found, 1)
    assert led(points)[:, 0] == pytest.approx([2**0.5, -(2**0.5), 0.0, 0.0])


def test_all_directions_together_rank_as_they_did() -> None:
    """f M f' is the same in all rotated factors, up to their scale."""
    rng = np.random.default_rng(7)
    embeddings = rng.normal(size=(30, 5)) * np.array([3.0, 2.0, 1.0, 0.5, 0.2])
    wide = text_factors(embeddings, 5)
    taste_FF = np.cov(rng.normal(size=(5, 9)))
    found = replace(
        fitted(np.ones((1, 30)), wide(embeddings)),
        taste_mean_D=np.zeros(5),
        taste_covariance_DD=taste_FF,
    )
    led_JF = led_by_taste(wide, wide(embeddings), found, 5)(embeddings)
    before_JJ = wide(embeddings) @ taste_FF @ wide(embeddings).T
    after_JJ = led_JF @ led_JF.T
    np.testing.assert_allclose(
        after_JJ / np.trace(after_JJ), before_JJ / np.trace(before_JJ), atol=1e-9
    )


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("no positive interaction to learn from")):
        fitted(np.zeros((2, 2)), np.zeros((2, 0)))


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("a reward is not a finite number")):
        fitted(np.array([[np.nan, 1.0]]), np.zeros((2, 0)))
