"""The item means against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rove.item_means import ItemMeans

HALF_LIFE_S = 100.0


def means_of(sums: list[float], promise: list[float], pseudo_count: float = 4.0) -> ItemMeans:
    return ItemMeans(
        sums_J=np.array(sums),
        promise_J=np.array(promise),
        as_of_s=0.0,
        half_life_s=HALF_LIFE_S,
        pseudo_count=pseudo_count,
    )


def add(means: ItemMeans, row: int, reward: float, timestamp: float) -> None:
    amounts = means.decayed(np.array([reward]), np.array([timestamp]))
    means.add([row], amounts, timestamp)


def test_a_share_is_the_mean_of_a_dirichlet() -> None:
    """(3 + 4 * 0.25) / (3 + 1 + 4) = 1/2; (1 + 4 * 0.75) / 8 = 1/2; variance 1/2 * 1/2 / 9."""
    mean, variance = means_of([3.0, 1.0], [0.25, 0.75]).share()
    assert mean.tolist() == [0.5, 0.5]
    assert variance == pytest.approx([0.25 / 9, 0.25 / 9])


def test_rewards_are_halved_by_each_half_life() -> None:
    """4 at time 0 count 1 after two half-lives, beside 1 of then: (1 + 2) / 6, (1 + 2) / 6."""
    means = means_of([4.0, 0.0], [0.5, 0.5])
    add(means, 1, 1.0, 2 * HALF_LIFE_S)
    assert means.share()[0] == pytest.approx([0.5, 0.5])


def test_an_item_without_rewards_has_its_promise() -> None:
    """(0 + 4 * 0.1) / (0 + 4) = 0.1."""
    assert means_of([0.0, 0.0], [0.1, 0.9]).share()[0] == pytest.approx([0.1, 0.9])


def test_a_late_event_counts_as_of_its_own_time() -> None:
    """One of two half-lives ago counts 1/4: (1/4 + 2) / (1/4 + 1 + 4) = 2.25 / 5.25."""
    means = means_of([0.0, 0.0], [0.5, 0.5])
    add(means, 1, 1.0, 2 * HALF_LIFE_S)
    add(means, 0, 1.0, 0.0)
    assert means.latest_s == 2 * HALF_LIFE_S
    assert means.share()[0] == pytest.approx([2.25 / 5.25, 3.0 / 5.25])


def test_the_order_of_events_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    events = [(int(rng.integers(3)), float(rng.uniform(0, 2)), float(t)) for t in range(0, 900, 9)]
    results = []
    for _ in range(3):
        means = means_of([1.0, 2.0, 3.0], [0.2, 0.3, 0.5])
        for row, reward, timestamp in events:
            add(means, row, reward, timestamp)
        results.append(means.share()[0])
        rng.shuffle(events)
    assert results[1] == pytest.approx(results[0], rel=1e-12)
    assert results[2] == pytest.approx(results[0], rel=1e-12)


def test_the_reference_time_moves_on_without_changing_a_share() -> None:
    """One reward every half-life for 450 of them: the sums would reach 2^450."""
    means = means_of([0.0, 0.0], [0.5, 0.5])
    for number in range(451):
        add(means, number % 2, 1.0, number * HALF_LIFE_S)
    # The last went to item 0: 1 + 1/4 + 1/16 + ... = 4/3, to item 1 half of it; with 2 of promise.
    assert means.reference_s > 300 * HALF_LIFE_S
    assert means.sums_J.max() < 2.0**220
    assert means.share()[0] == pytest.approx([(4 / 3 + 2) / 6, (2 / 3 + 2) / 6], rel=1e-12)


def test_moving_the_reference_time_by_itself_changes_nothing() -> None:
    means = means_of([3.0, 1.0], [0.5, 0.5])
    before, variance = means.share()
    means.decayed(np.array([1.0]), np.array([250 * HALF_LIFE_S]))
    assert means.reference_s == 250 * HALF_LIFE_S
    after = means.share()
    assert after[0] == pytest.approx(before, rel=1e-12)
    assert after[1] == pytest.approx(variance, rel=1e-12)


def test_after_thousands_of_quiet_half_lives_only_the_promise_is_left() -> None:
    """The first reward after them: (0 + 2) / (1 + 4), (1 + 2) / 5."""
    means = means_of([3.0, 1.0], [0.5, 0.5])
    amounts = means.decayed(np.array([1.0]), np.array([5000 * HALF_LIFE_S]))
    assert np.isfinite(means.share()[0]).all()
    means.add([1], amounts, 5000 * HALF_LIFE_S)
    assert means.share()[0] == pytest.approx([0.4, 0.6])


def test_new_items_start_at_their_promise() -> None:
    """Item 2: (0 + 4 * 0.2) / (4 + 4) = 0.1; the others stay."""
    means = means_of([3.0, 1.0], [0.5, 0.5])
    before = means.share()[0]
    means.grow(np.array([0.2]))
    assert len(means) == 3
    assert means.share()[0] == pytest.approx([*before, 0.1])


def test_moved_sums_count_for_the_new_row() -> None:
    """3 of row 0 go to row 2: (3 + 4 * 0.5) / 8 there, 4 * 0.5 / 8 left."""
    means = means_of([3.0, 1.0, 0.0], [0.5, 0.5, 0.5])
    means.move(np.array([0]), np.array([2]))
    assert means.share()[0] == pytest.approx([2 / 8, 3 / 8, 5 / 8])


def test_what_items_without_a_row_earn_counts_in_the_total_until_they_are_placed() -> None:
    """4 elsewhere: (0 + 2) / (0 + 4 + 4) = 1/4; placed on row 1: (4 + 2) / 8."""
    means = means_of([0.0, 0.0], [0.5, 0.5])
    means.add([-1], np.array([4.0]), 0.0)
    assert means.share()[0] == pytest.approx([0.25, 0.25])
    means.place([1], np.array([4.0]))
    assert means.share()[0] == pytest.approx([0.25, 0.75])


def test_no_rewards_are_worth_nothing() -> None:
    means = means_of([1.0], [1.0])
    assert means.decayed(np.zeros(0), np.zeros(0)).tolist() == []
    means.add([], np.zeros(0), 50.0)
    assert means.share()[0].tolist() == [1.0] and means.latest_s == 50.0
