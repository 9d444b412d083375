"""Bring a history from files into the ledgers of the shards that own its users.

- Idempotent: a row's id is the file's, or else a hash of its content and its number among equal
  rows, so the same files can be loaded again, after a crash too.
- Rows count as accepted and do not touch item statistics: a release is learnt from them.
- Each shard is written by one process at a time, so stop serving first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rove.config import StoreSection
from rove.errors import DataError, shown
from rove.events import InteractionType
from rove.ledger.ledger import Ledger
from rove.pseudonyms import PLAIN, UNCHANGED, Pseudonyms
from rove.rewards import RewardMap
from rove.sharding import shard_of

_CONTENT = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("type", pa.string()),
        ("timestamp", pa.float64()),  # unix seconds
        ("value", pa.float64()),
        ("duration_s", pa.float64()),
        ("watch_ratio", pa.float64()),
        ("text", pa.string()),
        ("event_id", pa.string()),
        ("slot", pa.int64()),
        ("session", pa.string()),
    ]
)
_COLUMNS = _CONTENT.append(pa.field("interaction_id", pa.string()))
_REQUIRED = ("user_id", "item_id", "type", "timestamp")
_NUM_ROWS = 20_000  # of one transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a load did."""

    num_read: int
    num_stored: int
    num_users: int
    per_shard: dict[int, int] = field(default_factory=dict)
    """Rows stored by each shard."""
    duration_s: float

    @property
    def num_duplicates(self) -> int:
        """Rows that were there before, or twice in the files."""
        return self.num_read - self.num_stored


def load_history(
    store: StoreSection,
    num_shards: int,
    batches: Iterable[pa.RecordBatch | pa.Table],
    rewards: RewardMap,
    names: Pseudonyms = UNCHANGED,
) -> LoadReport:
    """Store every row of `batches` (columns as `rove.readers` gives them) in its user's shard."""
    started = time.monotonic()
    table = _combined(batches)
    users = table["user_id"].combine_chunks().dictionary_encode()
    ids = users.dictionary.to_pylist()
    owners = np.array([shard_of(user, num_shards) for user in ids], int)
    owner_of_row = owners[users.indices.to_numpy()] if len(owners) else owners  # (n,)
    # From here on nobody is called by name: ids of rows are made of what is stored.
    if names.mark != PLAIN:
        named = pa.array([names.of(user) for user in ids], pa.string()).take(users.indices)
        table = table.set_column(table.schema.get_field_index("user_id"), "user_id", named)
    table = table.set_column(
        table.schema.get_field_index("interaction_id"), "interaction_id", _ids(table)
    )
    table = _without_nul(rewarded(table, rewards))
    per_shard = {
        shard: _store(
            store, shard, num_shards, table, np.flatnonzero(owner_of_row == shard), names.mark
        )
        for shard in range(num_shards)
    }
    return LoadReport(
        num_read=len(table),
        num_stored=sum(per_shard.values()),
        num_users=len(owners),
        per_shard=per_shard,
        duration_s=time.monotonic() - started,
    )


def _combined(batches: Iterable[pa.RecordBatch | pa.Table]) -> pa.Table:
    """Return all rows as one table of `_COLUMNS`; absent optional columns are null."""
    tables = [_conformed(batch) for batch in batches]
    return pa.concat_tables(tables) if tables else _COLUMNS.empty_table()


def _conformed(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    names = batch.schema.names
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise DataError(f"interactions lack {', '.join(missing)}; columns are {', '.join(names)}")
    columns = [
        batch.column(column.name).cast(column.type)
        if column.name in names
        else pa.nulls(batch.num_rows, column.type)
        for column in _COLUMNS
    ]
    table = pa.table(columns, schema=_COLUMNS)
    for name in _REQUIRED:
        if table[name].null_count:
            raise DataError(f"interactions: {table[name].null_count} rows have no {name}")
    for name in ("timestamp", "value", "duration_s", "watch_ratio"):
        if not pc.all(pc.is_finite(table[name]), min_count=0).as_py():
            raise DataError(f"interactions: {name} holds NaN or infinity; leave such rows out")
    unknown = set(table["type"].unique().to_pylist()) - set(InteractionType)
    if unknown:
        raise DataError(
            f"interactions: unknown type {shown(min(unknown))}; "
            f"known types are {', '.join(InteractionType)}"
        )
    return table


def _ids(table: pa.Table) -> pa.Array:
    """Return each row's id: its own, else a hash of its content and number among equal rows."""
    own = table["interaction_id"].combine_chunks()
    if own.null_count == 0:
        return own
    # Control characters separate: ids have none. Large strings: the whole may exceed 2 GB.
    parts = [table[name].cast(pa.large_string()).combine_chunks() for name in _CONTENT.names]
    separator = pa.scalar("\x1f", pa.large_string())
    content = pc.binary_join_element_wise(
        *parts, separator, null_handling="replace", null_replacement="\x1e"
    ).dictionary_encode()
    digests = [
        blake2b(text.encode(), digest_size=16).hexdigest()
        for text in content.dictionary.to_pylist()
    ]
    kinds = content.indices.to_numpy()  # (n,)
    numbers = _number_among_equals(kinds)  # (n,)
    hashed = [
        digests[kind] if number == 0 else f"{digests[kind]}-{number}"
        for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True)
    ]
    return pc.coalesce(own, pa.array(hashed, pa.string()))


def _without_nul(table: pa.Table) -> pa.Table:
    """Leave NUL characters out of free texts: PostgreSQL stores none. (Ids have none.)"""
    for name in ("text", "session"):
        clean = pc.replace_substring(table[name], "\0", "")
        table = table.set_column(table.schema.get_field_index(name), name, clean)
    return table


def _number_among_equals(kinds: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return for each element how many equal ones precede it: [7, 9, 7] -> [0, 0, 1]."""
    order = np.argsort(kinds, kind="stable")
    ordered = kinds[order]
    position = np.arange(len(kinds))
    starts = (
        np.maximum.accumulate(np.where(np.r_[True, ordered[1:] != ordered[:-1]], position, 0))
        if len(kinds)
        else position
    )
    numbers = np.empty(len(kinds), np.int64)
    numbers[order] = position - starts
    return numbers


def rewarded(table: pa.Table, rewards: RewardMap) -> pa.Table:
    """Add what each interaction is worth as the column `reward`."""
    value, duration_s, watch_ratio = (
        table[name].to_numpy() for name in ("value", "duration_s", "watch_ratio")
    )
    worth = rewards.rewards(table["type"].to_pylist(), value, duration_s, watch_ratio)
    return table.append_column("reward", pa.array(worth))


def _store(
    store: StoreSection,
    shard: int,
    num_shards: int,
    table: pa.Table,
    rows: npt.NDArray[np.intp],
    mark: str,
) -> int:
    """Store some rows of the table in one shard and return how many were new."""
    received_at = time.time()
    num_stored = 0
    ledger = Ledger.open(store, shard, num_shards, user_ids=mark)
    try:
        # Users together: the index over users then grows at few places.
        mine = table.take(rows).sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
        for part in _parts(mine):
            with ledger.transaction() as transaction:
                num_stored += transaction.import_interactions(part, received_at)
    finally:
        ledger.close()
    return num_stored


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), _NUM_ROWS):
        yield table.slice(start, _NUM_ROWS)
