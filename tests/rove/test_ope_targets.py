"""Probabilities of given slates under a policy: its own back, exactly, and by hand."""

from __future__ import annotations

import re
from itertools import permutations

import numpy as np
import pytest

from rove.choosing import Policy
from rove.config import PolicySection
from rove.diversity import penalty_of
from rove.errors import DataError
from rove.ope import EMPTY, marginals, under_policy
from rove.policies import policy_of
from rove.slates import fill
from rove.thompson import Mixture

EVERY: dict[str, Policy] = {
    "greedy": policy_of(PolicySection(kind="greedy")),
    "epsilon_greedy": policy_of(PolicySection(kind="epsilon_greedy", epsilon=0.2)),
    "softmax": policy_of(PolicySection(kind="softmax", temperature=0.5)),
    "ucb": policy_of(PolicySection(kind="ucb", strength=0.5, floor=0.1)),
    "thompson": policy_of(PolicySection(kind="thompson", num_draws=32, floor=0.2)),
    "top_two": policy_of(PolicySection(kind="top_two", strength=1.0, num_draws=8)),
    "igw": policy_of(PolicySection(kind="igw", gamma=20.0)),
    "mixture": Mixture((0.0, 0.5, 2.0), 8, 0.1),
}


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("diversity", ["none", "mmr", "dpp"])
@pytest.mark.parametrize("name", EVERY)
def test_a_policy_gets_its_own_propensities_back(name: str, diversity: str, limit: int) -> None:
    """With the generators that it decided with, to the bit, some candidates closed."""
    rng = np.random.default_rng(4)
    mean_NS, deviation_NS = rng.normal(size=(50, 6)), rng.uniform(0.1, 1.0, (50, 6))
    open_NS = rng.permuted(np.tile([True] * 4 + [False] * 2, (50, 1)), axis=1)
    section = PolicySection.model_validate({"diversity": {"kind": diversity, "strength": 0.4}})
    vector_NSD = rng.normal(size=(50, 6, 3))

    def rngs() -> list[np.random.Generator]:
        return [np.random.default_rng(seed) for seed in range(50)]

    slates = fill(
        EVERY[name],
        mean_NS,
        deviation_NS,
        open_NS,
        3,
        rngs(),
        max_explore_slots=limit,
        penalty=penalty_of(section.diversity, mean_NS, vector_NSD, open_NS),
    )
    target = under_policy(
        EVERY[name],
        mean_NS,
        deviation_NS,
        open_NS,
        slates.chosen_BK,
        rngs(),
        max_explore_slots=limit,
        penalty=penalty_of(section.diversity, mean_NS, vector_NSD, open_NS),
    )
    assert (target.probability_NK == slates.propensity_BK).all()
    assert target.distribution_NKS.sum(2) == pytest.approx(np.ones((50, 3)))
    assert not target.distribution_NKS[:, 0][~open_NS].any()


def test_shorter_slates_end_with_empty_slots() -> None:
    """Epsilon .4 of three: the best .6 + .4 / 3; then .4 / 2 for the worse of two; then nothing."""
    target = under_policy(
        policy_of(PolicySection(kind="epsilon_greedy", epsilon=0.4)),
        np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]),
        np.zeros((2, 3)),
        None,
        np.array([[0, 2, EMPTY], [1, EMPTY, EMPTY]]),
        np.random.default_rng(0),
        max_explore_slots=3,
    )
    assert target.probability_NK == pytest.approx(
        np.array([[0.6 + 0.4 / 3, 0.2, 1.0], [0.4 / 3, 1.0, 1.0]])
    )
    assert target.distribution_NKS[0, 1] == pytest.approx([0.0, 0.8, 0.2])
    v_NK = target.mean(np.ones((2, 3, 3)))
    assert v_NK == pytest.approx(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_a_slate_the_policy_never_shows_has_probability_zero() -> None:
    """Greedy, and a mixture of greedy and gentle, never show the worst of certain items first."""
    for policy in (EVERY["greedy"], Mixture((0.0, 0.5), 8)):
        target = under_policy(
            policy,
            np.array([[3.0, 2.0, 1.0]]),
            np.full((1, 3), 1e-6),
            None,
            np.array([[2, 0]]),
            np.random.default_rng(0),
            max_explore_slots=2,
        )
        assert target.probability_NK.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 1], "chosen_NK must have a row for each of 1 slates, got the shape (2,)"),
        ([[0, 3]], "1 of 1 slates have a slot that is no open candidate; the first is row 0"),
        ([[0, 2]], "1 of 1 slates have a slot that is no open candidate"),
        ([[-2, 0]], "1 of 1 slates have a slot that is no open candidate"),
        ([[1, 1]], "1 of 1 slates have a candidate in two slots"),
        ([[EMPTY, 1]], "1 of 1 slates have an empty slot before a filled one"),
    ],
)
def test_slates_that_cannot_have_been_decided_are_refused(
    chosen: list[list[int]], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        under_policy(
            EVERY["softmax"],
            np.zeros((1, 3)),
            np.ones((1, 3)),
            np.array([[True, True, False]]),
            np.array(chosen),
            np.random.default_rng(0),
            max_explore_slots=1,
        )


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_marginals_add_up_all_slates(name: str, limit: int) -> None:
    """Over the 24 slates of four candidates: their probabilities, summed by slot and candidate."""
    mean, deviation = np.array([0.4, 0.3, 0.2, 0.0]), np.array([0.2, 0.1, 0.3, 0.2])
    every = np.array(list(permutations(range(4), 3)))
    target = under_policy(
        EVERY[name],
        np.tile(mean, (24, 1)),
        np.tile(deviation, (24, 1)),
        None,
        every,
        [np.random.default_rng(1) for _ in range(24)],
        max_explore_slots=limit,
    )
    expected_KS = np.zeros((3, 4))
    for slate, probability in zip(every, target.probability_NK.prod(1), strict=True):
        expected_KS[np.arange(3), slate] += probability
    found_NKS = marginals(
        EVERY[name],
        mean[None],
        deviation[None],
        3,
        [np.random.default_rng(1)],
        max_explore_slots=limit,
    )
    assert found_NKS[0] == pytest.approx(expected_KS)
    assert found_NKS.sum(2) == pytest.approx(np.ones((1, 3)))


def test_scores_that_are_no_numbers_are_refused() -> None:
    for mean, deviation in ((np.nan, 1.0), (0.0, np.inf), (0.0, -1.0)):
        with pytest.raises(
            DataError, match=re.escape("1 of 1 rows have scores that are no finite")
        ):
            under_policy(
                EVERY["softmax"],
                np.full((1, 3), mean),
                np.full((1, 3), deviation),
                None,
                np.array([[0]]),
                np.random.default_rng(0),
                max_explore_slots=1,
            )


def test_marginals_of_too_many_ways_are_refused() -> None:
    with pytest.raises(DataError, match=re.escape("filled in 9,900 ways before the last")):
        marginals(
            EVERY["softmax"],
            np.zeros((1, 100)),
            np.ones((1, 100)),
            3,
            np.random.default_rng(0),
            max_explore_slots=1,
        )
