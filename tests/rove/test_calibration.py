"""Half-lives and gains read off planted worlds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from rove.behaviour import Behaviour
from rove.calibration import (
    DAY_S,
    MIN_VISITS,
    HeldOut,
    ItemMeanFit,
    Taste,
    TasteFit,
    fit_item_means,
    fit_taste,
    ndcg,
)
from rove.visits import visits_of
from tests.worlds import behaviour_of

Array = npt.NDArray[np.float64]
NUM_ITEMS = 40
MEANS = ItemMeanFit(half_life_s=100 * DAY_S, pseudo_count=10.0, log_likelihood=0.0)


def popular(change_every_days: float, num: int = 3000) -> Behaviour:
    """100 days of purchases; four fifths are of five items, which change every so many days."""
    rng = np.random.default_rng(0)
    days = np.sort(rng.uniform(0, 100, num))
    favourites = np.floor(days / change_every_days).astype(int) * 5 + rng.integers(0, 5, num)
    items = np.where(rng.random(num) < 0.8, favourites % NUM_ITEMS, rng.integers(0, NUM_ITEMS, num))
    return behaviour_of(np.arange(num), items, days * DAY_S, NUM_ITEMS)


def clustered(num_users: int = 60, per_user: int = 8) -> Behaviour:
    """Users buy within one of two halves of the catalogue only."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(num_users), per_user)
    items = rng.permuted(np.tile(np.arange(20), (num_users, 1)), axis=1)[:, :per_user].ravel()
    items = items + 20 * (users % 2)
    days = np.sort(rng.uniform(0, 50, (per_user, num_users)), axis=0).T.ravel()
    return behaviour_of(users, items, days * DAY_S, NUM_ITEMS)


def taste_fit(behaviour: Behaviour, taste: Taste) -> TasteFit:
    past, future = behaviour.split(0.3)
    promise_J = np.full(NUM_ITEMS, 1 / NUM_ITEMS)
    held_out = HeldOut.of(past, future, promise_J, MEANS, np.random.default_rng(2))
    return fit_taste(held_out, [(50 * DAY_S, taste)])


def own_half(weights_BJ: sparse.csr_array, has_past_B: npt.NDArray[np.bool_]) -> Array:
    """Score the half of the catalogue that the user's past is in."""
    halves_JH = np.repeat(np.eye(2), 20, axis=0)
    return np.asarray(weights_BJ @ halves_JH @ halves_JH.T)


def noise(weights_BJ: sparse.csr_array, has_past_B: npt.NDArray[np.bool_]) -> Array:
    return np.asarray(np.random.default_rng(3).normal(size=weights_BJ.shape))


@pytest.mark.parametrize(("days", "low", "high"), [(3.0, 1.0, 4.0), (1000.0, 112.0, 448.0)])
def test_the_half_life_follows_how_fast_popularity_changes(
    days: float, low: float, high: float
) -> None:
    past, future = popular(days).split(0.3)
    fit = fit_item_means(past, future, np.full(NUM_ITEMS, 1 / NUM_ITEMS))
    assert low <= fit.half_life_s / DAY_S <= high


def test_a_good_promise_is_worth_many_rewards_and_a_bad_one_few() -> None:
    """Popularity is as promised, or the promise is upside down."""
    past, future = popular(1000.0, 600).split(0.5)
    promise_J = np.where(np.arange(NUM_ITEMS) < 5, 0.164, 0.18 / 35)
    good = fit_item_means(past, future, promise_J, [400 * DAY_S])
    bad = fit_item_means(past, future, promise_J[::-1], [400 * DAY_S])
    assert good.pseudo_count >= 1000 > 100 >= bad.pseudo_count
    assert good.log_likelihood > bad.log_likelihood


def test_taste_counts_where_users_differ() -> None:
    """Knowing the half doubles the chance of each of its items."""
    fit = taste_fit(clustered(), own_half)
    without = taste_fit(clustered(), noise)
    assert fit.taste_gain > 0 and fit.item_gain > 0
    assert fit.ndcg > 1.5 * without.ndcg


def test_taste_that_says_nothing_is_weighed_down() -> None:
    """The taste is noise of size 1, shares are of size 1/40: all of it would drown them."""
    fit = taste_fit(popular(1000.0), noise)
    assert abs(fit.taste_gain) < 0.02 * fit.item_gain
    assert fit.item_gain > 0.3


def test_taste_that_is_only_rounding_is_not_blown_up() -> None:
    def rounding(weights_BJ: sparse.csr_array, has_past_B: npt.NDArray[np.bool_]) -> Array:
        return 1e-300 * noise(weights_BJ, has_past_B)

    fit = taste_fit(clustered(), rounding)
    assert abs(fit.taste_gain) <= 20 * fit.item_gain


def test_too_few_visits_leave_the_gains_at_one() -> None:
    """Ten users with two visits each hold out less than the 20 that are needed."""
    fit = taste_fit(clustered(10, 2), own_half)
    assert MIN_VISITS > 6
    assert (fit.item_gain, fit.taste_gain, fit.half_life_s) == (1.0, 1.0, 50 * DAY_S)


def test_held_out_visits_know_what_is_new_to_the_user() -> None:
    past = behaviour_of([0, 1], [3, 4], [0.0, 1.0], 5)
    future = behaviour_of([0, 1, 1], [3, 3, 3], [2.0, 3.0, 4.0], 5)
    visits = visits_of(past, future)
    assert [visits[number].new_items.tolist() for number in range(3)] == [[], [3], []]


def test_the_past_of_a_visit_ends_before_it() -> None:
    """User 0: 1 at 0 and 1 at 10 before the visit at 20 (half-life 10): 1/4 and 1/2."""
    past = behaviour_of([0, 0], [0, 1], [0.0, 10.0], 4)
    future = behaviour_of([0, 0], [2, 3], [20.0, 30.0], 4)
    promise_J = np.full(4, 0.25)
    held_out = HeldOut.of(past, future, promise_J, MEANS, np.random.default_rng(0))
    expected = [[0.25, 0.5, 0.0, 0.0], [0.125, 0.25, 0.5, 0.0]]
    assert held_out.weights(10.0).toarray() == pytest.approx(np.array(expected))


def test_ndcg_by_hand() -> None:
    """First: wanted item ranked second of one, 1 / log2(3). Second: both on top, 1."""
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    wanted = np.array([[False, True, False], [False, True, True]])
    assert ndcg(scores, wanted) == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert ndcg(np.zeros((0, 3)), np.zeros((0, 3), bool)) == 0.0
