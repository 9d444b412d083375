"""Items and users moved by one trial after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from rove.mixed.links import CODE, Kind
from rove.mixed.updating import Array, learn


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Items with C fixed effects and K factors, users with a mean, F tastes and K factors."""

    beta_JP: Array
    beta_covariance_JPP: npt.NDArray[np.float32]
    theta_ID: npt.NDArray[np.float32]
    theta_covariance_IDD: npt.NDArray[np.float32]
    taste_JF: Array

    @classmethod
    def standard(
        cls,
        num_items: int,
        width: int,
        num_users: int = 1,
        taste_JF: Array | None = None,
        k: int = 0,
    ) -> Effects:
        taste_JF = np.zeros((num_items, 0)) if taste_JF is None else taste_JF
        size, own = width + k, 1 + taste_JF.shape[1] + k
        return cls(
            beta_JP=np.zeros((num_items, size)),
            beta_covariance_JPP=np.tile(np.eye(size, dtype=np.float32), (num_items, 1, 1)),
            theta_ID=np.zeros((num_users, own), np.float32),
            theta_covariance_IDD=np.tile(np.eye(own, dtype=np.float32), (num_users, 1, 1)),
            taste_JF=taste_JF,
        )

    def learn(
        self,
        users: npt.ArrayLike,
        items: npt.ArrayLike,
        rewards: npt.ArrayLike,
        z_nC: Array,
        *,
        kind: Kind = "identity",
        weight: float = 1.0,
    ) -> None:
        learn(
            self.beta_JP,
            self.beta_covariance_JPP,
            self.theta_ID,
            self.theta_covariance_IDD,
            np.asarray(users, np.int64),
            np.asarray(items, np.int64),
            np.asarray(rewards, np.float64),
            z_nC,
            self.taste_JF,
            np.zeros(len(z_nC)),
            np.full(len(self.beta_JP), 1.0 / weight),
            CODE[kind],
            -4.0,
            4.0,
        )


def test_two_trials_of_one_effect_add_their_precisions() -> None:
    """N(0, 1), y = 3 and 5 with precision 1: precision 3, mean (3 + 5) / 3."""
    effects = Effects.standard(2, 1)
    effects.learn([-1, -1], [1, 1], [3.0, 5.0], np.ones((2, 1)))
    assert effects.beta_JP.ravel() == pytest.approx([0.0, 8.0 / 3.0])
    assert effects.beta_covariance_JPP.ravel() == pytest.approx([1.0, 1.0 / 3.0])


def test_one_trial_of_two_effects() -> None:
    """N(0, I), z = (1, 2), w = 1, y = 6: gain 1 / 6, mean (1, 2), covariance I - z z' / 6."""
    effects = Effects.standard(1, 2)
    effects.learn([-1], [0], [6.0], np.array([[1.0, 2.0]]))
    assert effects.beta_JP[0] == pytest.approx([1.0, 2.0])
    expected = [5 / 6, -2 / 6, -2 / 6, 2 / 6]
    assert effects.beta_covariance_JPP.ravel() == pytest.approx(expected, abs=1e-6)


def test_any_number_of_trials_is_conditioned_on_exactly() -> None:
    rng = np.random.default_rng(3)
    items, z_nC, y_n = rng.integers(0, 3, 60), rng.normal(size=(60, 4)), rng.normal(size=60)
    effects = Effects.standard(3, 4)
    effects.learn(np.full(60, -1), items, y_n, z_nC, weight=0.7)
    for item in range(3):
        z, y = z_nC[items == item], y_n[items == item]
        covariance = np.linalg.inv(np.eye(4) + 0.7 * z.T @ z)
        assert effects.beta_JP[item] == pytest.approx(covariance @ (0.7 * z.T @ y), abs=1e-5)
        assert effects.beta_covariance_JPP[item] == pytest.approx(covariance, abs=1e-6)


def test_item_and_user_each_take_the_others_mean_as_known() -> None:
    """Item (mean 1, factor 2), user (mean .5, taste 1 over a text of 3, factor .25), y = 6.

    eta = 1 + .5 + 3 + 2 * .25 = 5, error 1. The item sees z = (1, .25): gain 1 / (1 + 1 + .0625),
    the user h = (1, 3, 2): gain 1 / 15.
    """
    effects = Effects.standard(1, 1, taste_JF=np.array([[3.0]]), k=1)
    effects.beta_JP[0] = 1.0, 2.0
    effects.theta_ID[0] = 0.5, 1.0, 0.25
    effects.learn([0], [0], [6.0], np.ones((1, 1)))
    assert effects.beta_JP[0] == pytest.approx([1.0 + 1.0 / 2.0625, 2.0 + 0.25 / 2.0625])
    moved = np.array([0.5, 1.0, 0.25]) + np.array([1.0, 3.0, 2.0]) / 15.0
    assert effects.theta_ID[0] == pytest.approx(moved, abs=1e-6)
    expected = np.eye(3) - np.outer([1.0, 3.0, 2.0], [1.0, 3.0, 2.0]) / 15.0
    assert effects.theta_covariance_IDD[0] == pytest.approx(expected, abs=1e-6)


def test_a_logit_trial_is_expanded_where_the_effects_are() -> None:
    """eta = 0: mean .5, slope .25, reward 1: error 2, weight .25, gain .2 on an effect N(0, 1)."""
    effects = Effects.standard(1, 1)
    effects.learn([-1], [0], [1.0], np.ones((1, 1)), kind="logit")
    assert effects.beta_JP[0, 0] == pytest.approx(0.4)
    assert effects.beta_covariance_JPP[0, 0, 0] == pytest.approx(0.8)


def test_trials_of_one_call_are_learnt_as_in_calls_of_their_own() -> None:
    rng = np.random.default_rng(7)
    users, items = rng.integers(-1, 3, 40), rng.integers(0, 2, 40)
    rewards, z_nC = (rng.random(40) < 0.5).astype(float), rng.normal(size=(40, 2))
    together, apart = (Effects.standard(2, 2, 3, np.array([[0.4], [-0.3]]), k=1) for _ in range(2))
    together.learn(users, items, rewards, z_nC, kind="logit")
    for n in range(40):
        row = slice(n, n + 1)
        apart.learn(users[row], items[row], rewards[row], z_nC[row], kind="logit")
    np.testing.assert_array_equal(together.beta_JP, apart.beta_JP)
    np.testing.assert_array_equal(together.theta_covariance_IDD, apart.theta_covariance_IDD)


@pytest.mark.parametrize("num_together", [1, 64])
def test_a_covariance_stays_positive_after_a_hundred_thousand_trials(num_together: int) -> None:
    """In float32, among effects that nearly repeat each other."""
    rng = np.random.default_rng(4)
    effects = Effects.standard(4, 6)
    for _ in range(102_400 // num_together):
        size = (num_together, 1)
        z_nC = np.repeat(rng.normal(size=size), 6, 1) + 1e-3 * rng.normal(size=(num_together, 6))
        items = rng.integers(0, 4, num_together)
        effects.learn(np.full(num_together, -1), items, z_nC.sum(1), z_nC, weight=100.0)
    covariance = effects.beta_covariance_JPP.astype(np.float64)
    assert np.linalg.eigvalsh(covariance).min() > 0.0
    np.testing.assert_array_equal(covariance, covariance.swapaxes(1, 2))
    assert np.isfinite(effects.beta_JP).all()
