"""Held-out visits in columns."""

from __future__ import annotations

import numpy as np
import pytest

from rove.visits import item_means_before, visits_of
from tests.worlds import behaviour_of


def test_what_is_new_is_so_in_the_first_visit_only() -> None:
    """User 0 had item 3; 3 and 4 come, then 4 again; user 1 takes 4 for the first time."""
    past = behaviour_of([0], [3], [0.0], 5)
    future = behaviour_of([0, 0, 0, 1], [4, 3, 4, 4], [1.0, 1.0, 2.0, 3.0], 5)
    together = future.take(slice(None))
    together.visits[:2] = 7  # one visit
    visits = visits_of(past, together)
    assert len(visits) == 3
    assert [visits[n].items.tolist() for n in range(3)] == [[3, 4], [4], [4]]
    assert [visits[n].new_items.tolist() for n in range(3)] == [[4], [], [4]]
    assert [visits[n].user for n in range(3)] == [0, 0, 1]
    assert visits.with_new().tolist() == [0, 2]


def test_visits_at_equal_distances() -> None:
    future = behaviour_of(np.arange(9), np.zeros(9), np.arange(9.0), 1)
    visits = visits_of(future.take(slice(0, 0)), future)
    assert visits.spaced(5).tolist() == [0, 2, 4, 6, 8]
    assert visits.spaced(9).tolist() == list(range(9))


def test_item_means_before_some_visits_are_those_before_all() -> None:
    """Skipping visits skips nothing of what they add."""
    rng = np.random.default_rng(0)
    every = behaviour_of(np.arange(60), rng.integers(0, 5, 60), np.sort(rng.random(60)) * 1e6, 5)
    past, future = every.split(0.5)
    promise_J = np.full(5, 0.2)

    def shares(numbers: list[int]) -> list[list[float]]:
        wanted = np.array(numbers)
        before = item_means_before(wanted, past, future, promise_J, 1e5, 3.0)
        return [means.share()[0].tolist() for means in before]

    every_one = shares(list(range(30)))
    for number, found in zip([0, 7, 29], shares([0, 7, 29]), strict=True):
        assert found == pytest.approx(every_one[number])
