"""A database of PostgreSQL as a store: one schema for each shard and one for the catalogue.

- One connection for a store, whatever number of its schemas is read: a shard's process has two
  (its ledger's, its catalogue's). Connections are held open, so nothing waits for a new one.
- A connection that breaks is made again by the next call, at growing intervals; in between calls
  are refused at once. Nothing waits here for a server to come back.
- When it breaks during COMMIT, only the server knows the outcome (`OutcomeUnknown`).
- `durability: power_loss` is `synchronous_commit = on`: a commit survives the end of this process
  and of the server, and a power cut. `process` is `off`: it survives the end of this process, but
  a server that is killed, or its machine, may lose what was committed in the last three
  `wal_writer_delay` (.6 s). Neither says anything about fsync, which is the server's setting.
- Deleted rows are left to VACUUM and to the turnover of the write-ahead log.
- Needs PostgreSQL 14 and sessions: a pooler between has to be in session mode.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema

from rove.config import StoreSection
from rove.errors import ConfigError, Conflict, NotFound, OutcomeUnknown, StoreUnavailable
from rove.ledger.database import Database, Guard, Mode, Store, shard_of_part

PREFIX = "postgresql+psycopg://"
_BEGIN = text("BEGIN")
_COMMIT = text("COMMIT")
_ROLLBACK = text("ROLLBACK")
_FAILED = 3  # psycopg.pq.TransactionStatus.INERROR
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 1.0
_CONNECT_S = 2  # the least libpq knows
_IDLE_S = 60.0  # a transaction that does nothing for so long has been forgotten by its process
_SYNCHRONOUS = {"power_loss": "on", "process": "off"}
_UNIQUE = "23505"
_OUR_MISTAKES = ("22", "23")  # classes of errors: values and rows that no caller should have made
_ADVICE = {
    "25006": "the server is a standby: name the primary in store.url",
    "28": "check the user and the password of store.url",
    "3D": "check the database in store.url",
    "40": "it met another transaction; send the request again",
    "42501": "grant its user what is missing, or create the schemas with `rove db upgrade`",
    "53": "the server is out of space, memory or connections; send the request again",
    "55": "another session holds it; send the request again",
    "57": "the server is stopping or starting; send the request again",
}
_schemas = text("SELECT nspname FROM pg_catalog.pg_namespace")
_alone = text("SELECT pg_advisory_xact_lock(hashtext(:schema), -1)")
_try_lock = text("SELECT pg_try_advisory_lock(hashtext(:schema), :epoch)")
_unlock = text("SELECT pg_advisory_unlock(hashtext(:schema), :epoch)")
_terminate = text(
    "SELECT pg_terminate_backend(pid, 1000) FROM pg_catalog.pg_locks WHERE locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
    " AND classid::bigint = hashtext(:schema)::bigint & 4294967295"
    " AND objid::bigint = :epoch AND objsubid = 2 AND granted AND pid <> pg_backend_pid()"
)


class PostgresStore(Store):
    """A database with a schema for each part."""

    def __init__(self, section: StoreSection) -> None:
        self._prefix = f"{section.schema_prefix}_"
        self._link = Link(section)
        self.name = self._link.name

    def shards(self) -> list[int]:
        """Return the shards that have a schema."""
        with self._link.errors(self._link.name):
            names = self._link.connection(None).execute(_schemas).scalars().all()
        parts = [n.removeprefix(self._prefix).replace("_", "-") for n in names if self._is_ours(n)]
        return sorted(shard for part in parts if (shard := shard_of_part(part)) is not None)

    def open(self, part: str, mode: Mode) -> Database:
        """Open a schema."""
        schema = self._prefix + part.replace("-", "_")
        name = f"{self._link.name}, schema {schema}"
        with self._link.errors(name):
            connection = self._link.connection(None)
            if schema not in connection.execute(_schemas).scalars().all():
                if mode == "read":
                    raise NotFound(f"{name} does not exist; load a history or start serving first")
                try:
                    connection.execute(CreateSchema(schema))
                except DBAPIError as error:
                    if getattr(error.orig, "sqlstate", "") not in (_UNIQUE, "42P06"):
                        raise  # another process was not quicker
        return PostgresDatabase(self._link, schema, name)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _is_ours(self, schema: str) -> bool:
        return schema.startswith(self._prefix)


class Link:
    """One connection, made again after it broke."""

    name: str

    def __init__(self, section: StoreSection) -> None:
        url = make_url(section.url)
        hosts = url.host or url.query.get("host") or "localhost"
        self.name = f"postgresql://{hosts}{f':{url.port}' if url.port else ''}/{url.database}"
        self._engine = _engine(section)
        self._open: list[Connection] = []  # one or none
        weakref.finalize(self, _close, self._open)
        self._schema: str | None = None
        self._delay_s = 0.0
        self._not_before_s = 0.0
        self.guards: weakref.WeakSet[AdvisoryGuard] = weakref.WeakSet()

    def connection(self, schema: str | None) -> Connection:
        """Return the connection, with the tables those of `schema`."""
        if not self._open:
            self._open.append(self._connect())
            self._schema = None
            for guard in self.guards:
                guard.restore(self._open[0])
        if schema is not None and schema != self._schema:
            self._open[0].execution_options(schema_translate_map={None: schema})
            self._schema = schema
        return self._open[0]

    def drop(self) -> None:
        """Give up a connection that broke."""
        for connection in self._open:
            connection.invalidate()
        _close(self._open)

    def close(self) -> None:
        """Close the connection."""
        _close(self._open)
        self._engine.dispose()

    def is_broken(self, error: DBAPIError) -> bool:
        """Say whether an error ended the connection."""
        if error.connection_invalidated or not self._open:
            return True
        driver: Any = self._open[0].connection.driver_connection
        return driver is None or bool(driver.closed)

    @contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Turn the database's errors into Rove's."""
        try:
            yield
        except DBAPIError as error:
            if self.is_broken(error):
                self.drop()
                raise StoreUnavailable(
                    f"{name}: the connection broke ({_reason(error)}); nothing of this request "
                    "was stored, so send it again"
                ) from error
            code = getattr(error.orig, "sqlstate", None) or ""
            if code == _UNIQUE:
                raise Conflict(f"{name}: an id is stored already; use a new one") from error
            if code[:2] in _OUR_MISTAKES:
                raise
            advice = next((text for key, text in _ADVICE.items() if code.startswith(key)), "")
            raise StoreUnavailable(
                f"{name}: {_reason(error)}" + (f"; {advice}" if advice else ""), reason=code
            ) from error

    def _connect(self) -> Connection:
        wait_s = self._not_before_s - time.monotonic()
        if wait_s > 0.0:
            raise StoreUnavailable(
                f"{self.name} cannot be reached; the next attempt is in {wait_s:.2f} s",
                retry_after_s=wait_s,
            )
        try:
            connection = self._engine.connect()
        except SQLAlchemyError as error:
            self._delay_s = min(_LAST_DELAY_S, max(_FIRST_DELAY_S, 2.0 * self._delay_s))
            self._not_before_s = time.monotonic() + self._delay_s
            raise StoreUnavailable(
                f"{self.name} cannot be reached: {_reason(error)}; check store.url and the server",
                retry_after_s=self._delay_s,
            ) from error
        self._delay_s = 0.0
        return connection


