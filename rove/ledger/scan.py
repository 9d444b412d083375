"""Every shard's interactions in columns: what training reads, also while shards are writing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing

import pyarrow as pa
from sqlalchemy import bindparam, func, select

from rove.config import StoreSection
from rove.ledger.database import Database, check_schema, read_meta, shard_part
from rove.ledger.schema import interactions, ledger_meta
from rove.ledger.shown import Shown, shown_until, up_to
from rove.ledger.store import open_store

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
REMOVED = "removed"
"""Key of a shard's state: how many interactions were deleted for their age."""
_NUM_ROWS = 65_536
_EVERYTHING = 2**62

_select = (
    select(interactions.c.sequence, *(interactions.c[name] for name in SCHEMA.names))
    .where(
        interactions.c.sequence > bindparam("after"),
        interactions.c.sequence <= bindparam("until"),
    )
    .order_by(interactions.c.sequence)
    .limit(_NUM_ROWS)
)


_select_last = select(func.max(interactions.c.sequence))


def all_interactions(
    store: StoreSection, until: Mapping[int, int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the interactions of every shard there is, shard by shard in the order of arrival.

    With `until`, a `watermark`, only those up to it. Each batch is one short read, so neither
    writers nor an erasure wait for a slow consumer.
    """
    for shard, database in all_shards(store):
        yield from _rows(database, _EVERYTHING if until is None else until.get(shard, 0))


def all_shown(
    store: StoreSection, until_s: float, marks: Mapping[int, int]
) -> Iterator[list[Shown]]:
    """Yield the decisions of every shard that expired by then, with their answers up to `marks`."""
    for shard, database in all_shards(store):
        last = marks.get(shard, 0)
        with database.reading() as connection:
            for part in shown_until(connection, -sys.float_info.max, until_s):
                yield [up_to(one, last) for one in part]


def num_removed(store: StoreSection) -> int:
    """Return how many interactions of all shards were deleted for their age."""
    found = [read_meta(database, ledger_meta) for _, database in all_shards(store)]
    return sum(int(meta.get(REMOVED, 0)) for meta in found)


def watermark(store: StoreSection) -> dict[int, int]:
    """Return the number of the latest interaction of every shard that has one."""
    marks: dict[int, int] = {}
    for shard, database in all_shards(store):
        with database.reading() as connection:
            last = connection.execute(_select_last).scalar()
        if last is not None:
            marks[shard] = last
    return marks


def all_shards(section: StoreSection) -> Iterator[tuple[int, Database]]:
    """Yield every shard that has tables, open for reading until the next one is asked for."""
    with closing(open_store(section)) as store:
        for shard in store.shards():
            with closing(store.open(shard_part(shard), "read")) as database:
                found = read_meta(database, ledger_meta)
                if found:
                    check_schema(database.name, found)
                    yield int(found["shard"]), database


def _rows(database: Database, last: int) -> Iterator[pa.RecordBatch]:
    after = 0
    while True:
        with database.reading() as connection:
            rows = connection.execute(_select, {"after": after, "until": last}).all()
        if not rows:
            return
        sequences, *columns = zip(*rows, strict=True)
        after = sequences[-1]
        yield pa.record_batch(columns, schema=SCHEMA)
