"""Every shard's interactions in columns: what training reads, also while shards are writing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from sqlalchemy import bindparam, select

from rove.config import StoreSection
from rove.ledger.schema import interactions, ledger_meta
from rove.ledger.store import Database, check_schema, folder_of, read_meta, store_errors

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("type", pa.string()),
        ("reward", pa.float64()),
        ("timestamp", pa.float64()),  # unix seconds
        ("event_id", pa.string()),  # null unless it answers a decision
        ("slot", pa.int32()),
        ("session", pa.string()),
    ]
)
_NUM_ROWS = 65_536

_select = (
    select(interactions.c.sequence, *(interactions.c[name] for name in SCHEMA.names))
    .where(interactions.c.sequence > bindparam("after"))
    .order_by(interactions.c.sequence)
    .limit(_NUM_ROWS)
)


def all_interactions(store: StoreSection) -> Iterator[pa.RecordBatch]:
    """Yield the interactions of every shard there is, shard by shard in the order of arrival.

    Each batch is one short read, so neither writers nor an erasure wait for a slow consumer.
    """
    paths = folder_of(store).glob("shard-*.sqlite")
    for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
        yield from _of_shard(path, store)


def _of_shard(path: Path, store: StoreSection) -> Iterator[pa.RecordBatch]:
    database = Database(path, store, "read")
    try:
        found = read_meta(database, ledger_meta)
        if not found:
            return
        check_schema(path, found)
        after = 0
        while True:
            with store_errors(path):
                rows = database.connection.execute(_select, {"after": after}).all()
            if not rows:
                return
            sequences, *columns = zip(*rows, strict=True)
            after = sequences[-1]
            yield pa.record_batch(columns, schema=SCHEMA)
    finally:
        database.close()
