"""Many Gaussian effects conditioned on many trials at once."""

from __future__ import annotations

import numpy as np
import pytest

from rove.mixed.updating import Array, condition, condition_one


def test_two_trials_of_one_effect_add_their_precisions() -> None:
    """N(0, 1), y = 3 and 5 with precision 1: precision 3, mean (3 + 5) / 3."""
    mean_GP, covariance_GPP = np.zeros((2, 1)), np.ones((2, 1, 1))
    trials = np.array([1, 1]), np.ones((2, 1)), np.ones(2), np.array([3.0, 5.0])
    condition(mean_GP, covariance_GPP, *trials)
    assert mean_GP.ravel() == pytest.approx([0.0, 8.0 / 3.0])
    assert covariance_GPP.ravel() == pytest.approx([1.0, 1.0 / 3.0])


def dense(covariance_PP: Array, h_nP: Array, weight_n: Array, y_n: Array) -> tuple[Array, Array]:
    precision_PP: Array = np.asarray(np.linalg.inv(covariance_PP), np.float64)
    precision_PP = precision_PP + (h_nP * weight_n[:, None]).T @ h_nP
    posterior_PP = np.asarray(np.linalg.inv(precision_PP), np.float64)
    return posterior_PP @ (h_nP.T @ (weight_n * y_n)), posterior_PP


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 1, 2), (7, 9, 8), (40, 1, 1, 1, 1, 1)])
def test_groups_of_any_size_are_conditioned_exactly(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    group_n = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    h_nP, weight_n, y_n = (
        rng.normal(size=(sum(sizes), 4)),
        rng.random(sum(sizes)) + 0.1,
        rng.normal(size=sum(sizes)),
    )
    root_GPP = rng.normal(size=(len(sizes), 4, 4))
    covariance_GPP = root_GPP @ root_GPP.transpose(0, 2, 1) + 0.1 * np.eye(4)
    mean_GP, moved_GPP = np.zeros((len(sizes), 4)), covariance_GPP.copy()
    condition(mean_GP, moved_GPP, group_n, h_nP, weight_n, y_n)
    for group in range(len(sizes)):
        own = group_n == group
        mean_P, expected_PP = dense(covariance_GPP[group], h_nP[own], weight_n[own], y_n[own])
        assert mean_GP[group] == pytest.approx(mean_P)
        assert moved_GPP[group] == pytest.approx(expected_PP)


def test_a_covariance_stays_positive_after_a_hundred_thousand_trials() -> None:
    """In float32, among effects that nearly repeat each other."""
    rng = np.random.default_rng(4)
    mean_GP, covariance_GPP = np.zeros((4, 6)), np.tile(np.eye(6, dtype=np.float32), (4, 1, 1))
    for _ in range(1600):
        h_nP = np.repeat(rng.normal(size=(64, 1)), 6, 1) + 1e-3 * rng.normal(size=(64, 6))
        group_n = rng.integers(0, 4, 64)
        error_n = h_nP.sum(1) - np.einsum("np,np->n", h_nP, mean_GP[group_n])
        condition(mean_GP, covariance_GPP, group_n, h_nP, np.full(64, 100.0), error_n)
    assert np.linalg.eigvalsh(covariance_GPP.astype(np.float64)).min() > 0.0
    assert np.isfinite(mean_GP).all()


def test_one_trial_by_itself_is_one_trial_of_many() -> None:
    """N(0, I), h = (1, 2), w = 1, y = 6: gain 1 / 6, mean (1, 2), covariance I - h h' / 6."""
    mean_P, covariance_PP = np.zeros(2), np.eye(2)
    condition_one(mean_P, covariance_PP, np.array([1.0, 2.0]), 1.0, 6.0)
    assert mean_P == pytest.approx([1.0, 2.0])
    assert covariance_PP.ravel() == pytest.approx([5 / 6, -2 / 6, -2 / 6, 2 / 6])
    mean_GP, covariance_GPP = np.zeros((1, 2)), np.eye(2)[None]
    condition(
        mean_GP,
        covariance_GPP,
        np.zeros(1, np.int64),
        np.array([[1.0, 2.0]]),
        np.ones(1),
        6 * np.ones(1),
    )
    assert mean_GP[0] == pytest.approx(mean_P)
    assert covariance_GPP[0] == pytest.approx(covariance_PP)
