"""What a log may hold, what is left out and counted, and what the diagnostics say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rove.errors import DataError
from rove.ope import (
    Logged,
    SlateLog,
    clean,
    cross_fitted,
    diagnose,
    diagnose_slates,
    evaluate,
    predicted_ahead,
)


def logged(**changes: object) -> Logged:
    fields: dict[str, object] = {
        "action_N": np.array([0, 1, 1]),
        "reward_N": np.array([1.0, 0.0, 0.5]),
        "propensity_N": np.array([0.25, 0.75, 0.75]),
        "num_actions": 2,
    }
    return Logged(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_N": np.array([], dtype=int)}, "the log has no decisions"),
        ({"action_N": np.zeros((3, 1), int)}, "action_N must have the shape (3,), got (3, 1)"),
        ({"reward_range": (0.0, np.inf)}, "reward_range must be (low, high) with low < high"),
        ({"action_N": np.array([0.0, 1.0, 1.0])}, "actions must be whole numbers, got float64"),
        ({"action_N": np.array([0, 1, 2])}, "1 of 3 rows have an action outside 0..1; the first"),
        ({"reward_N": np.zeros(2)}, "reward_N must have the shape (3,), got (2,)"),
        ({"reward_N": np.array([0.0, np.nan, 0.0])}, "a reward that is no finite number"),
        ({"reward_N": np.array([0.0, 7.0, 9.0])}, "2 of 3 rows have a reward outside reward_range"),
        ({"reward_range": (1.0, 0.0)}, "reward_range must be (low, high) with low < high"),
        ({"propensity_N": np.array([0.5, 0.0, 1.0])}, "a propensity outside (0, 1]; the first is"),
        ({"propensity_N": np.array([0.5, 1.5, 1.0])}, "the first is row 1, got 1.5"),
        ({"propensity_N": np.array([0.5, np.nan, 1.0])}, "a propensity outside (0, 1]"),
        (
            {"logging_NS": np.full((3, 2), 0.4)},
            "3 of 3 rows have logging probabilities that do not",
        ),
        ({"logging_NS": np.tile([1.5, -0.5], (3, 1))}, "logging probabilities below 0 or NaN"),
        ({"logging_NS": np.full((3, 2), 0.5)}, "a propensity that is not logging_NS of its action"),
        ({"features_NF": np.full((3, 1), np.nan)}, "features that are no finite numbers"),
    ],
)
def test_a_log_that_breaks_a_rule_is_refused_with_the_reason(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        logged(**changes)


def test_an_evaluation_policy_that_breaks_a_rule_is_refused() -> None:
    good = np.tile([0.5, 0.5], (3, 1))
    with pytest.raises(DataError, match=re.escape("evaluation probabilities that do not sum")):
        logged().under(np.full((3, 2), 0.6))
    with pytest.raises(DataError, match=re.escape("an evaluation probability outside [0, 1]")):
        logged().under(np.array([0.5, 1.2, 0.0]))
    with pytest.raises(DataError, match=re.escape("predictions that are no finite numbers")):
        logged().under(good, q_NS=np.full((3, 2), np.inf))
    with pytest.raises(DataError, match=re.escape("category_S must have the shape (2,)")):
        logged().under(good, category_S=np.array([0, 1, 1]))
    with pytest.raises(DataError, match=re.escape("categories must be whole numbers, got float")):
        logged().under(good, category_S=np.array([0.0, 1.0]))
    with pytest.raises(DataError, match=re.escape("max_weight must be a number above 0, got nan")):
        logged().under(good, max_weight=np.nan)
    with pytest.raises(DataError, match=re.escape("a weight above max_weight 1.5; the first is")):
        logged().under(good, max_weight=1.5)


def test_a_slate_log_that_breaks_a_rule_is_refused() -> None:
    ones, halves = np.ones((2, 2)), np.full((2, 2), 0.5)
    with pytest.raises(DataError, match=re.escape("reward_NK must be (N, K) with N > 0")):
        SlateLog(reward_NK=np.ones(2), propensity_NK=ones, evaluation_NK=ones)
    with pytest.raises(DataError, match=re.escape("K > 0, got the shape (2, 0)")):
        SlateLog(reward_NK=ones[:, :0], propensity_NK=ones[:, :0], evaluation_NK=ones[:, :0])
    with pytest.raises(
        DataError, match=re.escape("2 of 2 rows have a reward outside reward_range")
    ):
        SlateLog(reward_NK=3 * ones, propensity_NK=ones, evaluation_NK=ones)
    with pytest.raises(DataError, match=re.escape("q_NK and v_NK go together")):
        SlateLog(reward_NK=ones, propensity_NK=ones, evaluation_NK=ones, q_NK=ones)
    with pytest.raises(DataError, match=re.escape("2 of 2 rows have a propensity outside (0, 1]")):
        SlateLog(reward_NK=ones, propensity_NK=0 * ones, evaluation_NK=halves)


def test_weights_are_ratios_of_probabilities() -> None:
    """.5 / .25 and .5 / .75."""
    log = logged().under(np.tile([0.5, 0.5], (3, 1)))
    assert log.weight_N == pytest.approx([2.0, 2 / 3, 2 / 3])
    assert logged().under(np.array([0.5, 0.5, 0.5])).weight_N == pytest.approx(log.weight_N)


def test_rows_that_cannot_be_used_are_left_out_and_counted() -> None:
    found, kept, report = clean(
        action_N=np.array([0, 5, 1, 1, 0, 0, 1]),
        reward_N=np.array([1.0, 1.0, np.nan, 0.0, 0.0, 0.0, 0.5]),
        propensity_N=np.array([0.5, 0.5, 0.5, 0.0, 1.5, np.nan, 0.5]),
        num_actions=2,
        features_NF=np.arange(7.0)[:, None],
    )
    assert np.flatnonzero(kept).tolist() == [0, 6]
    assert found.features_NF is not None and found.features_NF[:, 0].tolist() == [0.0, 6.0]
    assert report.skipped == {
        "action is not one of num_actions": 1,
        "no propensity": 1,
        "propensity is not above 0": 1,
        "propensity is above 1": 1,
        "no finite reward": 1,
    }
    assert report.examples["propensity is above 1"] == ("row 5: 1.5",)
    assert report.num_read == 7 and report.num_kept == 2


def test_probabilities_that_do_not_add_up_are_left_out() -> None:
    _, kept, report = clean(
        action_N=np.array([0, 0, 0, 0, 0, 0]),
        reward_N=np.zeros(6),
        propensity_N=np.array([0.5, 0.5, 0.4, 0.5, 0.5, 0.5]),
        num_actions=2,
        logging_NS=np.array([[0.5, 0.5]] + [[0.5, 0.2]] + [[0.5, 0.5]] + [[0.5, np.nan]] * 3),
    )
    assert kept.tolist() == [True] + [False] * 5
    assert report.skipped == {
        "probabilities do not sum to one": 4,
        "propensity is not that of the logged action": 1,
    }
    assert len(report.examples["probabilities do not sum to one"]) == 3


def test_a_log_without_propensities_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("log has no propensities, got 2 rows without")):
        clean(
            action_N=np.array([0, 0]),
            reward_N=np.zeros(2),
            propensity_N=np.full(2, np.nan),
            num_actions=1,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_N": np.zeros(0, int)}, "the log has no decisions"),
        ({"action_N": np.array([0.0, np.nan])}, "actions must be whole numbers, got float64"),
        ({"reward_N": np.zeros(3)}, "reward_N must have the shape (2,), got (3,)"),
        ({"propensity_N": np.ones((2, 1))}, "propensity_N must have the shape (2,), got (2, 1)"),
        ({"logging_NS": np.ones((2, 3))}, "logging_NS must have the shape (2, 1), got (2, 3)"),
        ({"features_NF": np.ones((1, 4))}, "features_NF must have the shape (2, 4), got (1, 4)"),
    ],
)
def test_columns_that_do_not_belong_together_are_refused(
    changes: dict[str, object], message: str
) -> None:
    fields: dict[str, object] = {
        "action_N": np.array([0, 0]),
        "reward_N": np.zeros(2),
        "propensity_N": np.ones(2),
        "num_actions": 1,
    }
    with pytest.raises(DataError, match=re.escape(message)):
        clean(**{**fields, **changes})  # type: ignore[arg-type]


def test_diagnostics_of_slates_are_those_of_whole_slates() -> None:
    """Weights 2 * 1 and .5 * 1: 2.5^2 / 4.25 effective rows; a mean far from 1 is spoken of."""
    ones = np.ones((2, 2))
    log = SlateLog(
        reward_NK=ones,
        propensity_NK=np.array([[0.25, 1.0], [0.5, 1.0]]),
        evaluation_NK=np.array([[0.5, 1.0], [0.25, 1.0]]),
    )
    found = diagnose_slates(log)
    assert found.effective_rows == pytest.approx(2.5**2 / 4.25)
    assert found.mean_weight == 1.25 and found.unlogged_mass is None
    many = SlateLog(
        reward_NK=np.ones((500, 1)),
        propensity_NK=np.full((500, 1), 0.25),
        evaluation_NK=np.full((500, 1), 0.5),
    )
    assert any("weights average 2.000" in line for line in diagnose_slates(many).advice())


def test_a_log_without_a_usable_row_is_refused_with_the_reasons() -> None:
    with pytest.raises(
        DataError, match=re.escape("left out 1: propensity is above 1 (row 1: 3.0)")
    ):
        clean(
            action_N=np.array([0]),
            reward_N=np.zeros(1),
            propensity_N=np.array([3.0]),
            num_actions=1,
        )


def test_rewards_out_of_range_are_refused_and_not_left_out() -> None:
    with pytest.raises(DataError, match=re.escape("correct the rewards, or set reward_range")):
        clean(
            action_N=np.array([0, 0]),
            reward_N=np.array([0.0, 2.0]),
            propensity_N=np.ones(2),
            num_actions=1,
        )


def test_diagnostics_count_effective_rows_and_overlap() -> None:
    """Weights 2, 2/3, 2/3: (10/3)^2 / (4 + 8/9) = 100 / 44."""
    three = logged(num_actions=3).under(np.tile([0.5, 0.5, 0.0], (3, 1)))
    found = diagnose(three)
    assert found.effective_rows == pytest.approx(100 / 44)
    assert found.largest_weight == pytest.approx(2.0)
    assert found.largest_share == pytest.approx(0.6)
    assert found.mean_weight == pytest.approx(10 / 9)
    assert found.unlogged_mass == 0.0 and found.unsupported_mass is None
    missing = diagnose(logged(num_actions=3).under(np.tile([0.5, 0.3, 0.2], (3, 1))))
    assert missing.unlogged_mass == pytest.approx(0.2)


def test_unsupported_mass_is_where_the_logging_policy_never_goes() -> None:
    log = logged(
        num_actions=3, logging_NS=np.tile([0.25, 0.75, 0.0], (3, 1)), features_NF=np.ones((3, 1))
    ).under(np.tile([0.5, 0.2, 0.3], (3, 1)))
    found = diagnose(log)
    assert found.unsupported_mass == pytest.approx(0.3)
    assert any("30.0% of the policy's choices have propensity 0" in one for one in found.advice())


def test_advice_is_silent_where_overlap_is_good_and_speaks_where_it_is_not() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    action_N = rng.integers(2, size=n)
    same = Logged(
        action_N=action_N,
        reward_N=rng.random(n),
        propensity_N=np.full(n, 0.5),
        num_actions=2,
    )
    assert diagnose(same.under(np.full(n, 0.5))).advice() == []
    wrong = diagnose(same.under(np.full(n, 0.2))).advice()
    assert len(wrong) == 1 and "weights average 0.400 instead of 1" in wrong[0]
    few = np.where(np.arange(n) < 3, 0.5, 0.0)
    assert any(
        "only 3 effective rows of 2,000" in one for one in diagnose(same.under(few)).advice()
    )


def linear(n: int, rng: np.random.Generator) -> tuple[Logged, np.ndarray[tuple[int, int]]]:
    """Return a log whose mean rewards are .5 + .2 x and .5 - .2 x, and these means."""
    x_N = rng.uniform(-1, 1, n)
    mean_NS = np.stack([0.5 + 0.2 * x_N, 0.5 - 0.2 * x_N], axis=1)
    action_N = rng.integers(2, size=n)
    found = Logged(
        action_N=action_N,
        reward_N=mean_NS[np.arange(n), action_N] + rng.uniform(-0.2, 0.2, n),
        propensity_N=np.full(n, 0.5),
        num_actions=2,
        logging_NS=np.full((n, 2), 0.5),
        features_NF=x_N[:, None],
    )
    return found, mean_NS


def test_cross_fitted_predictions_find_linear_rewards() -> None:
    found, mean_NS = linear(1000, np.random.default_rng(1))
    q_NS = cross_fitted(found, np.random.default_rng(2))
    assert np.abs(q_NS - mean_NS).mean() < 0.02


def test_a_row_is_never_predicted_from_its_own_reward() -> None:
    found, _ = linear(60, np.random.default_rng(3))
    before = cross_fitted(found, np.random.default_rng(4))
    found.reward_N[7] = 0.0
    after = cross_fitted(found, np.random.default_rng(4))
    assert np.array_equal(before[7], after[7])
    assert not np.array_equal(before, after)


def test_predictions_ahead_know_only_earlier_rows() -> None:
    found, mean_NS = linear(1000, np.random.default_rng(5))
    before = predicted_ahead(found)
    assert (before[:32] == 0.5).all()
    assert np.abs(before[500:] - mean_NS[500:]).mean() < 0.03
    found.reward_N[600:] = 0.0
    assert np.array_equal(predicted_ahead(found)[:601], before[:601])


def test_an_action_that_was_never_logged_gets_the_common_prediction() -> None:
    found = logged(num_actions=3, reward_N=np.full(3, 0.5))
    assert cross_fitted(found, np.random.default_rng(0))[:, 2] == pytest.approx(0.5)


def test_evaluate_gives_every_estimate_with_doubly_robust_first() -> None:
    found, mean_NS = linear(1000, np.random.default_rng(6))
    best_NS = np.eye(2)[mean_NS.argmax(1)] * 0.9 + 0.05
    log = found.under(best_NS, category_S=np.array([0, 1]), max_weight=1.9)
    report = evaluate(log, np.random.default_rng(7), draws=200)
    names = [line.name for line in report.lines]
    assert names[:9] == [
        *("DR", "SNDR", "SWITCH-DR", "DRos", "SNIPS", "IPS", "clipped IPS", "DM", "MIPS"),
    ]
    assert [line.interval.kind for line in report.lines[9:]] == ["empirical Bernstein"] * 2
    truth = (best_NS * mean_NS).sum(1).mean()
    assert report.lines[0].interval.low < truth < report.lines[0].interval.high
    assert report.anytime.low < truth < report.anytime.high
    assert report.advice == ()
    assert report.table().startswith("1,000 rows, ")
    assert "| confidence sequence |" in report.table()


def test_evaluate_works_with_the_probabilities_of_the_logged_actions_alone() -> None:
    report = evaluate(logged().under(np.array([0.5, 0.5, 0.5])), np.random.default_rng(0), draws=50)
    assert [line.name for line in report.lines] == ["SNIPS", "IPS", "clipped IPS"]
    assert "Beware: only 2 effective rows of 3" in report.table()
