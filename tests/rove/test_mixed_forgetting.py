"""Trials that fade: an item whose reward changes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rove.errors import InvalidInput
from rove.mixed.forgetting import Fading
from rove.mixed.learner import MixedLearner
from rove.mixed.past import Past
from rove.mixed.trials import FORGOTTEN, Trials


def test_a_trial_weighs_half_after_a_half_life() -> None:
    """Known users: rows of ages 20, 10, 0 at a half-life of 10 weigh 1/4, 1/2, 1."""
    trials = Trials(0, half_life=10.0)
    for time in (0.0, 10.0, 20.0):
        trials.add(np.array([1]), np.array([0]), np.array([1.0]), None, time)
    assert trials.weighted(20.0).counts.tolist() == [0.25, 0.5, 1.0]
    assert trials.columns.counts.tolist() == [1.0, 1.0, 1.0]
    assert len(trials.weighted(20.0 - 10.0 * np.log2(FORGOTTEN))) == 0


def test_what_is_added_up_fades_too() -> None:
    """Two ones, then a half-life later one zero: count 2 / 2 + 1 = 2, mean 1 / 2, spread 1 / 2."""
    trials = Trials(0, half_life=10.0)
    trials.add(np.full(2, -1), np.zeros(2, np.int64), np.ones(2), None, 0.0)
    trials.add(np.full(1, -1), np.zeros(1, np.int64), np.zeros(1), None, 10.0)
    rows = trials.weighted(10.0)
    assert rows.counts.tolist() == [2.0]
    assert rows.means.tolist() == [0.5]
    assert rows.spreads.tolist() == [0.5]
    assert len(trials) == 3


def test_without_a_half_life_nothing_fades() -> None:
    trials = Trials(0)
    trials.add(np.array([1, 2]), np.array([0, 0]), np.ones(2), None, 0.0)
    assert trials.weighted(1e9).counts.tolist() == [1.0, 1.0]


def test_a_covariance_widens_up_to_that_of_a_new_item() -> None:
    covariance = np.tile(0.1 * np.eye(2), (2, 1, 1))
    fading = Fading(5.0)
    fading.widen(covariance, np.array([0, -1]), 5.0, most=1.0)
    np.testing.assert_allclose(covariance[0], 0.2 * np.eye(2))
    np.testing.assert_allclose(covariance[1], 0.1 * np.eye(2))
    fading.widen(covariance, np.array([0]), 500.0, most=1.0)
    np.testing.assert_allclose(covariance[0], 0.5 * np.eye(2))


def test_the_past_of_a_pair_fades() -> None:
    """Shown at time 0 without earning: n = 1, a half-life later 1/2, and with another trial 3/2."""
    past = Past(1, half_life=5.0)
    user, item = np.array([0]), np.array([0])
    past.observe(user, item, np.zeros(1), 0.0)
    before = past.observe(user, item, np.zeros(1), 5.0)
    assert before[0, 0] == pytest.approx(np.log(1.5))
    read = past.read(user, np.array([[0]]))
    assert read is not None
    assert read[0, 0, 0] == pytest.approx(np.log(2.5))


@pytest.mark.parametrize("known", [True, False])
def test_an_item_whose_reward_changes_is_found_out(known: bool) -> None:
    """Item 0 pays .8 and item 1 .5; from time 300 on item 0 pays .2."""
    late = {}
    for half_life in (None, 30.0):
        rng = np.random.default_rng(2)
        learner = MixedLearner(None, 2, half_life=half_life, rng=rng)
        for time in range(400):
            users = rng.integers(0, 20, 4) if known else np.full(4, -1)
            items = np.array([0, 0, 1, 1])
            rate = np.array([0.2 if time >= 300 else 0.8, 0.5])
            rewards = (rng.random(4) < rate[items]).astype(float)
            learner.observe(users, items, rewards, None, float(time))
        mean, _ = learner.score(np.array([-1]), np.array([[0, 1]]), None)
        late[half_life] = mean[0, 0] - mean[0, 1]
    assert late[None] > 0.0
    assert late[30.0] < -0.5


def test_a_half_life_is_a_time() -> None:
    message = "half_life must be above 0, got 0.0; None forgets nothing"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        MixedLearner(None, 2, half_life=0.0, rng=np.random.default_rng(0))
