"""The catalogue: every item with its vector, numbered so that shards can follow the changes.

- Any process may write (the gateway does); each batch is one transaction with one new sequence.
- A deleted item stays as a tombstone, so that those who follow learn of it.
- A store is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from sqlalchemy import BindParameter, Connection, Row, bindparam, func, select

from rove.catalogue import Item
from rove.config import StoreSection
from rove.ledger.database import (
    CATALOGUE,
    Database,
    Insertion,
    Store,
    check_schema,
    parts_of,
    prepare,
    read_meta,
)
from rove.ledger.schema import SCHEMA_VERSION, catalogue_meta, catalogue_metadata, items
from rove.ledger.store import open_store

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Item).decode

_select_one = select(items).where(items.c.item_id == bindparam("wanted"))
_select_changes = (
    select(items).where(items.c.sequence > bindparam("after")).order_by(items.c.sequence)
)
_ids: BindParameter[Sequence[str]] = bindparam("ids", expanding=True)
_select_gone = select(items.c.item_id).where(items.c.item.is_(None), items.c.item_id.in_(_ids))
_select_sequence = select(func.max(items.c.sequence))
_put = Insertion(items, "replace")
_select_state = select(catalogue_meta.c.value).where(catalogue_meta.c.key == bindparam("wanted"))
_put_state = Insertion(catalogue_meta, "replace")


class ItemRow(Struct, frozen=True, kw_only=True):
    """One item of the catalogue; `item`, `vector` and `encoder` are None once it is deleted."""

    item_id: str
    item: Item | None
    vector: npt.NDArray[np.float32] | None
    """(D,), in the space of `encoder`."""
    encoder: str | None
    sequence: int


class ItemStore:
    """The catalogue that all processes share."""

    def __init__(self, store: Store, database: Database) -> None:
        self._store = store
        self._database = database

    @classmethod
    def open(cls, section: StoreSection) -> Self:
        """Open the catalogue of the store, creating it unless it exists."""
        with ExitStack() as undo:
            store = open_store(section)
            undo.callback(store.close)
            database = store.open(CATALOGUE, "write")
            undo.callback(database.close)
            found = read_meta(database, catalogue_meta)
            if not found:
                expected = {"schema_version": str(SCHEMA_VERSION)}
                prepare(database, catalogue_metadata, catalogue_meta, expected)
                found = read_meta(database, catalogue_meta)
            check_schema(database.name, found)
            undo.pop_all()
        return cls(store, database)

    def put(self, new: Sequence[Item], vectors: npt.NDArray[np.float32], encoder: str) -> int:
        """Store items with their vectors (n, D) in place of older ones; return the new sequence."""
        assert vectors.ndim == 2 and len(vectors) == len(new), (vectors.shape, len(new))
        vectors = np.ascontiguousarray(vectors, dtype="<f4")
        with self._database.transaction(alone=True) as connection:
            sequence = _last_sequence(connection) + 1
            rows = {
                item.item_id: {
                    "item_id": item.item_id,
                    "sequence": sequence,
                    "item": _encode(item).decode(),
                    "vector": vector.tobytes(),
                    "encoder": encoder,
                }
                for item, vector in zip(new, vectors, strict=True)
            }
            _put.run(connection, list(rows.values()))
        return sequence if rows else sequence - 1

    def delete(self, item_ids: Sequence[str]) -> int:
        """Leave a tombstone for each id, known here or not; return how many are new."""
        wanted = list(dict.fromkeys(item_ids))
        with self._database.transaction(alone=True) as connection:
            sequence = _last_sequence(connection) + 1
            gone = {
                item_id
                for part in parts_of(wanted)
                for item_id in connection.execute(_select_gone, {"ids": part}).scalars()
            }
            rows: list[dict[str, Any]] = [
                {
                    "item_id": item_id,
                    "sequence": sequence,
                    "item": None,
                    "vector": None,
                    "encoder": None,
                }
                for item_id in wanted
                if item_id not in gone
            ]
            _put.run(connection, rows)
        return len(rows)

    def get(self, item_id: str) -> ItemRow | None:
        """Return the item's row, a tombstone's too, or None for an id never seen here."""
        with self._database.reading() as connection:
            row = connection.execute(_select_one, {"wanted": item_id}).one_or_none()
        return None if row is None else _row(row)

    def changes_since(self, sequence: int) -> tuple[list[ItemRow], int]:
        """Return the rows written after `sequence`, oldest first, and the sequence to ask next."""
        with self._database.reading() as connection:
            rows = connection.execute(_select_changes, {"after": sequence}).all()
        return [_row(row) for row in rows], rows[-1].sequence if rows else sequence

    def state(self, key: str) -> str | None:
        """Return what `change_state` kept under a key."""
        with self._database.reading() as connection:
            found: str | None = connection.execute(_select_state, {"wanted": key}).scalar()
        return found

    def change_state(self, key: str, change: Callable[[str | None], str]) -> None:
        """Keep what `change` makes of the state under a key; of two changes one comes after."""
        with self._database.transaction(alone=True) as connection:
            before = connection.execute(_select_state, {"wanted": key}).scalar()
            _put_state.run(connection, [{"key": key, "value": change(before)}])

    def close(self) -> None:
        """Close the catalogue."""
        self._database.close()
        self._store.close()


def _last_sequence(connection: Connection) -> int:
    return connection.execute(_select_sequence).scalar() or 0


def _row(row: Row[Any]) -> ItemRow:
    return ItemRow(
        item_id=row.item_id,
        item=None if row.item is None else _decode(row.item),
        vector=None if row.vector is None else np.frombuffer(row.vector, dtype="<f4"),
        encoder=row.encoder,
        sequence=row.sequence,
    )
