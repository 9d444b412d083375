"""Loading a history: every row in its user's shard, once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rove.config import RewardSection, StoreSection
from rove.errors import DataError, StoreUnavailable
from rove.ledger.ledger import Ledger
from rove.ledger.load import LoadReport, load_history
from rove.ledger.scan import SCHEMA, all_interactions
from rove.rewards import RewardMap
from rove.sharding import shard_of

REWARDS = RewardMap.from_config(RewardSection(preset="shop"))


def store_in(folder: Path) -> StoreSection:
    return StoreSection(url=f"sqlite:///{folder}", durability="process", busy_timeout_s=0.1)


def history(**columns: list[Any]) -> pa.Table:
    """Three purchases, with further columns or others in place of these."""
    base: dict[str, list[Any]] = {
        "user_id": ["ann", "bob", "ann"],
        "item_id": ["pear", "fig", "fig"],
        "type": ["purchase"] * 3,
        "timestamp": [20.0, 10.0, 10.0],
    }
    return pa.table(base | columns)


def load(folder: Path, *batches: pa.Table | pa.RecordBatch, num_shards: int = 3) -> LoadReport:
    return load_history(store_in(folder), num_shards, batches, REWARDS)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    table = pa.Table.from_batches(all_interactions(store_in(folder)), SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_rows_go_to_the_shards_of_their_users(tmp_path: Path) -> None:
    report = load(tmp_path, history(session=["s1", None, "s2"]))
    assert (report.num_read, report.num_stored, report.num_users) == (3, 3, 2)
    assert report.per_shard == {
        shard: 2 * (shard_of("ann", 3) == shard) + (shard_of("bob", 3) == shard)
        for shard in range(3)
    }
    ledger = Ledger.open(store_in(tmp_path), shard_of("ann", 3), 3)
    ann = ledger.history("ann")
    assert (ann.item_ids, ann.timestamps.tolist()) == (["fig", "pear"], [10.0, 20.0])
    assert ann.rewards.tolist() == [1.0, 1.0]
    assert {row["session"] for row in rows_in(tmp_path)} == {"s1", None, "s2"}


def test_rewards_follow_the_reward_map(tmp_path: Path) -> None:
    table = history(type=["rating", "click", "impression"], value=[3.0, None, None])
    load(tmp_path, table)
    rewards = {row["type"]: row["reward"] for row in rows_in(tmp_path)}
    assert rewards == {"rating": pytest.approx(0.8 * 0.5), "click": 0.1, "impression": 0.0}


def test_loading_again_stores_nothing(tmp_path: Path) -> None:
    load(tmp_path, history())
    again = load(tmp_path, history())
    assert (again.num_stored, again.num_duplicates) == (0, 3)
    assert len(rows_in(tmp_path)) == 3


def test_loading_more_stores_only_what_is_new(tmp_path: Path) -> None:
    load(tmp_path, history())
    report = load(tmp_path, history(), history(item_id=["plum"] * 3))
    assert (report.num_read, report.num_stored) == (6, 3)


def test_equal_rows_are_as_many_events(tmp_path: Path) -> None:
    """Two equal lines are two purchases, however the files are cut into batches."""
    twice = pa.concat_tables([history(), history()])
    assert load(tmp_path, twice).num_stored == 6
    assert load(tmp_path, history(), history()).num_stored == 0


def test_ids_of_the_file_are_kept(tmp_path: Path) -> None:
    table = history(interaction_id=["i1", "i2", "i1"], user_id=["ann", "ann", "ann"])
    report = load(tmp_path, table, num_shards=1)
    assert (report.num_stored, report.num_duplicates) == (2, 1)
    with Ledger.open(store_in(tmp_path), 0, 1).transaction() as transaction:
        assert transaction.known_interactions(["i1", "i2"]) == {"i1", "i2"}


def test_rows_without_an_id_among_rows_with_one_get_one(tmp_path: Path) -> None:
    table = history(interaction_id=["i1", None, None])
    assert load(tmp_path, table).num_stored == 3
    assert load(tmp_path, table).num_stored == 0


def test_an_empty_history_creates_the_shards(tmp_path: Path) -> None:
    assert load(tmp_path).num_read == 0
    assert load(tmp_path, history().slice(0, 0)).num_stored == 0
    assert len(list(tmp_path.glob("shard-*.sqlite"))) == 3


def test_a_long_history_is_loaded_and_read_in_parts(tmp_path: Path) -> None:
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
    assert load(tmp_path, *table.to_batches(9_000), num_shards=1).num_stored == num_rows
    batches = list(all_interactions(store_in(tmp_path)))
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
def test_unusable_columns_are_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load(tmp_path, table)
    assert rows_in(tmp_path) == []


def test_a_shard_that_is_being_served_is_not_loaded(tmp_path: Path) -> None:
    Ledger.open(store_in(tmp_path), 1, 3).close()
    serving = Ledger.open(store_in(tmp_path), 1, 3)
    with pytest.raises(StoreUnavailable, match=re.escape("writes this shard; stop it first")):
        load(tmp_path, history())
    serving.close()
    load(tmp_path, history())
    assert len(rows_in(tmp_path)) == 3
