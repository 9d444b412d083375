"""What is logged is what happens: chi-square of every policy, alone and in slates."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from rove.choosing import Policy
from rove.config import DiversitySection, PolicySection
from rove.diversity import penalty_of
from rove.policies import policy_of
from rove.slates import Slates, fill
from rove.thompson import Mixture

NUM_DRAWS = 20_000
SIZE = 5
MEAN = np.array([0.5, 0.45, 0.4, 0.3, 0.1])
DEVIATION = np.array([0.05, 0.1, 0.2, 0.1, 0.3])
VECTORS = np.random.default_rng(3).normal(size=(SIZE, 4)).astype(np.float32)

POLICIES: dict[str, Policy] = {
    "epsilon_greedy": policy_of(PolicySection(kind="epsilon_greedy", epsilon=0.3)),
    "softmax": policy_of(PolicySection(kind="softmax", temperature=0.2)),
    "ucb": policy_of(PolicySection(kind="ucb", strength=1.0, floor=0.2)),
    "thompson": policy_of(PolicySection(kind="thompson", strength=1.0, num_draws=8)),
    "floored": policy_of(PolicySection(kind="thompson", strength=1.0, num_draws=8, floor=0.1)),
    "top_two": policy_of(PolicySection(kind="top_two", strength=1.0, num_draws=8)),
    "igw": policy_of(PolicySection(kind="igw", gamma=10.0)),
    "greedy": policy_of(PolicySection(kind="greedy", floor=0.25)),
    "mixture": Mixture((0.0, 0.5, 2.0), 8, 0.1),
}


def slates_of(policy: Policy, num_slots: int, diversity: str) -> Slates:
    """Fill `NUM_DRAWS` slates of the same five candidates with random numbers of their own."""
    shape = (NUM_DRAWS, SIZE)
    mean_BS, deviation_BS = np.broadcast_to(MEAN, shape), np.broadcast_to(DEVIATION, shape)
    section = DiversitySection.model_validate({"kind": diversity, "strength": 0.4})
    vector_BSD = np.broadcast_to(VECTORS, (*shape, VECTORS.shape[1]))
    return fill(
        policy,
        mean_BS,
        deviation_BS,
        None,
        num_slots,
        np.random.default_rng(17),
        max_explore_slots=2,
        penalty=penalty_of(section, mean_BS, vector_BSD),
    )


@pytest.mark.parametrize("diversity", ["none", "mmr", "dpp"])
@pytest.mark.parametrize("name", POLICIES)
def test_slates_show_distinct_items_with_positive_propensities(name: str, diversity: str) -> None:
    slates = slates_of(POLICIES[name], 3, diversity)
    assert (slates.propensity_BK > 0.0).all()
    assert (slates.propensity_BK <= 1.0 + 1e-12).all()
    assert all(len(set(row)) == 3 for row in slates.chosen_BK.tolist())
    assert (slates.explored_BK.sum(1) <= 2).all()


@pytest.mark.parametrize("diversity", ["none", "mmr", "dpp"])
@pytest.mark.parametrize("num_slots", [1, 2])
@pytest.mark.parametrize("name", POLICIES)
def test_propensities_pass_chi_square(name: str, num_slots: int, diversity: str) -> None:
    """One decision again and again: its posterior samples fixed, its coins drawn anew.

    The distribution of the whole slate is then a product of logged propensities: the same slate
    always logs the same number, and those numbers are the slates' probabilities.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    logged: dict[tuple[int, ...], float] = {}
    slates = slates_of(Frozen(POLICIES[name]), num_slots, diversity)
    for chosen, propensities in zip(
        slates.chosen_BK.tolist(), slates.propensity_BK.prod(1).tolist(), strict=True
    ):
        key = tuple(chosen)
        counts[key] += 1
        assert logged.setdefault(key, propensities) == pytest.approx(propensities)
    expected = np.array([logged[key] for key in counts])
    observed = np.array([counts[key] for key in counts], float)
    often = expected * NUM_DRAWS >= 5.0
    rest = 1.0 - expected[often].sum()
    assert rest > -1e-9
    table = np.append(observed[often], observed[~often].sum())
    probabilities = np.append(expected[often], max(rest, 0.0))
    if probabilities[-1] * NUM_DRAWS < 5.0:
        table, probabilities = table[:-1], probabilities[:-1]
    if len(table) > 1:
        result = stats.chisquare(table, probabilities / probabilities.sum() * table.sum())
        assert result.pvalue > 1e-4, (dict(counts), logged)


class Frozen:
    """A policy whose requests all see the posterior samples of the first."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def start(self, mean_BS, deviation_BS, rngs):  # type: ignore[no-untyped-def]
        """Start every request with the same random numbers."""
        del rngs
        same = [np.random.default_rng(5) for _ in range(len(mean_BS))]
        return self._policy.start(mean_BS, deviation_BS, same)


def test_diversity_keeps_copies_apart() -> None:
    """Two pairs of copies: without diversity the pair of the best, with it one of each."""
    mean = np.array([[0.9, 0.89, 0.8, 0.2]])
    vectors = np.array([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]], np.float32)
    chosen = {}
    for kind in ("none", "mmr", "dpp"):
        section = DiversitySection.model_validate({"kind": kind, "strength": 0.5})
        slates = fill(
            policy_of(PolicySection(kind="greedy")),
            mean,
            np.zeros_like(mean),
            None,
            2,
            np.random.default_rng(0),
            max_explore_slots=0,
            penalty=penalty_of(section, mean, vectors),
        )
        chosen[kind] = slates.chosen_BK[0].tolist()
    assert chosen == {"none": [0, 1], "mmr": [0, 2], "dpp": [0, 2]}


def test_a_mixture_learns_its_strength_from_the_slate() -> None:
    """Weights 1/2 each: greedy shows item 0 for certain, strength 2 rarely; seeing item 4 rules
    greedy out."""
    mean, deviation = np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]])
    mixture = Mixture((0.0, 2.0), 64)
    rngs = [np.random.default_rng(seed) for seed in range(200)]
    slates = fill(
        mixture,
        np.repeat(mean, 200, 0),
        np.repeat(deviation, 200, 0),
        None,
        1,
        rngs,
        max_explore_slots=1,
    )
    assert slates.weight_BG is not None
    surprising = slates.chosen_BK[:, 0] == 1
    assert surprising.any()
    assert (slates.weight_BG[surprising, 0] == 0.0).all()
    assert (slates.weight_BG[~surprising, 0] > 0.5).all()
