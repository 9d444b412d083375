"""Item statistics of several shards add up, in any order, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rove.item_index import ItemIndex
from rove.item_means import Floats, ItemMeans
from rove.ledger.items import ItemRow
from rove.ledger.records import Statistics
from rove.release import latest
from rove.shared_sums import SharedSums
from tests.worlds import ENCODER, NUM_ITEMS, Shop, item, unit_vectors

HALF_LIFE_S = 100.0
NOTHING = Statistics(item_ids=[], weight=np.zeros(0), total=np.zeros(0), as_of=np.zeros(0))


def means_of_all() -> ItemMeans:
    return ItemMeans(
        sums_J=np.ones(NUM_ITEMS),
        promise_J=np.full(NUM_ITEMS, 1 / NUM_ITEMS),
        as_of_s=0.0,
        half_life_s=HALF_LIFE_S,
        pseudo_count=10.0,
    )


@pytest.fixture
def index(tmp_path: Path) -> ItemIndex:
    Shop(tmp_path).release()
    return ItemIndex(latest(tmp_path / "releases"))


def shared(index: ItemIndex, own: Statistics = NOTHING) -> tuple[SharedSums, ItemMeans]:
    means = means_of_all()
    return SharedSums(means, index, own), means


def see(
    sums: SharedSums, means: ItemMeans, item_ids: list[str], timestamps: list[float]
) -> Statistics:
    """Count a reward of one for each, and return what is written to the ledger."""
    amounts = means.decayed(np.ones(len(item_ids)), np.array(timestamps))
    latest_s = max(timestamps)
    written = sums.prepare(item_ids, amounts, latest_s)
    sums.commit(item_ids, amounts, latest_s)
    return written


def statistics(item_ids: list[str], total: list[float], as_of: float, revision: int) -> Statistics:
    values = np.array(total)
    return Statistics(
        item_ids=item_ids,
        weight=values,
        total=values,
        as_of=np.full(len(values), as_of),
        revision=revision,
    )


def new_item(number: int) -> ItemRow:
    (vector,) = unit_vectors(1, np.random.default_rng(number))
    return ItemRow(
        item_id=f"item-{number}", item=item(number), vector=vector, encoder=ENCODER, sequence=1
    )


def shares(means: ItemMeans) -> Floats:
    return means.share()[0]


def test_what_is_written_is_the_absolute_sum_as_of_the_latest_event(index: ItemIndex) -> None:
    """Rewards at 0 and 100 with half-life 100: 1/2 + 1; then one at 200: 3/4 + 1."""
    sums, means = shared(index)
    written = see(sums, means, ["item-1", "item-1", "item-2"], [0.0, 100.0, 100.0])
    assert dict(zip(written.item_ids, written.total, strict=True)) == {"item-1": 1.5, "item-2": 1.0}
    assert written.as_of.tolist() == [100.0, 100.0]
    assert see(sums, means, ["item-1"], [200.0]).total.tolist() == [1.75]


def test_preparing_changes_nothing(index: ItemIndex) -> None:
    sums, means = shared(index)
    before = shares(means)
    sums.prepare(["item-1"], means.decayed(np.ones(1), np.array([50.0])), 50.0)
    assert np.array_equal(shares(means), before) and not sums.has_own


def test_another_shard_s_value_replaces_what_it_had_before(index: ItemIndex) -> None:
    """Reading revision 2 after 1, only 2, or 2 twice is the same."""
    first = statistics(["item-1", "item-2"], [1.0, 1.0], 100.0, 1)
    second = statistics(["item-1"], [2.0], 100.0, 2)
    everything = statistics(["item-1", "item-2"], [2.0, 1.0], 100.0, 2)
    results = []
    for reads in ([first, second], [everything], [first, second, second, everything]):
        sums, means = shared(index)
        for news in reads:
            sums.merge({1: news})
        assert sums.revisions == {1: 2}
        results.append(shares(means))
    assert results[1] == pytest.approx(results[0], rel=1e-12)
    assert results[2] == pytest.approx(results[0], rel=1e-12)


def test_two_shards_together_are_one_that_saw_everything(index: ItemIndex) -> None:
    alone, all_means = shared(index)
    see(alone, all_means, ["item-1", "item-2", "item-1"], [10.0, 500.0, 40_000.0])
    sums, means = shared(index)
    other, other_means = shared(index)
    sums.merge({1: replace(see(other, other_means, ["item-2"], [500.0]), revision=1)})
    see(sums, means, ["item-1"], [10.0])
    sums.merge({1: replace(see(other, other_means, ["item-1"], [40_000.0]), revision=2)})
    assert shares(means) == pytest.approx(shares(all_means), rel=1e-9)


def test_opening_again_gives_the_same(index: ItemIndex) -> None:
    """Also after the reference time has moved on: 40,000 s are 400 half-lives."""
    sums, means = shared(index)
    rows: dict[str, tuple[float, float]] = {}
    for item_id, time_s in [("item-1", 10.0), ("item-2", 40_000.0), ("item-1", 40_050.0)]:
        written = see(sums, means, [item_id], [time_s])
        rows[item_id] = float(written.total[0]), float(written.as_of[0])
    totals, times = zip(*rows.values(), strict=True)
    own = replace(statistics(list(rows), list(totals), 0.0, 3), as_of=np.array(times))
    again, means_again = shared(index, own)
    assert again.has_own and means_again.latest_s == means.latest_s
    assert shares(means_again) == pytest.approx(shares(means), rel=1e-9)


def test_items_that_are_not_here_yet_get_their_sums_with_their_row(index: ItemIndex) -> None:
    sums, means = shared(index)
    sums.merge({1: statistics(["item-100"], [5.0], 0.0, 1)})
    total = NUM_ITEMS + 5.0 + 10.0
    assert shares(means)[0] == pytest.approx((1 + 10 / NUM_ITEMS) / total)
    added = index.apply([new_item(100)])
    means.grow(added.features.promise_J)
    sums.place(["item-100"], np.array([NUM_ITEMS]))
    assert shares(means)[-1] == pytest.approx((5 + 10 * added.features.promise_J[0]) / total)
    assert shares(means)[0] == pytest.approx((1 + 10 / NUM_ITEMS) / total)
