"""Every policy's distribution against numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rove.config import PolicySection
from rove.policies import policy_of

KINDS = ["greedy", "epsilon_greedy", "softmax", "ucb", "thompson", "top_two", "igw"]
MEANS = [0.3, 0.5, 0.1]


def distribution(
    means: list[float],
    deviations: list[float] | None = None,
    closed: tuple[int, ...] = (),
    **settings: Any,
) -> list[float]:
    section = PolicySection.model_validate(settings)
    open_BS = np.ones((1, len(means)), bool)
    open_BS[0, list(closed)] = False
    chooser = policy_of(section).start(
        np.array([means]),
        np.array([deviations or [0.1] * len(means)]),
        [np.random.default_rng(0)],
    )
    return [float(p) for p in chooser.distribution(open_BS)[0]]


def test_greedy_takes_the_largest_mean() -> None:
    assert distribution(MEANS, kind="greedy") == [0, 1, 0]
    assert distribution(MEANS, closed=(1,), kind="greedy") == [1, 0, 0]
    assert distribution([0.5, 0.5], kind="greedy") == [1, 0]


def test_epsilon_greedy_shares_epsilon_among_all() -> None:
    """0.3 / 3 = 0.1 each, 0.7 more for the best; with one closed 0.3 / 2 = 0.15."""
    settings: dict[str, Any] = {"kind": "epsilon_greedy", "epsilon": 0.3}
    assert distribution(MEANS, None, **settings) == pytest.approx([0.1, 0.8, 0.1])
    assert distribution(MEANS, None, (0,), **settings) == pytest.approx([0, 0.85, 0.15])


def test_softmax_is_exponential_in_the_mean() -> None:
    """Temperature 0.2: exp(1.5), exp(2.5), exp(0.5) over their sum."""
    weights = [math.exp(x / 0.2) for x in MEANS]
    expected = [weight / sum(weights) for weight in weights]
    assert distribution(MEANS, kind="softmax", temperature=0.2) == pytest.approx(expected)
    expected = [weights[0] / (weights[0] + weights[2]), 0, weights[2] / (weights[0] + weights[2])]
    found = distribution(MEANS, closed=(1,), kind="softmax", temperature=0.2)
    assert found == pytest.approx(expected)


def test_softmax_does_not_overflow() -> None:
    assert distribution([1.0, 900.0], kind="softmax", temperature=1e-6) == [0, 1]


def test_ucb_adds_the_deviation() -> None:
    """0.3 + 2 * 0.2 = 0.7 beats 0.5 + 2 * 0.05 = 0.6; with half of it 0.4 < 0.525."""
    deviations = [0.2, 0.05, 0.1]
    assert distribution(MEANS, deviations, kind="ucb", strength=2.0) == [1, 0, 0]
    assert distribution(MEANS, deviations, kind="ucb", strength=0.5) == [0, 1, 0]


def test_inverse_gap_weighting_by_hand() -> None:
    """A = 3, gamma = 10: 1 / (3 + 10 * 0.2) = 0.2, 1 / (3 + 10 * 0.4) = 1/7, rest 23/35.

    Without the best A = 2: 1 / (2 + 10 * 0.2) = 1/4.
    """
    assert distribution(MEANS, kind="igw", gamma=10.0) == pytest.approx([0.2, 23 / 35, 1 / 7])
    found = distribution(MEANS, closed=(1,), kind="igw", gamma=10.0)
    assert found == pytest.approx([0.75, 0, 0.25])


@pytest.mark.parametrize(
    ("kind", "expected"), [("greedy", [0.1, 0.8, 0.1]), ("igw", [0.24, 0.56, 0.2])]
)
def test_a_floor_is_mixed_in(kind: str, expected: list[float]) -> None:
    """0.3 of uniform: 0.1 each. igw: 0.7 * (0.2, 23/35, 1/7) + 0.1 = (0.24, 0.56, 0.2)."""
    assert distribution(MEANS, kind=kind, gamma=10.0, floor=0.3) == pytest.approx(expected)


def test_thompson_s_winners_match_the_normal_distribution() -> None:
    """P(1 wins) = Phi((0.5 - 0.3) / (strength sqrt(0.1^2 + 0.2^2))), within 4 sigma of 4096."""
    for strength in (0.5, 2.0):
        found = distribution(
            [0.3, 0.5], [0.1, 0.2], kind="thompson", strength=strength, num_draws=4096
        )
        expected = stats.norm.cdf(0.2 / (strength * math.sqrt(0.05)))
        sigma = math.sqrt(expected * (1 - expected) / 4096)
        assert abs(found[1] - expected) < 4 * sigma


def test_thompson_without_strength_is_greedy() -> None:
    assert distribution(MEANS, kind="thompson", strength=0.0) == [0, 1, 0]


def test_thompson_s_runners_up_win_once_the_winner_is_closed() -> None:
    """Of 0, 10, 5 with deviation 0.01 the order is certain."""
    means, deviations = [0.0, 10.0, 5.0], [0.01] * 3
    assert distribution(means, deviations, kind="thompson") == [0, 1, 0]
    assert distribution(means, deviations, (1,), kind="thompson") == [0, 0, 1]
    assert distribution(means, deviations, (1, 2), kind="thompson") == [1, 0, 0]


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_sum_to_one_and_are_zero_where_closed(kind: str, floor: float) -> None:
    rng = np.random.default_rng(1)
    open_BS = rng.random((50, 12)) < 0.6
    open_BS[:, 3] = True
    policy = policy_of(PolicySection.model_validate({"kind": kind, "floor": floor}))
    chooser = policy.start(
        rng.normal(size=(50, 12)),
        rng.uniform(0, 0.3, (50, 12)),
        [np.random.default_rng(n) for n in range(50)],
    )
    for _ in range(2):
        probability_BS = chooser.distribution(open_BS)
        assert probability_BS.sum(1) == pytest.approx(np.ones(50), abs=1e-12)
        assert (probability_BS >= 0).all()
        assert (probability_BS[~open_BS] == 0).all()
        assert floor == 0.0 or (probability_BS[open_BS] > 0).all()
        open_BS[:, 5] = False


@pytest.mark.parametrize("kind", KINDS)
def test_one_candidate_is_chosen_for_certain(kind: str) -> None:
    assert distribution([0.1], kind=kind, floor=0.1) == pytest.approx([1.0])
