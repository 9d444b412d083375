"""Estimators by hand-worked numbers, and against a known truth by moments."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rove.errors import DataError
from rove.ope import (
    Log,
    Logged,
    SlateLog,
    cascade_doubly_robust,
    categories_of,
    direct,
    doubly_robust,
    independent_ips,
    ips,
    mips,
    replay,
    reward_interaction_ips,
    self_normalised_doubly_robust,
    shrunk_doubly_robust,
    snips,
    standard_ips,
    switch_doubly_robust,
)
from rove.ope.log import Floats


def four_rows(**changes: object) -> Log:
    """Return four decisions of two actions: weights 1.6, 0.4, 1.6, 0.4."""
    fields: dict[str, object] = {
        "action_N": np.array([0, 1, 0, 1]),
        "reward_N": np.array([1.0, 0.0, 0.0, 1.0]),
        "propensity_N": np.full(4, 0.5),
        "num_actions": 2,
        "logging_NS": np.full((4, 2), 0.5),
        "evaluation": np.tile([0.8, 0.2], (4, 1)),
        "q_NS": np.tile([0.5, 0.25], (4, 1)),
    }
    return Log(**{**fields, **changes})  # type: ignore[arg-type]


def simulated(n: int, rng: np.random.Generator, q_error: float = 0.0) -> Log:
    """Return a log of three actions whose true value is .5 * .2 + .4 * .5 + .1 * .8 = .38."""
    mean_S, logging_S = np.array([0.2, 0.5, 0.8]), np.array([0.2, 0.3, 0.5])
    evaluation_S = np.array([0.5, 0.4, 0.1])
    action_N = rng.choice(3, size=n, p=logging_S)
    logged = Logged(
        action_N=action_N,
        reward_N=(rng.random(n) < mean_S[action_N]).astype(float),
        propensity_N=logging_S[action_N],
        num_actions=3,
        logging_NS=np.tile(logging_S, (n, 1)),
    )
    q_NS = np.tile(mean_S + q_error, (n, 1))
    return logged.under(np.tile(evaluation_S, (n, 1)), q_NS=q_NS)


def test_ips_is_the_mean_of_weighted_rewards() -> None:
    """(1.6 * 1 + 0.4 * 0 + 1.6 * 0 + 0.4 * 1) / 4 = 0.5."""
    assert ips(four_rows()).value == pytest.approx(0.5)


def test_clipped_ips_cuts_weights() -> None:
    """(1 * 1 + 0.4 * 1) / 4 = 0.35; no term leaves [0, 1]."""
    clipped = ips(four_rows(), clip=1.0)
    assert clipped.value == pytest.approx(0.35)
    assert clipped.bounds == (0.0, 1.0)


def test_snips_divides_by_the_weights() -> None:
    """2 / (1.6 + 0.4 + 1.6 + 0.4) = 0.5; with rewards of one it is exactly one."""
    assert snips(four_rows()).value == pytest.approx(0.5)
    assert snips(four_rows(reward_N=np.ones(4))).value == pytest.approx(1.0)


def test_the_direct_method_averages_predictions() -> None:
    """0.8 * 0.5 + 0.2 * 0.25 = 0.45."""
    assert direct(four_rows()).value == pytest.approx(0.45)


def test_doubly_robust_adds_weighted_residuals() -> None:
    """0.45 + (1.6 * 0.5 - 0.4 * 0.25 - 1.6 * 0.5 + 0.4 * 0.75) / 4 = 0.45 + 0.2 / 4 = 0.5."""
    assert doubly_robust(four_rows()).value == pytest.approx(0.5)


def test_self_normalised_doubly_robust_normalises_the_residuals() -> None:
    """Three rows: weights 1.6, 0.4, 1.6; 0.45 + (0.8 - 0.1 - 0.8) / 3.6."""
    log = four_rows()
    three = Logged(
        action_N=log.action_N[:3],
        reward_N=log.reward_N[:3],
        propensity_N=log.propensity_N[:3],
        num_actions=2,
    ).under(np.tile([0.8, 0.2], (3, 1)), q_NS=np.tile([0.5, 0.25], (3, 1)))
    assert self_normalised_doubly_robust(three).value == pytest.approx(0.45 - 0.1 / 3.6)


def test_switch_leaves_rows_with_large_weights_to_the_predictions() -> None:
    """Only weights 0.4: 0.45 + (-0.1 + 0.3) / 4 = 0.5; with threshold 0 it is the direct method."""
    assert switch_doubly_robust(four_rows(), 1.0).value == pytest.approx(0.5)
    assert switch_doubly_robust(four_rows(), 0.0).value == pytest.approx(0.45)


def test_shrinkage_lies_between_direct_and_doubly_robust() -> None:
    """u = w / (w^2 + 1): 0.4 / 1.16; 0.45 + u (-0.25 + 0.75) / 4, the other two rows cancel."""
    log = four_rows()
    expected = 0.45 + 0.4 / 1.16 * 0.5 / 4
    assert shrunk_doubly_robust(log, 1.0).value == pytest.approx(expected)
    assert shrunk_doubly_robust(log, 0.0).value == pytest.approx(direct(log).value)
    assert shrunk_doubly_robust(log, np.inf).value == pytest.approx(doubly_robust(log).value)


def test_mips_weighs_categories() -> None:
    """One category: all weights 1, the mean reward 0.5; a category each: IPS."""
    log = four_rows(category_S=np.array([0, 0]), reward_N=np.array([1.0, 1.0, 1.0, 0.0]))
    assert mips(log).value == pytest.approx(0.75)
    each = four_rows(category_S=np.array([0, 1]))
    assert mips(each).value == pytest.approx(ips(each).value)


def test_replay_of_a_deterministic_policy_keeps_the_rows_that_agree() -> None:
    """Action 0 always: rows 0 and 2 agree, with rewards 1 and 0."""
    log = four_rows(evaluation=np.tile([1.0, 0.0], (4, 1)))
    kept = replay(log, np.random.default_rng(0))
    assert kept.denominator_N is not None
    assert kept.denominator_N.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert kept.value == pytest.approx(0.5)


def test_the_influence_of_a_ratio_is_its_linearisation() -> None:
    """(w r - 0.5 w) / 1: weights average 1, so +-0.8 and -+0.2; error sqrt(1.36 / 12)."""
    estimate = snips(four_rows())
    assert estimate.influence_N == pytest.approx([0.8, -0.2, -0.8, 0.2])
    assert estimate.standard_error == pytest.approx(np.sqrt(1.36 / 12))


def test_unbiased_estimators_average_to_the_truth_whatever_the_predictions() -> None:
    rng = np.random.default_rng(1)
    values, truth = [], 0.38
    for _ in range(400):
        log = simulated(200, rng, q_error=0.3)
        values.append([one(log).value for one in (ips, snips, doubly_robust, direct)])
    mean, deviation = np.mean(values, axis=0), np.std(values, axis=0)
    assert mean[:3] == pytest.approx([truth] * 3, abs=4 * deviation[:3].max() / 20)
    assert mean[3] == pytest.approx(truth + 0.3)


def test_good_predictions_take_variance_away() -> None:
    rng = np.random.default_rng(2)
    logs = [simulated(200, rng) for _ in range(300)]
    spread_ips = np.std([ips(log).value for log in logs])
    assert np.std([doubly_robust(log).value for log in logs]) < 0.95 * spread_ips


def test_the_standard_error_is_the_deviation_over_logs() -> None:
    rng = np.random.default_rng(3)
    logs = [simulated(500, rng, 0.1) for _ in range(400)]
    for estimator in (ips, snips, doubly_robust, self_normalised_doubly_robust):
        estimates = [estimator(log) for log in logs]
        spread = np.std([one.value for one in estimates])
        assert np.mean([one.standard_error for one in estimates]) == pytest.approx(spread, rel=0.1)


def test_estimators_say_what_a_log_lacks() -> None:
    with pytest.raises(DataError, match=re.escape("need q_NS and evaluation (N, S)")):
        doubly_robust(four_rows(q_NS=None))
    with pytest.raises(DataError, match=re.escape("MIPS needs category_S")):
        mips(four_rows())
    apart = four_rows(evaluation=np.zeros(4), q_NS=None)
    with pytest.raises(DataError, match=re.escape("takes none of the logged actions")):
        snips(apart)


def test_categories_group_actions_by_embedding() -> None:
    embeddings = np.array([[0.0, 0.1], [5.0, 5.1], [0.1, 0.0], [5.1, 5.0]])
    category = categories_of(embeddings, 2, np.random.default_rng(0))
    assert category[0] == category[2] != category[1] == category[3]


def two_slates(q_NK: Floats | None = None, v_NK: Floats | None = None) -> SlateLog:
    """Return two slates of two slots with weights (2, 0.5) and (0.5, 2)."""
    return SlateLog(
        reward_NK=np.array([[1.0, 1.0], [0.0, 1.0]]),
        propensity_NK=np.full((2, 2), 0.4),
        evaluation_NK=np.array([[0.8, 0.2], [0.2, 0.8]]),
        q_NK=q_NK,
        v_NK=v_NK,
    )


def test_slate_weights_are_whole_by_slot_or_cumulated() -> None:
    """Whole: (1 * 2 + 1 * 1) / 2; by slot: (2.5 + 2) / 2; cumulated: (2 + 1 + 0 + 1) / 2."""
    assert standard_ips(two_slates()).value == pytest.approx(1.5)
    assert independent_ips(two_slates()).value == pytest.approx(2.25)
    assert reward_interaction_ips(two_slates()).value == pytest.approx(2.0)


def test_cascade_doubly_robust_corrects_slot_by_slot() -> None:
    """With q = 0.5, v = 0.25, row one: 2 * 0.5 + 0.25 + 1 * 0.5 + 2 * 0.25 = 2.25;

    row two: 0.5 * -0.5 + 0.25 + 1 * 0.5 + 0.5 * 0.25 = 0.625; mean 1.4375.
    """
    log = two_slates(np.full((2, 2), 0.5), np.full((2, 2), 0.25))
    assert cascade_doubly_robust(log).value == pytest.approx(1.4375)
    plain = two_slates(np.zeros((2, 2)), np.zeros((2, 2)))
    assert cascade_doubly_robust(plain).value == pytest.approx(2.0)


def test_cascade_doubly_robust_needs_predictions() -> None:
    with pytest.raises(DataError, match=re.escape("cascade-DR needs q_NK and v_NK")):
        cascade_doubly_robust(two_slates())


def test_slate_estimators_find_the_value_of_a_cascade() -> None:
    """Two slots of two items; the second pays only if the first was item 0.

    Evaluation takes item 0 with .8 each time: .8 * .5 + .8 * .8 * .5 = .72.
    """
    rng = np.random.default_rng(4)
    n = 40_000
    item_NK = (rng.random((n, 2)) < 0.5).astype(int)
    hit = item_NK[:, 0] == 0
    rate_NK = 0.5 * np.stack([hit, hit & (item_NK[:, 1] == 0)], axis=1)
    evaluation_NK = np.where(item_NK == 0, 0.8, 0.2)
    log = SlateLog(
        reward_NK=(rng.random((n, 2)) < rate_NK).astype(float),
        propensity_NK=np.full((n, 2), 0.5),
        evaluation_NK=evaluation_NK,
        q_NK=rate_NK,
        v_NK=np.stack([np.full(n, 0.4), 0.4 * hit], axis=1),
    )
    for estimator in (standard_ips, reward_interaction_ips, cascade_doubly_robust):
        estimate = estimator(log)
        assert abs(estimate.value - 0.72) < 4 * estimate.standard_error
    # The slot weights ignore that the first slot decides about the second: .8 * .5 + .8 * .25.
    assert independent_ips(log).value == pytest.approx(0.6, abs=0.03)
