"""SQLite files as a store: one WAL file for each shard and one for the catalogue, in a folder.

- A transaction is BEGIN IMMEDIATE ... COMMIT by hand, so a writer waits for the lock at its start
  and never fails half way because of another.
- WAL: readers and the writer do not wait for each other.
- Deleted rows are overwritten (`secure_delete`), and `scrub` removes their copies from the
  write-ahead log.
- `durability: power_loss` is an fsync a commit: a commit survives whatever the disk survives.
  `process` leaves that to the system: it survives the end of any process, not of the machine.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from rove.config import StoreSection
from rove.errors import Conflict, NotFound, StoreUnavailable
from rove.ledger.database import CATALOGUE, Database, Guard, Mode, Store, shard_of_part

PREFIX = "sqlite:///"
_SUFFIX = ".sqlite"
_BEGIN = text("BEGIN IMMEDIATE")
_COMMIT = text("COMMIT")
_ROLLBACK = text("ROLLBACK")
_BE_BRIEF = text("PRAGMA busy_timeout = 100")
_CHECKPOINT = text("PRAGMA wal_checkpoint(TRUNCATE)")

_SYNCHRONOUS = {"power_loss": "FULL", "process": "NORMAL"}
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


class SqliteStore(Store):
    """A folder of files."""

    def __init__(self, section: StoreSection) -> None:
        self._section = section
        self.name = section.url.removeprefix(PREFIX)
        self._folder = Path(self.name)

    def shards(self) -> list[int]:
        """Return the shards that have a file."""
        parts = [path.stem for path in self._folder.glob(f"*{_SUFFIX}")]
        return sorted(shard for part in parts if (shard := shard_of_part(part)) is not None)

    def open(self, part: str, mode: Mode) -> Database:
        """Open a file."""
        path = self._folder / f"{part}{_SUFFIX}"
        if mode == "write":
            _make_folder(self._folder)
        elif not path.exists():
            raise NotFound(f"{path} does not exist; load a history or start serving first")
        return SqliteDatabase(path, self._section, mode, is_guarded=part != CATALOGUE)

    def close(self) -> None:
        """Do nothing: files share nothing."""


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the store's folder {folder} cannot be created: {error.strerror}; "
            "set store.url to a folder that can be written"
        ) from error


class SqliteDatabase(Database):
    """One open file."""

    def __init__(self, path: Path, section: StoreSection, mode: Mode, *, is_guarded: bool) -> None:
        self.name = str(path)
        self._path = path
        # First: where nothing can be written, this is what says so best.
        is_guarded = is_guarded and mode == "write"
        self._guard = FileGuard(path.with_suffix(".lock")) if is_guarded else None
        self._engine = _engine(path, section, mode)
        self._be_patient = text(f"PRAGMA busy_timeout = {section.busy_timeout_s * 1000:.0f}")
        with self._errors():
            self._connection = self._engine.connect()
            self._inode = path.stat().st_ino

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give the connection."""
        with self._errors():
            yield self._connection

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[Connection]:
        """Commit what the body executes, or roll all of it back; every transaction is alone."""
        self._check_file()
        connection = self._connection
        with self._errors():
            connection.execute(_BEGIN)
            try:
                yield connection
                connection.execute(_COMMIT)
            except BaseException:
                self._roll_back()
                raise

    def guard(self) -> Guard:
        """Return the lock on the file beside this one."""
        assert self._guard is not None
        return self._guard

    def scrub(self) -> bool:
        """Empty the write-ahead log, which holds pages from before a deletion.

        False if that has to wait: for a reader, or for space on the disk.
        """
        try:
            self._connection.execute(_BE_BRIEF)
            try:
                busy: int = self._connection.execute(_CHECKPOINT).one()[0]
            finally:
                self._connection.execute(self._be_patient)
        except DBAPIError:
            return False
        return busy == 0

    def close(self) -> None:
        """Close the file; the last to close it empties the write-ahead log."""
        self._connection.close()
        self._engine.dispose()
        if self._guard is not None:
            self._guard.release()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the database's errors into Rove's."""
        try:
            yield
        except DBAPIError as error:
            name: str = getattr(error.orig, "sqlite_errorname", "")
            if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
                raise Conflict(f"{self.name}: an id is stored already; use a new one") from error
            if isinstance(error, IntegrityError):
                raise  # a row that no caller should have made
            advice = next((text for code, text in _ADVICE.items() if name.startswith(code)), "")
            raise StoreUnavailable(
                f"{self.name}: {error.orig}" + (f"; {advice}" if advice else ""), reason=name
            ) from error

    def _roll_back(self) -> None:
        # SQLite has already rolled back by itself after some errors (full disk, I/O).
        driver: Any = self._connection.connection.driver_connection
        if driver.in_transaction:
            self._connection.execute(_ROLLBACK)

    def _check_file(self) -> None:
        """Refuse to write to a file that was unlinked: SQLite would, and the rows would be lost."""
        try:
            current = self._path.stat().st_ino
        except OSError as error:
            raise StoreUnavailable(
                f"{self.name}: {error.strerror}; restore it and restart"
            ) from error
        if current != self._inode:
            raise StoreUnavailable(f"{self.name} was replaced while it was open; restart")


class FileGuard(Guard):
    """A lock on a file, which the system gives up when its process ends, however it does.

    A holder that lost its lease may keep the lock on its file: the next one's is another file of
    the same name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1
        self._close: Callable[[], object] = lambda: None
        self._open(path, os.O_RDWR | os.O_CREAT)

    def is_gone(self, epoch: int) -> bool:
        """Say whether nobody has the lock; if so, it is ours from now on."""
        while _locked(self._handle):
            if self._is_current():
                return True
            self._open(self._path, os.O_RDWR | os.O_CREAT)
        if not self._is_current():  # a later holder's file has come in its place
            self._open(self._path, os.O_RDWR | os.O_CREAT)
        return False

    def evict(self, epoch: int) -> None:
        """Do nothing: there is no server that could."""

    def hold(self, epoch: int) -> None:
        """Have the lock on the file of that name."""
        if not (_locked(self._handle) and self._is_current()):
            new = self._path.with_name(f"{self._path.name}.{uuid4().hex}")
            self._open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            assert _locked(self._handle)
            os.replace(new, self._path)

    def release(self) -> None:
        """Give the lock up."""
        self._close()

    def _open(self, path: Path, flags: int) -> None:
        self._close()
        try:
            self._handle = os.open(path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnavailable(
                f"{path} cannot be opened for writing: {error.strerror}; "
                "make the store's folder writable"
            ) from error
        self._close = weakref.finalize(self, os.close, self._handle)

    def _is_current(self) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(self._handle).st_ino
        except FileNotFoundError:
            return False


def _locked(handle: int) -> bool:
    """Say whether the lock is ours, taking it if it is nobody's."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _engine(path: Path, section: StoreSection, mode: Mode) -> Engine:
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
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": section.busy_timeout_s},
    )
    pragmas = ["PRAGMA temp_store = MEMORY", "PRAGMA cache_size = -16384"]
    if mode == "write":
        pragmas += [
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {_SYNCHRONOUS[section.durability]}",
            "PRAGMA secure_delete = ON",
            "PRAGMA wal_autocheckpoint = 4000",  # pages; hot pages are copied over once per 16 MB
            "PRAGMA journal_size_limit = 67108864",
        ]

    def configure(driver_connection: Any, _record: object) -> None:
        for pragma in pragmas:
            driver_connection.execute(pragma)

    event.listen(engine, "connect", configure)
    return engine
