"""Slates: no repeats, and propensities that are the probabilities things really happen with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from rove.config import PolicySection
from rove.policies import policy_of
from rove.slates import Slates, fill, sample

KINDS = ["greedy", "epsilon_greedy", "softmax", "ucb", "thompson", "igw"]
NUM_SEEDS = 20_000
MEANS = np.array([0.2, 0.5, 0.3, 0.45])
DEVIATIONS = np.array([0.3, 0.1, 0.2, 0.05])
SETTINGS: dict[str, object] = {
    "strength": 1.0,
    "epsilon": 0.3,
    "temperature": 0.2,
    "gamma": 8.0,
    "num_draws": 8,
    "floor": 0.05,
}


def policy_section(kind: str) -> PolicySection:
    return PolicySection.model_validate({**SETTINGS, "kind": kind})


def repeated(num: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.tile(MEANS, (num, 1)), np.tile(DEVIATIONS, (num, 1))


def generators(num: int) -> list[np.random.Generator]:
    return [np.random.Generator(np.random.PCG64(seed)) for seed in range(num)]


def filled(kind: str, num: int, num_slots: int, max_explore_slots: int) -> Slates:
    mean_BS, deviation_BS = repeated(num)
    return fill(
        policy_of(policy_section(kind)),
        mean_BS,
        deviation_BS,
        np.ones(mean_BS.shape, bool),
        num_slots,
        generators(num),
        max_explore_slots=max_explore_slots,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_slots", "max_explore_slots"), [(1, 2), (3, 2), (1, 0), (3, 0)])
def test_the_first_slots_distribution_has_its_choices_and_sums_to_one(
    kind: str, num_slots: int, max_explore_slots: int
) -> None:
    slates = filled(kind, 50, num_slots, max_explore_slots)
    rows = np.arange(50)
    chosen_B = slates.first_BS[rows, slates.chosen_BK[:, 0]]
    np.testing.assert_array_equal(chosen_B, slates.propensity_BK[:, 0])
    np.testing.assert_allclose(slates.first_BS.sum(1), 1.0)


def is_fair(chosen_B: npt.NDArray[np.intp], probability_BS: npt.NDArray[np.float64]) -> bool:
    """Say by a chi-square test if the choices look drawn from the events' own distributions.

    Counts O_s have mean E_s = sum_b p_bs and at most the variance of a multinomial, so that
    sum (O - E)^2 / E is at most chi-square with S - 1 degrees of freedom.
    """
    observed_S = np.bincount(chosen_B, minlength=probability_BS.shape[1])
    expected_S = probability_BS.sum(0)
    assert (observed_S[expected_S == 0] == 0).all()
    likely = expected_S > 0
    statistic = float(
        (np.square(observed_S[likely] - expected_S[likely]) / expected_S[likely]).sum()
    )
    return statistic <= float(stats.chi2.ppf(0.9999, max(int(likely.sum()) - 1, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_logged_propensities_are_the_frequencies(kind: str) -> None:
    """20,000 seeds of one state; each event's own distributions, and what was drawn from them."""
    slates = filled(kind, NUM_SEEDS, 2, 2)
    mean_BS, deviation_BS = repeated(NUM_SEEDS)
    chooser = policy_of(policy_section(kind)).start(mean_BS, deviation_BS, generators(NUM_SEEDS))
    open_BS, rows = np.ones(mean_BS.shape, bool), np.arange(NUM_SEEDS)
    for slot in range(2):
        chosen_B = slates.chosen_BK[:, slot]
        probability_BS = chooser.distribution(open_BS)
        assert np.array_equal(slates.propensity_BK[:, slot], probability_BS[rows, chosen_B])
        for first in range(4) if slot else (None,):
            same = rows if first is None else np.flatnonzero(slates.chosen_BK[:, 0] == first)
            assert is_fair(chosen_B[same], probability_BS[same])
        open_BS[rows, chosen_B] = False


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_propensities_estimate_what_another_policy_would_earn(kind: str) -> None:
    """The mean of 1{chosen = s} / propensity over events is 1 for every s, within 5 sigma."""
    slates = filled(kind, NUM_SEEDS, 1, 1)
    for item in range(4):
        weight = (slates.chosen_BK[:, 0] == item) / slates.propensity_BK[:, 0]
        assert abs(weight.mean() - 1.0) < 5 * weight.std() / NUM_SEEDS**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_slate_has_no_item_twice(kind: str) -> None:
    slates = filled(kind, 300, 4, 4)
    assert (np.sort(slates.chosen_BK, axis=1) == np.arange(4)).all()
    assert (slates.propensity_BK > 0).all() and (slates.propensity_BK <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_slots_to_explore_means_greedy_for_certain(kind: str) -> None:
    slates = filled(kind, 50, 3, 0)
    assert (slates.chosen_BK == [1, 3, 2]).all()
    assert (slates.propensity_BK == 1.0).all() and not slates.explored_BK.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 2])
def test_at_most_so_many_slots_explore(kind: str, most: int) -> None:
    slates = filled(kind, 500, 4, most)
    assert slates.explored_BK.sum(1).max() <= most
    spent = np.cumsum(slates.explored_BK, axis=1) - slates.explored_BK >= most
    assert (slates.propensity_BK[spent] == 1.0).all()


def test_explored_means_another_one_than_the_greedy_choice() -> None:
    slates = filled("epsilon_greedy", 500, 2, 2)
    assert np.array_equal(slates.explored_BK[:, 0], slates.chosen_BK[:, 0] != 1)
    best_left = np.where(slates.chosen_BK[:, 0] == 1, 3, 1)
    assert np.array_equal(slates.explored_BK[:, 1], slates.chosen_BK[:, 1] != best_left)
    assert 0 < slates.explored_BK.mean() < 0.5


def test_closed_candidates_are_never_chosen() -> None:
    mean_BS, deviation_BS = repeated(200)
    open_BS = np.ones(mean_BS.shape, bool)
    open_BS[:, 1] = False
    policy = policy_of(policy_section("thompson"))
    slates = fill(policy, mean_BS, deviation_BS, open_BS, 3, generators(200), max_explore_slots=3)
    assert not (slates.chosen_BK == 1).any() and open_BS[:, [0, 2, 3]].all()


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    together = filled("thompson", 20, 3, 2)
    alone = filled("thompson", 1, 3, 2)
    assert np.array_equal(together.chosen_BK[:1], alone.chosen_BK)
    assert np.array_equal(together.propensity_BK[:1], alone.propensity_BK)


def test_an_empty_batch_and_an_empty_slate_are_no_problem() -> None:
    assert filled("thompson", 0, 2, 2).chosen_BK.shape == (0, 2)
    assert filled("thompson", 3, 0, 2).chosen_BK.shape == (3, 0)


def test_a_coin_falls_where_the_cumulative_probability_passes_it() -> None:
    """Cumulative 0, 1/4, 1/4, 1: coins below 1/4 take item 1, the others item 3."""
    probability_BS = np.tile([0.0, 0.25, 0.0, 0.75], (5, 1))
    coins = np.array([0.0, 0.2499, 0.25, 0.9, 1 - 2.0**-53])
    assert sample(probability_BS, coins).tolist() == [1, 1, 3, 3, 3]
    rounded = np.full((1, 10), 0.1 - 1e-9)
    assert sample(rounded, np.array([1 - 2.0**-53])).tolist() == [9]
