"""Loading a history: every row in its user's shard, once."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rove.config import RewardSection, StoreSection
from rove.errors import DataError, StoreUnavailable
from rove.ledger.ledger import Ledger
from rove.ledger.load import LoadReport, load_history
from rove.ledger.scan import SCHEMA, all_interactions
from rove.ledger.store import open_store
from rove.rewards import RewardMap
from rove.sharding import shard_of

REWARDS = RewardMap.from_config(RewardSection(preset="shop"))


def history(**columns: list[Any]) -> pa.Table:
    """Three purchases, with further columns or others in place of these."""
    base: dict[str, list[Any]] = {
        "user_id": ["ann", "bob", "ann"],
        "item_id": ["pear", "fig", "fig"],
        "type": ["purchase"] * 3,
        "timestamp": [20.0, 10.0, 10.0],
    }
    return pa.table(base | columns)


def load(
    store: StoreSection, *batches: pa.Table | pa.RecordBatch, num_shards: int = 3
) -> LoadReport:
    return load_history(store, num_shards, batches, REWARDS)


def rows_in(store: StoreSection) -> list[dict[str, Any]]:
    table = pa.Table.from_batches(all_interactions(store), SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_rows_go_to_the_shards_of_their_users(store: StoreSection) -> None:
    report = load(store, history(session=["s1", None, "s2"]))
    assert (report.num_read, report.num_stored, report.num_users) == (3, 3, 2)
    assert report.per_shard == {
        shard: 2 * (shard_of("ann", 3) == shard) + (shard_of("bob", 3) == shard)
        for shard in range(3)
    }
    ledger = Ledger.open(store, shard_of("ann", 3), 3)
    ann = ledger.history("ann")
    assert (ann.item_ids, ann.timestamps.tolist()) == (["fig", "pear"], [10.0, 20.0])
    assert ann.rewards.tolist() == [1.0, 1.0]
    assert {row["session"] for row in rows_in(store)} == {"s1", None, "s2"}


def test_rewards_follow_the_reward_map(store: StoreSection) -> None:
    table = history(type=["rating", "click", "impression"], value=[3.0, None, None])
    load(store, table)
    rewards = {row["type"]: row["reward"] for row in rows_in(store)}
    assert rewards == {"rating": pytest.approx(0.8 * 0.5), "click": 0.1, "impression": 0.0}


def test_loading_again_stores_nothing(store: StoreSection) -> None:
    load(store, history())
    again = load(store, history())
    assert (again.num_stored, again.num_duplicates) == (0, 3)
    assert len(rows_in(store)) == 3


def test_loading_more_stores_only_what_is_new(store: StoreSection) -> None:
    load(store, history())
    report = load(store, history(), history(item_id=["plum"] * 3))
    assert (report.num_read, report.num_stored) == (6, 3)


def test_equal_rows_are_as_many_events(store: StoreSection) -> None:
    """Two equal lines are two purchases, however the files are cut into batches."""
    twice = pa.concat_tables([history(), history()])
    assert load(store, twice).num_stored == 6
    assert load(store, history(), history()).num_stored == 0


def test_ids_of_the_file_are_kept(store: StoreSection) -> None:
    table = history(interaction_id=["i1", "i2", "i1"], user_id=["ann", "ann", "ann"])
    report = load(store, table, num_shards=1)
    assert (report.num_stored, report.num_duplicates) == (2, 1)
    with Ledger.open(store, 0, 1).transaction() as transaction:
        assert transaction.known_interactions(["i1", "i2"]) == {"i1", "i2"}


def test_rows_without_an_id_among_rows_with_one_get_one(store: StoreSection) -> None:
    table = history(interaction_id=["i1", None, None])
    assert load(store, table).num_stored == 3
    assert load(store, table).num_stored == 0


def test_texts_lose_their_nul_characters(store: StoreSection) -> None:
    table = history(session=["s\x001", None, "s2"], text=["a\x00b", None, None])
    assert load(store, table).num_stored == 3
    assert load(store, table).num_stored == 0
    assert {row["session"] for row in rows_in(store)} == {"s1", None, "s2"}


def test_an_empty_history_creates_the_shards(store: StoreSection) -> None:
    assert load(store).num_read == 0
    assert load(store, history().slice(0, 0)).num_stored == 0
    assert open_store(store).shards() == [0, 1, 2]


def test_a_long_history_is_loaded_and_read_in_parts(store: StoreSection) -> None:
    """70,001 rows: more than one transaction writes or one batch reads."""
    draws, num_rows = np.random.default_rng(5), 70_001
    table = pa.table(
        {
            "user_id": pa.array(draws.integers(500, size=num_rows)).cast(pa.string()),
            "item_id": pa.array(draws.integers(40, size=num_rows)).cast(pa.string()),
            "type": ["purchase"] * num_rows,
            "timestamp": draws.random(num_rows),
        }
    )
    assert load(store, *table.to_batches(9_000), num_shards=1).num_stored == num_rows
    batches = list(all_interactions(store))
    assert [len(batch) for batch in batches] == [65_536, num_rows - 65_536]
    assert sum(pa.Table.from_batches(batches)["timestamp"].to_pylist()) == pytest.approx(
        sum(table["timestamp"].to_pylist())
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (history().drop_columns(["item_id"]), "interactions lack item_id; columns are user_id"),
        (history(user_id=["ann", None, "bob"]), "1 rows have no user_id"),
        (history(timestamp=[1.0, float("nan"), 2.0]), "timestamp holds NaN or infinity"),
        (history(value=[1.0, None, float("inf")]), "value holds NaN or infinity"),
        (history(type=["purchase", "theft", "click"]), "unknown type 'theft'; known types are"),
    ],
)
def test_unusable_columns_are_refused(store: StoreSection, table: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load(store, table)
    assert rows_in(store) == []


def test_a_shard_that_is_being_served_is_not_loaded(store: StoreSection) -> None:
    store = store.model_copy(update={"busy_timeout_s": 0.1})
    Ledger.open(store, 1, 3).close()
    serving = Ledger.open(store, 1, 3)
    with pytest.raises(StoreUnavailable, match=re.escape("writes this shard; stop it first")):
        load(store, history())
    serving.close()
    load(store, history())
    assert len(rows_in(store)) == 3
