"""Intervals: by hand, and by how often they contain a known truth."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from rove.errors import DataError
from rove.ope import (
    Estimate,
    Log,
    Logged,
    bootstrap,
    confidence_sequence,
    cross_fitted,
    doubly_robust,
    empirical_bernstein,
    ips,
    least_error,
    predicted_ahead,
    shrunk_doubly_robust,
    slope,
    snips,
    switch_doubly_robust,
    tuned_ips,
    tuned_shrinkage,
    tuned_switch,
)
from rove.ope.intervals import Kind, from_draws, resample

TRUTH = 0.5 * 0.2 + 0.4 * 0.5 + 0.1 * 0.8
KINDS: tuple[Kind, ...] = ("percentile", "bca", "studentised", "normal")


def simulated(n: int, rng: np.random.Generator, q: float = 0.4) -> Log:
    """Return a log of three actions with mean rewards .2, .5, .8; the true value is .38."""
    logging_S = np.array([0.2, 0.3, 0.5])
    action_N = rng.choice(3, size=n, p=logging_S)
    logged = Logged(
        action_N=action_N,
        reward_N=(rng.random(n) < np.array([0.2, 0.5, 0.8])[action_N]).astype(float),
        propensity_N=logging_S[action_N],
        num_actions=3,
        logging_NS=np.tile(logging_S, (n, 1)),
    )
    evaluation_NS = np.tile([0.5, 0.4, 0.1], (n, 1))
    return logged.under(evaluation_NS, q_NS=np.full((n, 3), q), max_weight=2.5)


def fixed(name: str, *terms: float) -> Estimate:
    return Estimate(name=name, term_N=np.array(terms))


@pytest.mark.parametrize("kind", KINDS)
def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say(kind: Kind) -> None:
    """300 logs: 95 % less four standard errors is 90 %, more is 100 %."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        log = simulated(200, rng)
        estimates = [ips(log), snips(log), doubly_robust(log)]
        found = bootstrap(estimates, rng, kind=kind, draws=300)
        hits.append([one.low <= TRUTH <= one.high for one in found])
    assert np.mean(hits, axis=0).min() > 0.90
    assert np.mean(hits, axis=0).max() < 0.99


def test_resampled_values_and_errors_are_those_of_the_estimates() -> None:
    """Their mean is the value, their deviation the standard error, for means and ratios."""
    log = simulated(400, np.random.default_rng(1))
    estimates = [ips(log), snips(log)]
    values, errors = resample(estimates, np.random.default_rng(2), 4000)
    for column, one in enumerate(estimates):
        assert values[:, column].mean() == pytest.approx(one.value, abs=0.1 * one.standard_error)
        assert values[:, column].std() == pytest.approx(one.standard_error, rel=0.05)
        assert errors[:, column].mean() == pytest.approx(one.standard_error, rel=0.05)


def test_each_kind_is_read_from_the_draws_in_its_own_way() -> None:
    """Terms 0, 4, error 2; values 0, 1, 2, 3, 4 drawn with errors 1, 1, 1, 1, 1.

    percentile at 50 %: 1 to 3; studentised: t from -1 to 1, 2 +- 2; normal: 2 +- .674 * 2.
    """
    estimate, values = fixed("x", 0.0, 4.0), np.arange(5.0)[:, None]
    found = {
        kind: from_draws([estimate], values, np.ones((5, 1)), kind=kind, level=0.5)[0]
        for kind in KINDS
    }
    assert (found["percentile"].low, found["percentile"].high) == (1.0, 3.0)
    assert (found["studentised"].low, found["studentised"].high) == (0.0, 4.0)
    assert found["normal"].high == pytest.approx(2 + 0.6745 * 2, abs=1e-4)
    # No bias and no skewness: BCa is the percentile interval.
    assert (found["bca"].low, found["bca"].high) == pytest.approx((1.0, 3.0))
    assert (
        found["normal"]
        == bootstrap([estimate], np.random.default_rng(0), kind="normal", level=0.5)[0]
    )
    assert [one.kind for one in found.values()] == list(KINDS)


