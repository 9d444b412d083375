"""Which schema version a store has, and how it gets to this Rove's.

- The version of a part stands in its `meta`; parts of one store may differ for as long as an
  upgrade that was interrupted has not been repeated.
- Nobody may be writing: every shard is held for as long as the upgrade takes.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Table, func, select, update

from rove.config import StoreSection
from rove.errors import NotFound, StoreUnavailable
from rove.ledger.database import (
    CATALOGUE,
    Database,
    Store,
    check_schema,
    read_meta,
    shard_of_part,
    shard_part,
)
from rove.ledger.items import ItemStore
from rove.ledger.lease import Lease
from rove.ledger.ledger import Ledger
from rove.ledger.migrations import MIGRATIONS
from rove.ledger.schema import SCHEMA_VERSION, catalogue_meta, ledger_meta
from rove.ledger.store import open_store

FIRST_VERSION: int = MIGRATIONS[0].VERSION - 1
"""The oldest schema that can be upgraded."""
_LEASE_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PartVersion:
    """The schema version of one part of a store; None while it has no tables."""

    part: str
    version: str | None

    @property
    def is_due(self) -> bool:
        """Whether this Rove can bring it to its own version."""
        if self.version is None or not self.version.isdecimal():
            return False
        return FIRST_VERSION <= int(self.version) < SCHEMA_VERSION

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.part}: not there yet"
        if self.version == str(SCHEMA_VERSION):
            return f"{self.part}: schema version {self.version}"
        advice = "an upgrade is due" if self.is_due else "of no version that this Rove can read"
        return f"{self.part}: schema version {self.version}, {advice}"


def versions(section: StoreSection, num_shards: int) -> list[PartVersion]:
    """Return the schema version of every shard and of the catalogue."""
    with closing(open_store(section)) as store:
        return [_version(store, part) for part in _parts(num_shards)]


def upgrade(section: StoreSection, num_shards: int) -> list[PartVersion]:
    """Bring every part to this Rove's version, making what is not there; return what there was."""
    with closing(open_store(section)) as store:
        before = [_version(store, part) for part in _parts(num_shards)]
        for one in before:
            if one.version is not None and not one.is_due:
                check_schema(one.part, {"schema_version": one.version})
        with ExitStack() as held:
            due = [
                (one, held.enter_context(closing(store.open(one.part, "write"))))
                for one in before
                if one.is_due
            ]
            for one, database in due:
                if one.part != CATALOGUE:
                    _hold(database, int(one.version or 0), section, held)
            for one, database in due:
                _upgrade(database, one.part, int(one.version or 0))
    for shard in range(num_shards):
        Ledger.open(section, shard, num_shards).close()
    ItemStore.open(section).close()
    return before


def _parts(num_shards: int) -> list[str]:
    return [*(shard_part(shard) for shard in range(num_shards)), CATALOGUE]


def _version(store: Store, part: str) -> PartVersion:
    try:
        with closing(store.open(part, "read")) as database:
            found = read_meta(database, _meta(part))
    except NotFound:
        found = {}
    return PartVersion(part=part, version=found.get("schema_version", "unknown") if found else None)


def _meta(part: str) -> Table:
    return catalogue_meta if shard_of_part(part) is None else ledger_meta


def _hold(database: Database, version: int, section: StoreSection, held: ExitStack) -> None:
    """Keep other writers out until `held` is closed."""
    if version >= _LEASE_VERSION:
        held.callback(Lease(database, section.lease_s, section.busy_timeout_s).release)
        return
    guard = database.guard()
    held.callback(guard.release)
    if not guard.is_gone(0):
        raise StoreUnavailable(f"{database.name}: a process writes this shard; stop it first")


def _upgrade(database: Database, part: str, version: int) -> None:
    with database.transaction(alone=True) as connection:
        if database.schema is not None:  # for ALTER, which Alembic does not say the schema of
            connection.execute(select(func.set_config("search_path", database.schema, True)))
        operations = Operations(MigrationContext.configure(connection))
        for migration in MIGRATIONS:
            if migration.VERSION > version:
                migration.upgrade(operations, part)
        meta = _meta(part)
        row = meta.c.key == "schema_version"
        connection.execute(update(meta).where(row).values(value=str(SCHEMA_VERSION)))
