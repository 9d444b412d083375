"""Ranking measures against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rove import ranking

RANKED = np.array([[4, 7, 1], [2, 0, -1], [5, 6, 3]])
RELEVANT = [np.array([1, 4]), np.array([0]), np.array([8, 9, 2, 1])]


def test_hits_mark_the_relevant_slots_of_each_request() -> None:
    """Item 1 is relevant to requests 0 and 2 and shown to 0 only; -1 is an empty slot."""
    expected = [[True, False, True], [False, True, False], [False, False, False]]
    assert ranking.hits(RANKED, RELEVANT).tolist() == expected


def test_an_empty_slot_never_hits_the_neighbouring_request() -> None:
    """Slot -1 of request 1 sits just below item 0 of request 1 and above the last of request 0."""
    ranked = np.array([[0], [-1]])
    assert ranking.hits(ranked, [np.array([1]), np.array([0])]).tolist() == [[False], [False]]


def test_no_requests_give_no_hits_and_no_interval() -> None:
    hits = ranking.hits(np.empty((0, 3), np.int64), [])
    assert hits.shape == (0, 3)
    result = ranking.interval(ranking.precision(hits, 3), np.random.default_rng(0))
    assert math.isnan(result.mean) and math.isnan(result.low) and math.isnan(result.high)


def test_precision_divides_by_k() -> None:
    """2 of 3, 1 of 3 (an empty slot is a miss), 0 of 3; at 1: 1, 0, 0."""
    hits = ranking.hits(RANKED, RELEVANT)
    assert ranking.precision(hits, 3) == pytest.approx([2 / 3, 1 / 3, 0])
    assert ranking.precision(hits, 1) == pytest.approx([1, 0, 0])


def test_recall_divides_by_the_number_of_relevant_items() -> None:
    """2 of 2, 1 of 1, 0 of 4; at 1: 1 of 2."""
    hits = ranking.hits(RANKED, RELEVANT)
    num_relevant = np.array([2, 1, 4])
    assert ranking.recall(hits, num_relevant, 3) == pytest.approx([1, 1, 0])
    assert ranking.recall(hits, num_relevant, 1) == pytest.approx([1 / 2, 0, 0])


def test_ndcg_discounts_later_slots() -> None:
    """Request 0: hits in slots 1 and 3: (1 + 1/log2(4)) / (1 + 1/log2(3)) = 1.5 / 1.63093.

    Request 1: a hit in slot 2 of one relevant: (1/log2(3)) / 1 = 0.63093.
    """
    hits = ranking.hits(RANKED, RELEVANT)
    expected = [1.5 / (1 + 1 / math.log2(3)), 1 / math.log2(3), 0]
    assert ranking.ndcg(hits, np.array([2, 1, 4]), 3) == pytest.approx(expected)


def test_ndcg_of_a_perfect_ranking_is_one_whatever_the_number_of_relevant_items() -> None:
    hits = np.array([[True, True, True], [True, False, False]])
    assert ranking.ndcg(hits, np.array([9, 1]), 3) == pytest.approx([1, 1])


def test_ndcg_beyond_the_shown_slots_counts_what_is_shown() -> None:
    """k = 5 over 3 slots: one hit in slot 1 of one relevant item."""
    assert ranking.ndcg(np.array([[True, False, False]]), np.array([1]), 5) == pytest.approx([1])


def test_reciprocal_rank_is_that_of_the_first_hit() -> None:
    hits = ranking.hits(RANKED, RELEVANT)
    assert ranking.reciprocal_rank(hits) == pytest.approx([1, 1 / 2, 0])


def test_interval_of_a_mean_agrees_with_the_normal_approximation() -> None:
    """400 values of N(5, 2): standard error s / 20, so the 95 % interval is the mean +- 1.96 se."""
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    result = ranking.interval(values, np.random.default_rng(2), num_draws=4000)
    half = 1.96 * values.std() / 20
    assert result.mean == pytest.approx(values.mean())
    assert result.low == pytest.approx(values.mean() - half, abs=0.02)
    assert result.high == pytest.approx(values.mean() + half, abs=0.02)


def test_groups_are_resampled_whole() -> None:
    """10 equal values per group carry the information of one: the interval is sqrt(10) wider."""
    per_group = np.random.default_rng(3).normal(size=100)
    values, groups = np.repeat(per_group, 10), np.repeat(np.arange(100), 10)
    rng = np.random.default_rng(4)
    alone = ranking.interval(values, rng, num_draws=4000)
    whole = ranking.interval(values, rng, groups=groups, num_draws=4000)
    ratio = (whole.high - whole.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.06)
    assert whole.mean == alone.mean


def test_groups_of_different_sizes_keep_every_request_equal() -> None:
    """Group 0 has 3 requests of value 1, group 1 has one of value 0: the mean is 3/4."""
    values, groups = np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 9])
    result = ranking.interval(values, np.random.default_rng(0), groups=groups)
    assert (result.mean, result.low, result.high) == (0.75, 0.0, 1.0)


def test_the_same_generator_state_gives_the_same_interval() -> None:
    values = np.random.default_rng(5).random(50)
    first = ranking.interval(values, np.random.default_rng(6))
    assert first == ranking.interval(values, np.random.default_rng(6))


def test_paired_difference_removes_what_requests_share() -> None:
    """b = a - 0.1 exactly: the difference is 0.1 with no uncertainty, though a varies widely."""
    a = np.random.default_rng(7).normal(0, 10, 200)
    result = ranking.paired_difference(a, a - 0.1, np.random.default_rng(8))
    assert (result.mean, result.low, result.high) == pytest.approx((0.1, 0.1, 0.1))


def test_one_group_alone_has_no_interval() -> None:
    result = ranking.interval(np.ones(3), np.random.default_rng(0), groups=np.zeros(3, np.int64))
    assert result.mean == 1.0 and math.isnan(result.low) and math.isnan(result.high)


def test_a_ratio_resamples_numerator_and_denominator_together() -> None:
    """Predicted 2, 4 and 6 where 1, 2 and 3 came: always twice, whatever is drawn."""
    predicted, taken = np.array([[2.0], [4.0], [6.0]]), np.array([[1.0], [2.0], [3.0]])
    [result] = ranking.intervals(predicted, np.random.default_rng(0), per_RM=taken)
    assert (result.mean, result.low, result.high) == (2.0, 2.0, 2.0)


def test_columns_have_the_intervals_they_have_alone() -> None:
    values = np.random.default_rng(9).normal(size=(40, 3))
    together = ranking.intervals(values, np.random.default_rng(10))
    for column, one in enumerate(together):
        alone = ranking.interval(values[:, column], np.random.default_rng(10))
        assert (one.mean, one.low, one.high) == pytest.approx((alone.mean, alone.low, alone.high))


def test_coverage_counts_the_distinct_items_of_all_slots() -> None:
    """0, 5 and 7 of 10 items; user 3 alone is shown 5 and 7, user 4 alone nothing.

    u = (.2, 0), var = .01, se^2 = (2 - 1) * .01: the interval is .3 +- 1.96 * .1.
    """
    ranked = np.array([[0, 5], [7, -1], [0, -1]])
    result = ranking.coverage(ranked, 10, groups=np.array([3, 3, 4]))
    assert (result.mean, result.low, result.high) == pytest.approx((0.3, 0.104, 0.496), abs=1e-3)


def test_coverage_of_a_subset_may_have_codes_beyond_its_size() -> None:
    assert ranking.coverage(np.array([[90], [95]]), 4).mean == 0.5
