"""What a store gives: sets of tables that can be read and written, whatever is behind them.

    ledger.sqlite    each set of tables is a file of a folder
    ledger.postgres  each is a schema of a database
    ledger.store     chooses one by `store.url`

- A set is called by its part: `shard-<i>` or `catalogue`.
- Connections are in the driver's autocommit mode: a statement outside `Database.transaction` is one
  by itself and sees the last commit; BEGIN and COMMIT are said by hand.
- Every failure of the database becomes `StoreUnavailable`. Nothing of a transaction was kept then,
  unless it says that its outcome is not known (`OutcomeUnknown`).
- A store and its databases are used by one thread at a time (any thread).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from sqlalchemy import Connection, MetaData, Table, bindparam, func, insert, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import Executable

from rove.errors import StoreUnavailable
from rove.ledger.schema import SCHEMA_VERSION

Mode = Literal["write", "read"]
CATALOGUE = "catalogue"
_SHARD = "shard-"
_MAX_IDS = 1024  # of one statement
_COUNTED = {"preserve_rowcount": True}


def shard_part(shard: int) -> str:
    """Return the part that holds one shard's ledger."""
    return f"{_SHARD}{shard}"


class Guard(ABC):
    """The sign that the holder of a lease is alive: it is gone as soon as the holder is."""

    @abstractmethod
    def is_gone(self, epoch: int) -> bool:
        """Say whether the holder of that epoch certainly is."""

    @abstractmethod
    def evict(self, epoch: int) -> None:
        """Take from the holder of that epoch, whose time is up, what it keeps others waiting by."""

    @abstractmethod
    def hold(self, epoch: int) -> None:
        """Be the sign of a new holder, whether the one before is gone or not."""

    @abstractmethod
    def release(self) -> None:
        """Give the sign up."""


class Database(ABC):
    """One set of tables."""

    name: str
    """What messages call it; no secret is in it."""
    schema: str | None = None
    """Where inspection finds the tables, if not where all are."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """Give a connection on which each statement is one by itself."""

    @abstractmethod
    def transaction(self, *, alone: bool = False) -> AbstractContextManager[Connection]:
        """Commit what the body executes, or roll all of it back if anything is raised.

        Of those that want to be alone one runs after the other.
        """

    @abstractmethod
    def guard(self) -> Guard:
        """Return the sign of the holder of this database's lease."""

    @abstractmethod
    def scrub(self) -> bool:
        """Remove the copies of deleted rows that are left; False if that has to wait."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open for this database alone."""


class Store(ABC):
    """What `store.url` names."""

    name: str
    """What messages call it; no secret is in it."""

    @abstractmethod
    def shards(self) -> list[int]:
        """Return the shards there are, in order; one may have no tables yet."""

    @abstractmethod
    def open(self, part: str, mode: Mode) -> Database:
        """Open a part; one that is opened for writing is made if it is not there."""

    @abstractmethod
    def close(self) -> None:
        """Close what the databases share."""


def shard_of_part(part: str) -> int | None:
    """Return the number of the shard that a part holds, if it holds one."""
    number = part.removeprefix(_SHARD)
    return int(number) if part.startswith(_SHARD) and number.isdecimal() else None


class Insertion:
    """INSERT of many rows; `known` says what becomes of rows whose keys are stored.

    refuse: `Conflict`. keep: they stay as they are. replace: all columns but the keys are new.
    PostgreSQL gets one statement with an array a column, of which it may never get two rows of one
    key to replace; SQLite, in whose process a statement is cheap, one a row.
    """

    def __init__(self, table: Table, known: Literal["refuse", "keep", "replace"]) -> None:
        self._table = table
        self._known = known
        self._made: dict[tuple[str, ...], Executable] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert rows, all with the same columns; return how many were stored."""
        if not rows:
            return 0
        dialect, names = connection.dialect.name, tuple(rows[0])
        if (dialect, *names) not in self._made:
            made = self._by_row(names) if dialect == "sqlite" else self._by_column(names)
            self._made[dialect, *names] = made
        statement = self._made[dialect, *names]
        if dialect == "sqlite":
            return connection.execute(statement, rows, execution_options=_COUNTED).rowcount
        columns = {name: [row[name] for row in rows] for name in names}
        return connection.execute(statement, columns, execution_options=_COUNTED).rowcount

    def _by_row(self, names: Sequence[str]) -> Executable:
        return self._resolved(sqlite.insert(self._table), names)

    def _by_column(self, names: Sequence[str]) -> Executable:
        arrays = [
            bindparam(name, type_=postgresql.ARRAY(self._table.c[name].type)) for name in names
        ]
        rows = func.unnest(*arrays).table_valued(*names).render_derived()
        new = postgresql.insert(self._table).from_select(names, select(*rows.c))
        return self._resolved(new, names)

    def _resolved(self, new: sqlite.Insert | postgresql.Insert, names: Sequence[str]) -> Executable:
        if self._known == "refuse":
            return new
        if self._known == "keep":
            return new.on_conflict_do_nothing()
        keys = list(self._table.primary_key.columns)
        values = {n: new.excluded[n] for n in names if self._table.c[n] not in set(keys)}
        return new.on_conflict_do_update(index_elements=keys, set_=values)


def has_tables(database: Database, connection: Connection, meta: Table) -> bool:
    """Say whether the tables are there."""
    return inspect(connection).has_table(meta.name, schema=database.schema)


def prepare(
    database: Database,
    metadata: MetaData,
    meta: Table,
    expected: Mapping[str, str],
    fill: Callable[[Connection], None] = lambda connection: None,
) -> None:
    """Create the tables unless they exist, with `expected` in `meta`, and fill them."""
    with database.transaction(alone=True) as connection:
        if not has_tables(database, connection, meta):
            metadata.create_all(connection, checkfirst=False)
            rows = [{"key": key, "value": value} for key, value in expected.items()]
            connection.execute(insert(meta), rows)
            fill(connection)


def read_meta(database: Database, meta: Table) -> dict[str, str]:
    """Return what `meta` says; nothing for a database whose tables are not there yet."""
    with database.reading() as connection:
        if not has_tables(database, connection, meta):
            return {}
        rows = connection.execute(select(meta.c.key, meta.c.value)).all()
    return {key: value for key, value in rows}


def check_schema(name: str, found: Mapping[str, str]) -> None:
    """Refuse a database whose tables are of another version than this code's."""
    version = found.get("schema_version", "unknown")
    if version == str(SCHEMA_VERSION):
        return
    older = version.isdecimal() and int(version) < SCHEMA_VERSION
    advice = (
        "stop what serves it and run `rove db upgrade CONFIG`"
        if older
        else "use the Rove that wrote it, or set store.url to a new folder"
    )
    raise StoreUnavailable(
        f"{name} has schema version {version}, this Rove reads {SCHEMA_VERSION}; {advice}"
    )


def parts_of(ids: Sequence[str]) -> Iterator[list[str]]:
    """Cut `ids` up and pad each part to a power of two, so that few statements are compiled."""
    for start in range(0, len(ids), _MAX_IDS):
        part = list(ids[start : start + _MAX_IDS])
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        yield part
