"""The ridge regression finds out by itself how much of its input to believe."""

from __future__ import annotations

import numpy as np
import pytest

from rove.ridge import evidence_ridge


def test_pure_noise_is_shrunk_to_next_to_nothing() -> None:
    """Least squares would give weights of about 1 / sqrt(200) = 0.07 each, 0.3 together."""
    rng = np.random.default_rng(0)
    x_JF, y_J = rng.normal(size=(200, 20)), 5.0 + rng.normal(size=200)
    ridge = evidence_ridge(x_JF, y_J)
    least_squares = np.linalg.lstsq(x_JF - x_JF.mean(0), y_J - y_J.mean(), rcond=None)[0]
    assert np.linalg.norm(ridge.weights_F) < 0.35 * np.linalg.norm(least_squares)
    assert ridge.intercept == pytest.approx(5.0, abs=0.2)
    assert ridge.noise_variance == pytest.approx(1.0, rel=0.2)


def test_a_strong_signal_is_recovered() -> None:
    """y = 2 + x . (3, -1, 0) + noise of deviation 0.1."""
    rng = np.random.default_rng(1)
    x_JF = rng.normal(size=(300, 3))
    y_J = 2.0 + x_JF @ [3.0, -1.0, 0.0] + 0.1 * rng.normal(size=300)
    ridge = evidence_ridge(x_JF, y_J)
    assert ridge.weights_F == pytest.approx([3.0, -1.0, 0.0], abs=0.03)
    assert ridge.intercept == pytest.approx(2.0, abs=0.03)
    assert ridge.noise_variance == pytest.approx(0.01, rel=0.25)


def test_prediction_is_intercept_plus_product() -> None:
    ridge = evidence_ridge(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
    assert ridge(np.array([[10.0]])) == pytest.approx([21.0], rel=1e-3)


def test_without_features_the_mean_is_predicted() -> None:
    ridge = evidence_ridge(np.zeros((4, 0)), np.array([1.0, 2.0, 3.0, 6.0]))
    assert ridge(np.zeros((2, 0))).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("num_rows", [1, 2, 5])
def test_fewer_rows_than_features_are_no_problem(num_rows: int) -> None:
    x_JF = np.random.default_rng(2).normal(size=(num_rows, 10))
    ridge = evidence_ridge(x_JF, np.arange(num_rows, dtype=float))
    assert np.isfinite(ridge(x_JF)).all()
