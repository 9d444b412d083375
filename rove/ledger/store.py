"""SQLite files behind SQLAlchemy Core: opening, transactions, one writer per shard, errors.

- Every connection is in the driver's autocommit mode: a statement outside `Database.transaction`
  is one by itself and sees the last commit; a transaction is BEGIN IMMEDIATE ... COMMIT by hand,
  so a writer waits for the lock at its start and never fails half way because of another.
- WAL: readers and the writer do not wait for each other.
- Every failure of the database becomes `StoreUnavailable`: nothing of that transaction was kept.
- Deleted rows are overwritten (`secure_delete`), and `Database.scrub` removes their copies from
  the write-ahead log.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    MetaData,
    NullPool,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from rove.config import StoreSection
from rove.errors import Conflict, StoreUnavailable
from rove.ledger.schema import SCHEMA_VERSION

Mode = Literal["write", "read"]

_BEGIN = text("BEGIN IMMEDIATE")
_COMMIT = text("COMMIT")
_ROLLBACK = text("ROLLBACK")
_BE_BRIEF = text("PRAGMA busy_timeout = 100")
_CHECKPOINT = text("PRAGMA wal_checkpoint(TRUNCATE)")

_SYNCHRONOUS = {"power_loss": "FULL", "process": "NORMAL"}
_LOCK_POLL_S = 0.05
_MAX_IDS = 1024  # of one statement
_ADVICE = {
    "SQLITE_FULL": "free space on its disk; nothing of this request was stored, so send it again",
    "SQLITE_IOERR": "check its disk; nothing of this request was stored, so send it again",
    "SQLITE_BUSY": "another process holds it; send the request again",
    "SQLITE_LOCKED": "another process holds it; send the request again",
    "SQLITE_READONLY": "make the file and its folder writable",
    "SQLITE_PERM": "make the file and its folder writable",
    "SQLITE_CANTOPEN": "check that its folder exists and is writable",
    "SQLITE_CORRUPT": "the file is damaged: restore it from a backup",
    "SQLITE_NOTADB": "the file is no SQLite database: move it away or set another store.url",
}


def folder_of(store: StoreSection) -> Path:
    """Return the folder that `store.url` (sqlite:///DIR) names."""
    return Path(store.url.removeprefix("sqlite:///"))


def shard_path(store: StoreSection, shard: int) -> Path:
    """Return the file of one shard's ledger."""
    return folder_of(store) / f"shard-{shard}.sqlite"


def catalogue_path(store: StoreSection) -> Path:
    """Return the file of the catalogue."""
    return folder_of(store) / "catalogue.sqlite"


def make_folder(store: StoreSection) -> Path:
    """Create the store's folder unless it exists, and return it."""
    folder = folder_of(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the store's folder {folder} cannot be created: {error.strerror}; "
            "set store.url to a folder that can be written"
        ) from error
    return folder


class Database:
    """One open SQLite file, used by one thread at a time (any thread)."""

    path: Path
    connection: Connection

    def __init__(self, path: Path, store: StoreSection, mode: Mode) -> None:
        self.path = path
        self._engine = _engine(path, store, mode)
        self._be_patient = text(f"PRAGMA busy_timeout = {store.busy_timeout_s * 1000:.0f}")
        with store_errors(path):
            self.connection = self._engine.connect()
            self._inode = path.stat().st_ino

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit what the body executes, or roll all of it back if anything is raised."""
        self._check_file()
        connection = self.connection
        with store_errors(self.path):
            connection.execute(_BEGIN)
            try:
                yield connection
                connection.execute(_COMMIT)
            except BaseException:
                self._roll_back()
                raise

    def scrub(self) -> bool:
        """Empty the write-ahead log, which holds pages from before a deletion.

        False if that has to wait: for a reader, or for space on the disk.
        """
        try:
            self.connection.execute(_BE_BRIEF)
            try:
                busy: int = self.connection.execute(_CHECKPOINT).one()[0]
            finally:
                self.connection.execute(self._be_patient)
        except DBAPIError:
            return False
        return busy == 0

    def close(self) -> None:
        """Close the file; the last to close it empties the write-ahead log."""
        self.connection.close()
        self._engine.dispose()

    def _roll_back(self) -> None:
        # SQLite has already rolled back by itself after some errors (full disk, I/O).
        driver: Any = self.connection.connection.driver_connection
        if driver.in_transaction:
            self.connection.execute(_ROLLBACK)

    def _check_file(self) -> None:
        """Refuse to write to a file that was unlinked: SQLite would, and the rows would be lost."""
        try:
            current = self.path.stat().st_ino
        except OSError as error:
            raise StoreUnavailable(
                f"{self.path}: {error.strerror}; restore it and restart"
            ) from error
        if current != self._inode:
            raise StoreUnavailable(f"{self.path} was replaced while it was open; restart")


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn the database's errors into Rove's."""
    try:
        yield
    except DBAPIError as error:
        name: str = getattr(error.orig, "sqlite_errorname", "")
        if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
            raise Conflict(f"{path}: an id is stored already; use a new one") from error
        if isinstance(error, IntegrityError):
            raise  # a row that no caller should have made
        advice = next((text for code, text in _ADVICE.items() if name.startswith(code)), "")
        raise StoreUnavailable(
            f"{path}: {error.orig}" + (f"; {advice}" if advice else ""), reason=name
        ) from error


def prepare(
    database: Database, metadata: MetaData, meta: Table, expected: Mapping[str, str]
) -> None:
    """Create the tables unless they exist, with `expected` in `meta`."""
    with database.transaction() as connection:
        if not inspect(connection).has_table(meta.name):
            metadata.create_all(connection, checkfirst=False)
            rows = [{"key": key, "value": value} for key, value in expected.items()]
            connection.execute(insert(meta), rows)


def read_meta(database: Database, meta: Table) -> dict[str, str]:
    """Return what `meta` says; nothing for a file whose tables are not there yet."""
    with store_errors(database.path):
        if not inspect(database.connection).has_table(meta.name):
            return {}
        rows = database.connection.execute(select(meta.c.key, meta.c.value))
        return {key: value for key, value in rows}


def check_schema(path: Path, found: Mapping[str, str]) -> None:
    """Refuse a file whose tables are of another version than this code's."""
    version = found.get("schema_version", "unknown")
    if version != str(SCHEMA_VERSION):
        raise StoreUnavailable(
            f"{path} has schema version {version}, this Rove reads {SCHEMA_VERSION}; "
            "use the Rove that wrote it, or set store.url to a new folder"
        )


def parts_of(ids: Sequence[str]) -> Iterator[list[str]]:
    """Cut `ids` up and pad each part to a power of two, so that few statements are compiled."""
    for start in range(0, len(ids), _MAX_IDS):
        part = list(ids[start : start + _MAX_IDS])
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        yield part


class WriterLock:
    """The right to write one shard: at most one holder, given up when its process ends, however."""

    def __init__(self, path: Path, patience_s: float) -> None:
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnavailable(
                f"{path} cannot be opened for writing: {error.strerror}; "
                "make the store's folder writable"
            ) from error
        self._close = weakref.finalize(self, os.close, self._handle)
        deadline = time.monotonic() + patience_s
        while not self._acquired():
            if time.monotonic() >= deadline:
                holder = os.pread(self._handle, 32, 0).decode("ascii", "replace") or "unknown"
                self.release()
                raise StoreUnavailable(
                    f"{path}: process {holder} writes this shard; stop it first "
                    "(one writer per shard; reading needs no lock)"
                )
            time.sleep(_LOCK_POLL_S)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode("ascii"), 0)

    def release(self) -> None:
        """Give the right up."""
        self._close()

    def _acquired(self) -> bool:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _engine(path: Path, store: StoreSection, mode: Mode) -> Engine:
    url = URL.create(
        "sqlite",
        database=f"file:{quote(str(path.absolute()))}",
        query={"uri": "true", "mode": "rwc" if mode == "write" else "ro"},
    )
    engine = create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        connect_args={"check_same_thread": False, "timeout": store.busy_timeout_s},
    )
    pragmas = ["PRAGMA temp_store = MEMORY", "PRAGMA cache_size = -16384"]
    if mode == "write":
        pragmas += [
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {_SYNCHRONOUS[store.durability]}",
            "PRAGMA secure_delete = ON",
            "PRAGMA wal_autocheckpoint = 4000",  # pages; hot pages are copied over once per 16 MB
            "PRAGMA journal_size_limit = 67108864",
        ]

    def configure(driver_connection: Any, _record: object) -> None:
        for pragma in pragmas:
            driver_connection.execute(pragma)

    event.listen(engine, "connect", configure)
    return engine
