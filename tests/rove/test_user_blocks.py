"""Sums over users in blocks: by hand, and whoever does the work, in whatever order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from scipy import sparse

from rove.factorisation import Factorisation, fit
from rove.user_blocks import (
    BLOCK_USERS,
    Block,
    Spread,
    Sums,
    Taste,
    Work,
    add_up,
    cut,
    here,
    sums_of,
)


def rewards() -> sparse.csr_array:
    """300 users, 50 items, one reward in ten; some users have none."""
    rng = np.random.default_rng(0)
    rewards_IJ = rng.random((300, 50)) * (rng.random((300, 50)) < 0.1)
    rewards_IJ[40:45] = 0.0
    return sparse.csr_array(rewards_IJ)


def fitted(spread: Spread = here, block_users: int = BLOCK_USERS) -> Factorisation:
    rng = np.random.default_rng(1)
    return fit(
        rewards(),
        rng.normal(size=(50, 3)),
        num_learned_factors=4,
        max_sweeps=6,
        rng=rng,
        spread=spread,
        block_users=block_users,
    )


def differing(first: Factorisation, second: Factorisation) -> list[str]:
    """Return the names of what is not equal to the last bit."""
    names = [field.name for field in fields(Factorisation)]
    return [n for n in names if not np.array_equal(getattr(first, n), getattr(second, n))]


def test_a_block_knows_the_items_that_its_users_took() -> None:
    """Users {0: 7, 1: 2}, {0: 0, 2: 5} in blocks of one: items 1 of the first is none's."""
    rewards_IJ = sparse.csr_array(np.array([[7.0, 0.0, 2.0], [0.0, 0.0, 5.0]]))
    first, second = cut(rewards_IJ, 1)
    assert (first.items_N.tolist(), first.rewards_UN.toarray().tolist()) == ([0, 2], [[7.0, 2.0]])
    assert (second.items_N.tolist(), second.rewards_UN.toarray().tolist()) == ([2], [[5.0]])


def test_the_sums_of_a_block_by_hand() -> None:
    """y = [[1, 2], [0, 1]], phi = (1, 3), P = 2, c = -1: theta = 2 (7, 3) - 1 = (13, 5)."""
    (block,) = cut(sparse.csr_array(np.array([[1.0, 2.0], [0.0, 1.0]])))
    taste = Taste(
        features_JD=np.array([[1.0], [3.0]]), pull_DD=np.array([[2.0]]), idle_D=np.array([-1.0])
    )
    found = sums_of(block, taste)
    assert found.users_D.tolist() == [18.0]
    assert found.gram_DD.tolist() == [[169.0 + 25.0]]
    assert found.rewards_ND.tolist() == [[13.0], [2 * 13.0 + 5.0]]


@pytest.mark.parametrize("block_users", [1, 2, 7, 299])
def test_blocks_of_any_size_come_to_the_same_where_sums_are_exact(block_users: int) -> None:
    """Small whole numbers: no addition rounds, so grouping cannot matter."""
    rng = np.random.default_rng(2)
    rewards_IJ = sparse.csr_array(rng.integers(0, 3, (300, 20)).astype(float))
    taste = Taste(
        features_JD=rng.integers(-3, 4, (20, 5)).astype(float),
        pull_DD=rng.integers(-3, 4, (5, 5)).astype(float),
        idle_D=rng.integers(-3, 4, 5).astype(float),
    )

    def total(size: int) -> Sums:
        blocks = list(cut(rewards_IJ, size))
        return add_up(blocks, here(blocks)(taste), 20)

    one, many = total(300), total(block_users)
    assert np.array_equal(one.users_D, many.users_D)
    assert np.array_equal(one.gram_DD, many.gram_DD)
    assert np.array_equal(one.rewards_ND, many.rewards_ND)


def test_the_fit_is_the_same_whoever_does_the_work_and_in_whatever_order() -> None:
    def backwards(blocks: Sequence[Block]) -> Work:
        def work(taste: Taste) -> Iterable[Sums]:
            return [sums_of(block, taste) for block in reversed(blocks)][::-1]

        return work

    def threads(blocks: Sequence[Block]) -> Work:
        def work(taste: Taste) -> Iterable[Sums]:
            with ThreadPoolExecutor(4) as pool:
                return list(pool.map(partial(sums_of, taste=taste), blocks))

        return work

    one = fitted(block_users=32)
    assert differing(one, fitted(backwards, 32)) == []
    assert differing(one, fitted(threads, 32)) == []


def test_blocks_of_another_size_change_only_the_rounding() -> None:
    one, many = fitted(), fitted(block_users=32)
    assert one.num_sweeps == many.num_sweeps
    for name in ("features_JD", "taste_covariance_DD", "intercept_J", "noise_variance"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-9, atol=1e-12)