class PostgresDatabase(Database):
    """One schema."""

    schema: str

    def __init__(self, link: Link, schema: str, name: str) -> None:
        self.name = name
        self.schema = schema
        self._link = link

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give the connection."""
        with self._link.errors(self.name):
            yield self._link.connection(self.schema)

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[Connection]:
        """Commit what the body executes, or roll all of it back if anything is raised."""
        with self._link.errors(self.name):
            connection = self._begin()
            try:
                if alone:
                    connection.execute(_alone, {"schema": self.schema})
                yield connection
                driver: Any = connection.connection.driver_connection
                # Else the server would answer COMMIT with a rollback, and no error.
                assert driver.info.transaction_status != _FAILED, "a failed statement was ignored"
            except BaseException:
                self._roll_back(connection)
                raise
            self._commit(connection)

    def guard(self) -> Guard:
        """Return the sign that is a lock of the session."""
        return AdvisoryGuard(self._link, self.schema)

    def scrub(self) -> bool:
        """Do nothing: rows are removed by VACUUM, logs by checkpoints."""
        return True

    def close(self) -> None:
        """Do nothing: the connection is the store's."""

    def _begin(self) -> Connection:
        connection = self._link.connection(self.schema)
        try:
            connection.execute(_BEGIN)
        except DBAPIError as error:
            if not self._link.is_broken(error):
                raise
            self._link.drop()  # while it was idle; nothing has been said on it
            connection = self._link.connection(self.schema)
            connection.execute(_BEGIN)
        return connection

    def _commit(self, connection: Connection) -> None:
        try:
            connection.execute(_COMMIT)
        except DBAPIError as error:
            if not self._link.is_broken(error):
                raise
            self._link.drop()
            raise OutcomeUnknown(
                f"{self.name}: the connection broke during a commit ({_reason(error)}); this "
                "request may be stored or not: send it again with the same ids"
            ) from error

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.execute(_ROLLBACK)
        except SQLAlchemyError:
            self._link.drop()


