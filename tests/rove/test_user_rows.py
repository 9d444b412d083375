"""A user's interactions in arrays, and the bytes that a user takes."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

from rove.user_rows import ExplicitTrials, Observation, Standing
from rove.users import User, UserCache

LIMIT_BYTES = 2560


def test_standing_rewards_read_like_a_dictionary_in_order_of_rows() -> None:
    standing, expected = Standing(), {9: (1.0, 5.0), 2: (0.5, 7.0), 4: (2.0, 1.0)}
    for row, pair in expected.items():
        standing[row] = pair
    standing[4] = expected[4] = (3.0, 8.0)
    assert standing == expected and list(standing) == [2, 4, 9]
    assert standing.get(3) is None and 9 in standing and len(standing) == 3
    with pytest.raises(KeyError, match=re.escape("10")):
        standing[10]


def test_trials_come_back_as_they_came() -> None:
    seen = [Observation(row=row, reward=-0.1 * row, timestamp=row / 3) for row in (5, 1, 5)]
    trials = ExplicitTrials()
    for one in seen:
        trials.append(one)
    assert list(trials) == seen and len(trials) == 3


def build(user_id: str) -> User:
    """Forty pairs and five trials at d = 32."""
    user, first = User(32), int(user_id[1:]) % 977
    rows = [Observation(row=1000 + first + 7 * n, reward=n + 1.0, timestamp=n) for n in range(40)]
    rows += [Observation(row=9000 + n, reward=0.0, timestamp=50 + n) for n in range(5)]
    user.learn(rows, lambda rows: np.ones((len(rows), 32), np.float32), 1e7)
    return user


def test_a_hot_user_takes_no_more_than_two_and_a_half_kilobytes() -> None:
    cache = UserCache(10**9, build)
    tracemalloc.start()
    for n in range(500):
        cache.get(f"u{n}")
    taken_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken_bytes / 500 < LIMIT_BYTES
    assert 0.8 * taken_bytes < cache.size_bytes < 1.25 * taken_bytes
