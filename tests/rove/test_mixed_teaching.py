"""What a trial teaches for others."""

from __future__ import annotations

import numpy as np
import pytest

from rove.mixed.teaching import teaching_deviation


def test_one_effect_is_taught_whole() -> None:
    found = teaching_deviation(np.full((1, 1, 1, 1), 0.09), np.ones((1, 1)), np.ones((1, 1)))
    assert found[0, 0] == pytest.approx(0.3)


def test_what_is_seen_in_one_context_of_ten_teaches_a_tenth() -> None:
    """S = .5 I, z = e_3, others e_1 .. e_10 alike, M = I / 10: d^2 = (.25 / 10) / .5 = .05."""
    others = np.eye(10) / 10.0
    found = teaching_deviation(0.5 * np.eye(10)[None, None], np.eye(10)[3:4], others)
    assert found[0, 0] ** 2 == pytest.approx(0.05)


def test_it_is_the_variance_that_conditioning_takes_away() -> None:
    """Learning eta = z.b exactly takes (z'S x)^2 / z'S z from the variance of x.b."""
    rng = np.random.default_rng(4)
    root = rng.normal(size=(3, 3))
    covariance, z, x_nP = root @ root.T, rng.normal(size=3), rng.normal(size=(500, 3))
    left = covariance - np.outer(covariance @ z, covariance @ z) / (z @ covariance @ z)
    taken = np.einsum("np,pq,nq->n", x_nP, covariance - left, x_nP).mean()
    found = teaching_deviation(covariance[None, None], z[None], x_nP.T @ x_nP / 500)
    assert found[0, 0] ** 2 == pytest.approx(taken)


def test_one_request_is_taught_as_among_many() -> None:
    rng = np.random.default_rng(5)
    root_BSPP = rng.normal(size=(2, 3, 4, 4))
    covariance_BSPP = root_BSPP @ root_BSPP.swapaxes(2, 3)
    z_BP, others_PP = rng.normal(size=(2, 4)), np.diag([1.0, 0.5, 0.2, 0.1])
    both = teaching_deviation(covariance_BSPP, z_BP, others_PP)
    one = teaching_deviation(covariance_BSPP[1:], z_BP[1:], others_PP)
    assert one == pytest.approx(both[1:])