def test_the_same_generator_gives_the_same_interval() -> None:
    estimates = [ips(simulated(100, np.random.default_rng(3)))]
    first, second = (bootstrap(estimates, np.random.default_rng(4), draws=50) for _ in range(2))
    assert first == second


def test_an_interval_of_equal_terms_is_a_point() -> None:
    for kind in KINDS:
        found = bootstrap([fixed("x", 2.0, 2.0, 2.0)], np.random.default_rng(0), kind=kind)[0]
        assert (found.low, found.high) == (2.0, 2.0)


def test_empirical_bernstein_by_hand() -> None:
    """Terms 0, 1 in [0, 2]: V = 1/2, N = 2, ln(4 / .05) = L; margin sqrt(L / 2) + 14 L / 3."""
    log_risk = math.log(80)
    estimate = Estimate(name="x", term_N=np.array([0.0, 1.0]), bounds=(0.0, 2.0))
    found = empirical_bernstein(estimate)
    assert found.high - 0.5 == pytest.approx(math.sqrt(log_risk / 2) + 14 * log_risk / 3)
    assert found.low == pytest.approx(1 - found.high)


def test_empirical_bernstein_refuses_what_it_cannot_bound() -> None:
    log = simulated(50, np.random.default_rng(5))
    with pytest.raises(DataError, match=re.escape("got the ratio SNIPS; use the bootstrap")):
        empirical_bernstein(snips(log))
    with pytest.raises(DataError, match=re.escape("needs bounds of the terms, got x without")):
        empirical_bernstein(fixed("x", 1.0, 2.0))


@pytest.mark.parametrize("predictions", ["none", "mean", "ahead"])
def test_a_confidence_sequence_covers_the_truth_after_every_row(predictions: str) -> None:
    """200 logs, each after all of its 300 rows: at least 95 % less two standard errors."""
    rng = np.random.default_rng(6)
    hits = []
    for _ in range(200):
        log = simulated(300, rng)
        if predictions == "none":
            chosen_N = log.weight_N * log.propensity_N
            log = Logged(
                action_N=log.action_N,
                reward_N=log.reward_N,
                propensity_N=log.propensity_N,
                num_actions=3,
            ).under(chosen_N)
        q_NS = predicted_ahead(log) if predictions == "ahead" else None
        hits.append(confidence_sequence(log, q_NS=q_NS).always_covers(TRUTH))
    assert np.mean(hits) > 0.92


def test_a_confidence_sequence_narrows_to_the_truth() -> None:
    """At the horizon it is at most half wider than the interval that may be looked at once."""
    log = simulated(4000, np.random.default_rng(7))
    found = confidence_sequence(log)
    assert (np.diff(found.low) >= 0).all() and (np.diff(found.high) <= 0).all()
    assert found.low[-1] <= TRUTH <= found.high[-1]
    once = bootstrap([doubly_robust(log)], np.random.default_rng(0), kind="normal")[0]
    assert found.high[-1] - found.low[-1] < 1.55 * (once.high - once.low)


def test_the_sequence_and_its_capital_agree() -> None:
    """A value that the bounds exclude has had capital beyond 1 / risk, one within has not."""
    log = simulated(500, np.random.default_rng(8))
    found = confidence_sequence(log, times=np.arange(1, 501))
    assert found.always_covers(float(found.low[-1]) + 1e-6)
    assert not found.always_covers(float(found.low[-1]) - 1e-6)
    assert not found.always_covers(float(found.high[-1]) + 1e-6)


def test_a_sequence_keeps_the_scale_of_the_rewards() -> None:
    """Rewards 2 r - 1 in [-1, 1] give bounds 2 b - 1."""
    log = simulated(400, np.random.default_rng(9))
    wide = Logged(
        action_N=log.action_N,
        reward_N=2 * log.reward_N - 1,
        propensity_N=log.propensity_N,
        num_actions=3,
        logging_NS=log.logging_NS,
        reward_range=(-1.0, 1.0),
    ).under(log.evaluation)
    assert confidence_sequence(wide).low == pytest.approx(2 * confidence_sequence(log).low - 1)


