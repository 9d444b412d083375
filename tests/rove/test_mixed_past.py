"""What a user had with the very item before, and what the model makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from rove.mixed.learner import MixedLearner
from rove.mixed.past import NUM_PAST, Past, past_weights


def test_the_past_is_what_was_before_the_trial() -> None:
    """Overall mean 0, then .5 after one trial that earned 1 and one that earned 0.

    User 3 had item 1 once, s = 1, e = 1 - 0 = 1: x = [log 2, log 2, 1 / sqrt 2].
    """
    past = Past(4)
    users, items = np.array([3, 4]), np.array([1, 1])
    first = past.observe(users, items, np.array([1.0, 0.0]))
    np.testing.assert_array_equal(first, np.zeros((2, NUM_PAST)))
    again = past.observe(users[:1], items[:1], np.array([0.0]))
    np.testing.assert_allclose(again, [[np.log(2.0), np.log(2.0), 0.5**0.5]])
    # n = 2, s = 1, e = 1 + (0 - (1 + 5 / 2) / (2 + 5)) = 1 - .5
    read = past.read(np.array([3, -1, 9]), np.array([[0, 1], [1, 1], [1, 1]]))
    assert read is not None
    np.testing.assert_allclose(read[0, 1], [np.log(3.0), np.log(2.0), 0.5 / 3.0**0.5])
    assert np.count_nonzero(read) == 3


def test_nobody_with_a_past_is_nothing_to_read() -> None:
    past = Past(4)
    past.observe(np.array([-1]), np.array([2]), np.array([1.0]))
    assert past.read(np.array([-1, 0]), np.array([[2], [2]])) is None


def test_weights_are_a_ridge_regression() -> None:
    """One trial x = [1, 0, 0], weight 2, y = 3, s = 1 / 2: mean 6 / (2 + 2) = 1.5."""
    weights = past_weights(np.array([[1.0, 0.0, 0.0]]), np.array([2.0]), np.array([3.0]), 0.5)
    np.testing.assert_allclose(weights, [1.5, 0.0, 0.0])


@pytest.mark.parametrize("habit", [True, False])
def test_what_a_user_bought_is_offered_again_only_if_they_buy_again(habit: bool) -> None:
    """Each user has one item of ten; who has no habit never buys it a second time."""
    rng = np.random.default_rng(3)
    own_I = rng.integers(0, 10, 40)
    learner = MixedLearner(None, 10, rng=rng)
    bought = np.zeros((40, 10))
    for _ in range(60):
        users, items = np.arange(40), rng.integers(0, 10, 40)
        rewards = (own_I[users] == items) & (habit | (bought[users, items] == 0))
        bought[users, items] += rewards
        learner.observe(users, items, rewards.astype(float), None)
    mean, _ = learner.score(np.arange(40), np.tile(np.arange(10), (40, 1)), None)
    own = mean[np.arange(40), own_I] - mean.mean(1)
    assert (own.min() > 1.0) if habit else (np.median(own) < 0.0)
    fitted = learner.fitted
    assert fitted is not None
    assert np.abs(fitted.past_X).max() > 0.2