class AdvisoryGuard(Guard):
    """A lock of the holder's session, which the server gives up when the session ends.

    It is a lock of the epoch's own: who was declared gone and comes back stands in nobody's way.
    """

    def __init__(self, link: Link, schema: str) -> None:
        self._link = link
        self._schema = schema
        self._held: set[int] = set()
        link.guards.add(self)

    def is_gone(self, epoch: int) -> bool:
        """Say whether no session has the epoch's lock; if so, ours has it from now on."""
        if self._try(self._link.connection(None), epoch):
            self._held.add(epoch)
        return epoch in self._held

    def evict(self, epoch: int) -> None:
        """End the session of the holder: a process that is paused may hold rows locked."""
        connection = self._link.connection(None)
        connection.execute(_terminate, {"schema": self._schema, "epoch": epoch})

    def hold(self, epoch: int) -> None:
        """Have the new epoch's lock, and no other."""
        connection = self._link.connection(None)
        self._try(connection, epoch)
        for old in self._held:
            connection.execute(_unlock, {"schema": self._schema, "epoch": old})
        self._held = {epoch}

    def restore(self, connection: Connection) -> None:
        """Take the lock in a new session; end ours from before, if the server still has it."""
        for epoch in self._held:
            if not self._try(connection, epoch):
                connection.execute(_terminate, {"schema": self._schema, "epoch": epoch})
                self._try(connection, epoch)

    def release(self) -> None:
        """Leave it to the end of the session."""
        self._link.guards.discard(self)

    def _try(self, connection: Connection, epoch: int) -> bool:
        parameters = {"schema": self._schema, "epoch": epoch}
        return bool(connection.execute(_try_lock, parameters).scalar())


def _close(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()


def _reason(error: SQLAlchemyError) -> str:
    """Return the first line of what the database says; others may hold values."""
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    return re.sub(r"\s+", " ", said.partition("\n")[0]) or type(error).__name__


def _engine(section: StoreSection) -> Engine:
    connect_args = {
        "connect_timeout": _CONNECT_S,
        "application_name": "rove",
        # A server that is gone without a word is noticed in about ten seconds.
        "keepalives_idle": 4,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    try:
        engine = create_engine(
            section.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            connect_args=connect_args,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            "store.url names PostgreSQL, which needs psycopg; install rove[postgres]"
        ) from error
    settings = {
        "synchronous_commit": _SYNCHRONOUS[section.durability],
        "lock_timeout": f"{section.busy_timeout_s * 1000:.0f}",
        "idle_in_transaction_session_timeout": f"{_IDLE_S * 1000:.0f}",
    }

    driver: Any = engine.dialect.dbapi

    def configure(driver_connection: Any, _record: object) -> None:
        driver_connection.autocommit = True
        # As text every quote in an array is escaped in Python: 2.5 of 4.5 s for decisions' JSON.
        arrays = driver.types.array.ListBinaryDumper
        driver_connection.adapters.register_dumper(list, arrays)
        said = [f"SET {name} = '{value}'" for name, value in settings.items()]
        driver_connection.execute("; ".join(said))

    event.listen(engine, "connect", configure)
    return engine