def test_later_rewards_do_not_change_earlier_bounds() -> None:
    log = simulated(300, np.random.default_rng(10))
    changed = Logged(
        action_N=log.action_N,
        reward_N=np.where(np.arange(300) < 200, log.reward_N, 1 - log.reward_N),
        propensity_N=log.propensity_N,
        num_actions=3,
        logging_NS=log.logging_NS,
    ).under(log.evaluation)
    times = np.arange(1, 201)
    first = confidence_sequence(log, q_NS=predicted_ahead(log), times=times)
    second = confidence_sequence(changed, q_NS=predicted_ahead(changed), times=times)
    assert np.array_equal(first.low, second.low) and np.array_equal(first.high, second.high)


def test_a_sequence_refuses_predictions_it_cannot_use() -> None:
    log = Logged(
        action_N=np.array([0, 1]),
        reward_N=np.array([0.0, 1.0]),
        propensity_N=np.array([0.5, 0.5]),
        num_actions=2,
    ).under(np.array([0.5, 0.5]))
    with pytest.raises(DataError, match=re.escape("needs logging_NS and evaluation (N, S)")):
        confidence_sequence(log, q_NS=np.zeros((2, 2)))
    with pytest.raises(DataError, match=re.escape("times must be within 1..2")):
        confidence_sequence(log, times=np.array([3]))


def test_slope_stops_before_intervals_part() -> None:
    """Errors 1 and 0.1: 0 +- 2 meets 1.9 +- .2, and all three do not meet 2.5 +- .2."""
    wide = fixed("a", -1.0, 1.0)  # value 0, error 1
    near, far = fixed("b", 1.8, 2.0), fixed("c", 2.4, 2.6)
    assert slope([wide, near]) == 1
    assert slope([wide, near, far]) == 1
    assert slope([wide, far]) == 0


def test_least_error_weighs_bias_against_variance() -> None:
    """Biased by 0.1 with no error beats an error of 1; biased by 10 does not."""
    wide = fixed("a", -1.0, 1.0, -1.0, 1.0, -1.0, 1.0)
    near, far = fixed("b", -0.9, 0.9, -0.9, 0.9, -0.8, 1.0), fixed("c", *[10.0] * 6)
    assert least_error([wide, near, far]) == 1
    assert least_error([wide, far]) == 0


def test_tuned_estimators_stay_with_the_unbiased_one_on_much_data() -> None:
    """Predictions of .4 for all are wrong: the direct method would be at .4 instead of .38."""
    log = simulated(20_000, np.random.default_rng(11), q=0.9)
    for tuned in (tuned_ips(log), tuned_switch(log), tuned_shrinkage(log)):
        assert abs(tuned.value - TRUTH) < 4 * doubly_robust(log).standard_error
        assert tuned.bounds is None


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_levels_outside_zero_and_one_are_refused(level: float) -> None:
    one, rng = fixed("x", 0.0, 1.0), np.random.default_rng(0)
    message = re.escape(f"a confidence level is between 0 and 1, got {level}")
    with pytest.raises(DataError, match=message):
        bootstrap([one], rng, level=level)
    with pytest.raises(DataError, match=message):
        empirical_bernstein(one, level=level)
    with pytest.raises(DataError, match=message):
        confidence_sequence(simulated(20, rng), level=level)


def test_a_bootstrap_of_nothing_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match=re.escape("got 0 estimates and 1000 draws")):
        bootstrap([], rng)
    with pytest.raises(DataError, match=re.escape("got 1 estimates and 0 draws")):
        bootstrap([fixed("x", 0.0, 1.0)], rng, draws=0)


def test_dials_that_are_no_numbers_are_refused() -> None:
    log = simulated(20, np.random.default_rng(0))
    with pytest.raises(DataError, match=re.escape("clip must be a number of at least 0, got nan")):
        ips(log, float("nan"))
    with pytest.raises(DataError, match=re.escape("threshold must be a number of at least 0")):
        switch_doubly_robust(log, -1.0)
    with pytest.raises(DataError, match=re.escape("shrinkage must be a number of at least 0")):
        shrunk_doubly_robust(log, float("nan"))
    with pytest.raises(DataError, match=re.escape("at least 2 folds, got 1")):
        cross_fitted(log, np.random.default_rng(0), folds=1)
