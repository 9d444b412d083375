"""How much rewards vary, by item."""

from __future__ import annotations

import numpy as np
import pytest

from rove.mixed.dispersion import binary_items, dispersions, is_binary
from rove.mixed.trials import Columns, Trials


def rows(items: list[int], rewards: list[float]) -> Columns:
    trials = Trials(0)
    users = np.arange(len(items), dtype=np.int64)
    trials.add(users, np.array(items), np.array(rewards), None, 0.0)
    return trials.columns


def test_a_gamble_beside_a_sure_thing_is_binary() -> None:
    given = rows([0, 0, 0, 1, 1], [0.875, 0.875, 0.875, 1.0, 0.0])
    assert binary_items(given, 3).tolist() == [False, True, False]
    assert not is_binary(given)
    assert is_binary(rows([0, 1], [1.0, 0.0]))


def test_few_ends_of_a_scale_do_not_make_an_item_binary() -> None:
    """Half of all ratings are an end: five ends in a row have the chance 1/32, 14 have 6e-5."""
    mixed = ([0] * 40, [0.5, 1.0] * 20)
    assert not binary_items(rows(mixed[0] + [1] * 5, mixed[1] + [1.0] * 5), 2)[1]
    assert binary_items(rows(mixed[0] + [1] * 14, mixed[1] + [1.0, 0.0] * 7), 2)[1]


def test_visitors_added_up_are_read_alike() -> None:
    trials = Trials(0)
    items, unknown = np.array([0, 0, 1, 1]), np.full(4, -1)
    trials.add(unknown, items, np.array([1.0, 0.0, 0.25, 0.25]), None, 0.0)
    assert binary_items(trials.columns, 2).tolist() == [True, False]


def test_dispersions_are_shrunk_to_that_of_all() -> None:
    """h = 10: (10 * .5 + 1) / (10 + 2) = .5 over all; of item 0, (10 * .5 + 1) / (10 + 2)."""
    given = rows([0, 0, 1], [0.3, 0.4, 1.0])
    overall, own = dispersions(given, np.array([0.5, 0.5, 9.0]), 3, 0.5, may_be_binary=True)
    assert overall == pytest.approx(0.5)
    assert own.tolist() == pytest.approx([0.5, 1.0, 0.5])
    overall, own = dispersions(given, np.array([0.5, 0.5, 9.0]), 3, 0.5, may_be_binary=False)
    assert overall == pytest.approx(15.0 / 13.0)
    assert own[1] == pytest.approx((10.0 * overall + 9.0) / 11.0)
