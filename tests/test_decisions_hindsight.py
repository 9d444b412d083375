"""What is told beforehand by benchmarks/decisions/hindsight.py, and who gains by it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.decisions.environments.headlines import Stream
from benchmarks.decisions.hindsight import Factors, Linear, Population, Prior, ridge_fit, waves
from benchmarks.decisions.interface import Agent, Floats, Informed, Run
from benchmarks.decisions.playing import share
from benchmarks.decisions.runs import Known, Sessions, Table, staggered

NUM_USERS, NUM_ITEMS = 60, 20


def tastes() -> Floats:
    """Users like the even items or the odd ones, by .6 for .4; nothing else differs."""
    rng = np.random.default_rng(0)
    sign_U = np.where(np.arange(NUM_USERS) % 2, 1.0, -1.0)
    sign_J = np.where(np.arange(NUM_ITEMS) % 2, 1.0, -1.0)
    noise_UJ = 0.02 * rng.normal(size=(NUM_USERS, NUM_ITEMS))
    rewards_UJ: Floats = 0.5 + 0.1 * sign_U[:, None] * sign_J + noise_UJ
    return rewards_UJ


def sessions() -> Sessions:
    rng = np.random.default_rng(1)
    return Sessions(
        items_UN=np.tile(np.arange(NUM_ITEMS), (NUM_USERS, 1)),
        rewards_UN=tastes(),
        num_items=NUM_ITEMS,
        text_JE=rng.normal(size=(NUM_ITEMS, 4)).astype(np.float32),
        arrivals=staggered(NUM_USERS, 6, 5, rng),
    )


def earned(agent: Agent, run: Run) -> float:
    assert isinstance(agent, Informed)
    agent.inform(run)
    total = 0.0
    for batch in run.batches():
        choice = agent.choose(batch)
        feedback = run.feedback(batch, choice)
        agent.learn(batch, choice, feedback)
        total += float(feedback.value_BK[np.isfinite(feedback.reward_BK)].sum())
    return share(total, run.totals())


def rng() -> np.random.Generator:
    return np.random.default_rng(2)


def test_the_population_learns_a_users_taste_that_item_rates_do_not_show() -> None:
    """Item means are all alike; after one item the sign of the user is known."""
    rates = earned(Population(sessions().world, rng(), rank=0), sessions())
    factors = earned(Population(sessions().world, rng(), rank=2), sessions())
    assert rates < 0.3
    assert factors > 0.7


def test_factors_find_the_planted_direction() -> None:
    known = sessions().known()
    told = Factors(known, np.arange(len(known.items_N)), NUM_ITEMS, rank=1)
    sign_J = np.where(np.arange(NUM_ITEMS) % 2, 1.0, -1.0)
    assert abs(np.corrcoef(told.factors_JK[:, 0], sign_J)[0, 1]) > 0.99
    assert told.noise < 0.005


def test_an_items_mean_is_drawn_to_the_overall_mean() -> None:
    """Rewards 1, 1 of item 0 and 0, 0 of item 1: (2 + 5 * .5) / (2 + 5) and (0 + 2.5) / 7."""
    known = Known(
        users_N=np.arange(4),
        items_N=np.array([0, 0, 1, 1]),
        reward_N=np.array([1.0, 1.0, 0.0, 0.0]),
    )
    told = Factors(known, np.arange(4), 2, rank=0)
    np.testing.assert_allclose(told.mean_J, [4.5 / 7, 2.5 / 7])


def test_a_users_own_effect_with_an_item_is_learnt() -> None:
    """Seen .5 above the mean once, pair variance = noise: the item gains .5 / 2 of the two."""
    run = sessions()
    agent = Population(run.world, rng(), rank=0, pair=1.0)
    agent.inform(run)
    told = agent._folds[0]
    agent._items[0], agent._rewards[0] = [3], [float(told.mean_J[3]) + 0.5]
    score_S = agent._score(0, np.array([3, 4]))
    np.testing.assert_allclose(score_S - told.mean_J[[3, 4]], [0.25, 0.0], atol=1e-12)


def lines() -> Table:
    """The better of two items is the sign of a number."""
    x_R1 = np.random.default_rng(3).normal(size=(400, 1))
    values_RA = np.column_stack([0.5 + 0.1 * x_R1[:, 0], 0.5 - 0.1 * x_R1[:, 0]])
    return Table(
        values_RA=values_RA,
        rewards_RA=values_RA,
        context_RQ=x_R1,
        context_is_text=False,
        batch_size=4,
    )


@pytest.mark.parametrize(("hindsight", "least"), [(True, 0.99), (False, 0.9)])
def test_a_linear_world_is_reachable_in_hindsight_and_nearly_so_request_by_request(
    hindsight: bool, least: float
) -> None:
    agent = Linear(lines().world, rng(), ridge=1.0, hindsight=hindsight)
    assert earned(agent, lines()) > least


def test_nothing_of_a_request_is_told_before_it() -> None:
    """The first ten requests come before any fit, so all their scores are 0."""
    agent = Linear(lines().world, rng(), ridge=1.0, hindsight=False)
    agent.inform(lines())
    assert not agent._score_RA[:10].any()
    assert agent._score_RA[10:].all()


def test_ridge_shrinks_the_slope_and_not_the_mean() -> None:
    """x = -1, 1; y less its mean 1/2 = -1/2, 1/2: slope (1/2 + 1/2) / (2 + 2) = 1/4."""
    x_NQ = np.array([[1.0, -1.0], [1.0, 1.0]])
    np.testing.assert_allclose(ridge_fit(x_NQ, np.array([0.0, 1.0]), 2.0), [0.5, 0.25])


def test_the_prior_of_headlines_knows_what_their_text_says() -> None:
    """60 tests of 2 items; the first component of the text tells which rate is the higher."""
    sign_J = np.tile([1.0, -1.0], 60)
    noise = np.random.default_rng(4)
    text_JE = np.column_stack([sign_J, 0.1 * noise.normal(size=120)]).astype(np.float32)

    def stream() -> Stream:
        items_of = list(np.arange(120).reshape(60, 2))
        rates_J = 0.02 * (1.0 + 0.3 * sign_J)
        return Stream(
            items_of=items_of, rates_J=rates_J, text_JE=text_JE, rng=np.random.default_rng(5)
        )

    blind = earned(Prior(stream().world, rng(), scale=0.1, with_text=False), stream())
    told = earned(Prior(stream().world, rng(), scale=0.1, with_text=True), stream())
    assert blind < 0.8
    assert told > 0.95


def test_waves_are_a_kernel_of_the_distance() -> None:
    """Two points sqrt(2 Q) apart at width 1: exp(-2 Q / (2 Q)) = .37; the first with itself: 1."""
    x_RQ = np.vstack([np.zeros(8), np.full(8, np.sqrt(2.0))])
    wave_RW = waves(x_RQ, 1.0)[:, 1:]
    np.testing.assert_allclose(wave_RW @ wave_RW[0], [1.0, np.exp(-1.0)], atol=0.1)
