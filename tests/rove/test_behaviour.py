"""Behaviour in columns: visits, targets, splits."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rove.behaviour import Behaviour
from tests.worlds import behaviour_of

ROWS = {"apple": 0, "pear": 1, "plum": 2}


def table(
    rows: list[tuple[str, str, float, float]], sessions: list[str | None] | None = None
) -> pa.Table:
    """Rows of (user, item, reward, timestamp)."""
    users, items, rewards, timestamps = zip(*rows, strict=True) if rows else ((),) * 4
    columns = {
        "user_id": pa.array(users, pa.string()),
        "item_id": pa.array(items, pa.string()),
        "reward": pa.array(rewards, pa.float64()),
        "timestamp": pa.array(timestamps, pa.float64()),
    }
    if sessions is not None:
        columns["session"] = pa.array(sessions, pa.string())
    return pa.table(columns)


def visits_of(rows: list[tuple[str, float]], sessions: list[str | None] | None = None) -> list[int]:
    """Visits of (user, timestamp), oldest first."""
    whole = table([(user, "apple", 1.0, time_s) for user, time_s in rows], sessions)
    visits: list[int] = Behaviour.from_batches([whole], ROWS).visits.tolist()
    return visits


def test_rows_come_out_in_order_of_time() -> None:
    rows = [("ann", "plum", 1.0, 30.0), ("bob", "apple", 2.0, 10.0), ("ann", "apple", 3.0, 20.0)]
    behaviour = Behaviour.from_batches([table(rows[:1]), table(rows[1:])], ROWS)
    assert behaviour.timestamps.tolist() == [10.0, 20.0, 30.0]
    assert behaviour.items.tolist() == [0, 0, 2]
    assert behaviour.rewards.tolist() == [2.0, 3.0, 1.0]
    assert behaviour.users.tolist() == [0, 1, 1]
    assert (behaviour.num_users, behaviour.num_items) == (2, 3)


def test_only_positive_rewards_of_known_items_are_kept() -> None:
    rows = [
        ("ann", "apple", 1.0, 1.0),
        ("ann", "apple", 0.0, 2.0),
        ("ann", "apple", -1.0, 3.0),
        ("ann", "unknown", 1.0, 4.0),
    ]
    assert len(Behaviour.from_batches([table(rows)], ROWS)) == 1


def test_half_an_hour_without_anything_ends_a_visit() -> None:
    """1800 s are not too long, 1801 s are."""
    found = visits_of([("ann", 0.0), ("ann", 1800.0), ("ann", 3601.0)])
    assert found[0] == found[1] != found[2]


def test_users_have_visits_of_their_own() -> None:
    found = visits_of([("ann", 0.0), ("bob", 1.0), ("ann", 2.0)])
    assert found[0] == found[2] != found[1]


def test_a_session_is_one_visit_however_long_it_takes() -> None:
    rows = [("ann", 0.0), ("ann", 10.0), ("ann", 9000.0), ("ann", 9001.0)]
    found = visits_of(rows, ["s1", "s2", "s1", None])
    assert found[0] == found[2]
    assert len(set(found)) == 3


def test_equal_sessions_of_two_users_are_two_visits() -> None:
    first, second = visits_of([("ann", 0.0), ("bob", 1.0)], ["s1", "s1"])
    assert first != second


def test_a_target_is_the_best_of_a_pair_after_decay() -> None:
    """At 20 with half-life 10: 1 of 0 counts 1/4, 1 of 10 counts 1/2, 8 of 0 count 2."""
    behaviour = behaviour_of(
        [0, 0, 0, 1], [0, 0, 1, 1], [0.0, 10.0, 0.0, 20.0], 3, [1.0, 1.0, 8.0, 1.0]
    )
    targets = behaviour.targets(20.0, 10.0).toarray()
    assert targets == pytest.approx(np.array([[0.5, 2.0, 0.0], [0.0, 1.0, 0.0]]))


def test_a_split_keeps_visits_whole() -> None:
    """Visits start at 0, 100 and 700; the last of three is bob's, though ann's goes on after it."""
    rows = [("ann", "apple", 1.0, float(t)) for t in (0, 500, 1000)]
    rows += [("eve", "pear", 1.0, 100.0), ("bob", "plum", 1.0, 700.0), ("bob", "pear", 1.0, 800.0)]
    past, future = Behaviour.from_batches([table(rows)], ROWS).split(0.3)
    assert past.timestamps.tolist() == [0.0, 100.0, 500.0, 1000.0]
    assert future.timestamps.tolist() == [700.0, 800.0]
    assert (past.num_users, future.num_items) == (3, 3)


@pytest.mark.parametrize("batches", [[], [table([])]])
def test_nothing_is_no_problem(batches: list[pa.Table]) -> None:
    behaviour = Behaviour.from_batches(batches, ROWS)
    past, future = behaviour.split(0.5)
    assert len(behaviour) == len(past) == len(future) == 0
    assert behaviour.targets(0.0, 1.0).shape == (0, 3)
    assert len(Behaviour.from_batches(batches, {})) == 0
