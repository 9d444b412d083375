"""What a trial teaches for others."""

from __future__ import annotations

import numpy as np
import pytest

from rove.mixed.teaching import Array, effects_of, teaching_deviation


def deviation(covariance_PP: Array, z_P: Array, others_PP: Array) -> float:
    """Return it for one request and one item."""
    items_BS = np.zeros((1, 1), np.int64)
    covariance_JPP = covariance_PP[None].astype(np.float32)
    return float(teaching_deviation(covariance_JPP, items_BS, z_P[None], others_PP)[0, 0])


def test_one_effect_is_taught_whole() -> None:
    found = deviation(np.array([[0.09]]), np.ones(1), np.ones((1, 1)))
    assert found == pytest.approx(0.3)


def test_what_is_seen_in_one_context_of_ten_teaches_a_tenth() -> None:
    """S = .5 I, z = e_3, others e_1 .. e_10 alike, M = I / 10: d^2 = (.25 / 10) / .5 = .05."""
    found = deviation(0.5 * np.eye(10), np.eye(10)[3], np.eye(10) / 10.0)
    assert found**2 == pytest.approx(0.05)


def test_it_is_the_variance_that_conditioning_takes_away() -> None:
    """Learning eta = z.b exactly takes (z'S x)^2 / z'S z from the variance of x.b."""
    rng = np.random.default_rng(4)
    root = rng.normal(size=(3, 3))
    covariance, z, x_nP = root @ root.T, rng.normal(size=3), rng.normal(size=(500, 3))
    left = covariance - np.outer(covariance @ z, covariance @ z) / (z @ covariance @ z)
    taken = np.einsum("np,pq,nq->n", x_nP, covariance - left, x_nP).mean()
    assert deviation(covariance, z, x_nP.T @ x_nP / 500) ** 2 == pytest.approx(taken, rel=1e-5)


def test_every_request_asks_its_own_candidates_in_its_own_context() -> None:
    rng = np.random.default_rng(5)
    root_JPP = rng.normal(size=(5, 4, 4))
    covariance_JPP = (root_JPP @ root_JPP.swapaxes(1, 2)).astype(np.float32)
    z_BP, others_PP = rng.normal(size=(2, 4)), np.diag([1.0, 0.5, 0.2, 0.1])
    items_BS = np.array([[4, 0, 2], [1, 3, 3]])
    found_BS = teaching_deviation(covariance_JPP, items_BS, z_BP, others_PP)
    for b, items in enumerate(items_BS):
        alone = [deviation(covariance_JPP[j].astype(float), z_BP[b], others_PP) for j in items]
        assert found_BS[b] == pytest.approx(alone)


def test_effects_are_multiplied_with_the_inputs_of_their_request() -> None:
    """Items (1, 2) and (3, 4), requests (1, 0) and (10, 1)."""
    effect_JP, z_BP = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [10.0, 1.0]])
    found = effects_of(effect_JP, np.array([[0, 1], [1, 1]]), z_BP)
    assert found.tolist() == [[1.0, 3.0], [34.0, 34.0]]
