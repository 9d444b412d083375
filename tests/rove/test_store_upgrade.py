"""Stores of an older schema are brought to this one, whole and once; `rove db` says which it is."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, text, update

from rove.cli import main
from rove.config import StoreSection
from rove.errors import StoreUnavailable
from rove.ledger.database import CATALOGUE
from rove.ledger.items import ItemStore
from rove.ledger.lease import Lease
from rove.ledger.ledger import Ledger
from rove.ledger.migrations import MIGRATIONS
from rove.ledger.schema import (
    SCHEMA_VERSION,
    catalogue_meta,
    catalogue_metadata,
    ledger_meta,
    ledger_metadata,
)
from rove.ledger.store import open_store
from rove.ledger.upgrading import PartVersion, upgrade, versions

# As they were written by the Rove of that time.
SQLITE_2 = (Path(__file__).parent / "ledger_v2.sql").read_text("utf-8")
POSTGRES_3 = (Path(__file__).parent / "ledger_v3_postgres.sql").read_text("utf-8")


def an_old_store(section: StoreSection) -> str:
    """Make two shards and a catalogue of the first version of their kind; return which it is."""
    oldest = "2" if section.is_local else "3"
    for shard in range(2):
        if section.is_local:
            folder = Path(section.url.removeprefix("sqlite:///"))
            folder.mkdir(exist_ok=True)
            script = SQLITE_2.replace("('shard','0')", f"('shard','{shard}')")
            with closing(sqlite3.connect(folder / f"shard-{shard}.sqlite")) as connection:
                connection.executescript(script)
        else:
            script = POSTGRES_3.replace("('shard', '0')", f"('shard', '{shard}')")
            with closing(open_store(section)) as store:
                database = store.open(f"shard-{shard}", "write")
                with database.transaction() as transaction:
                    transaction.exec_driver_sql(f"SET LOCAL search_path TO {database.schema}")
                    transaction.exec_driver_sql(script)
    ItemStore.open(section).close()  # its tables have not changed since
    label(section, CATALOGUE, oldest)
    return oldest


def label(section: StoreSection, part: str, version: str) -> None:
    """Say that a part is of another version."""
    meta = catalogue_meta if part == CATALOGUE else ledger_meta
    with closing(open_store(section)) as store:
        with store.open(part, "write").transaction() as connection:
            row = meta.c.key == "schema_version"
            connection.execute(update(meta).where(row).values(value=version))


def differences(section: StoreSection, part: str, metadata: MetaData) -> Sequence[object]:
    """Return how the tables of a part differ from those that this Rove makes."""
    with closing(open_store(section)) as store:
        database = store.open(part, "write")
        with database.transaction() as connection:
            if database.schema is not None:
                connection.execute(text(f"SET LOCAL search_path TO {database.schema}"))
            found: Sequence[object] = compare_metadata(
                MigrationContext.configure(connection), metadata
            )
    return found


def test_an_old_store_is_upgraded_in_place_once(store: StoreSection) -> None:
    oldest = an_old_store(store)
    parts = ["shard-0", "shard-1", CATALOGUE]
    assert versions(store, 2) == [PartVersion(part=part, version=oldest) for part in parts]
    with pytest.raises(StoreUnavailable, match=re.escape("run `rove db upgrade CONFIG`")):
        Ledger.open(store, 0, 2)
    upgrade(store, 2)
    now = [PartVersion(part=part, version=str(SCHEMA_VERSION)) for part in parts]
    assert versions(store, 2) == now == upgrade(store, 2)
    for part in parts:
        metadata = catalogue_metadata if part == CATALOGUE else ledger_metadata
        assert differences(store, part, metadata) == []


def test_an_upgrade_loses_nothing(sqlite_store: StoreSection) -> None:
    an_old_store(sqlite_store)
    upgrade(sqlite_store, 2)
    with closing(Ledger.open(sqlite_store, 0, 2)) as ledger:
        assert ledger.history("user-0").item_ids == ["apple", "apple"]
        (decision,) = ledger.decisions(["e0"]).values()
        assert (decision.seed, len(decision.slots)) == (2**64 - 1, 2)
        assert ledger.statistics("r1").weight.tolist() == [1.5]
        assert len(ledger.interactions_of("e0")) == 1


def test_migrations_lead_to_the_schema_of_the_code_without_gaps() -> None:
    assert [one.VERSION for one in MIGRATIONS] == list(
        range(MIGRATIONS[0].VERSION, SCHEMA_VERSION + 1)
    )


def test_a_store_that_is_not_there_is_made(store: StoreSection) -> None:
    assert [one.version for one in upgrade(store, 2)] == [None] * 3
    assert [one.version for one in versions(store, 2)] == [str(SCHEMA_VERSION)] * 3


def test_nothing_is_upgraded_while_a_shard_is_written(store: StoreSection) -> None:
    impatient = store.model_copy(update={"busy_timeout_s": 0.1})
    oldest = an_old_store(impatient)
    with closing(open_store(impatient)) as served:
        database = served.open("shard-1", "write")
        guard = database.guard()
        if impatient.is_local:  # of version 2: there is only the lock
            assert guard.is_gone(0)
        else:
            lease = Lease(database, 5.0, 1.0)
            assert lease.epoch == 5
        with pytest.raises(StoreUnavailable, match=re.escape("writes this shard; stop it")):
            upgrade(impatient, 2)
    assert [one.version for one in versions(impatient, 2)] == [oldest] * 3


def config_file(folder: Path, store: StoreSection) -> str:
    path = folder / "rove.yaml"
    tree = {"name": "shop", "store": store.model_dump(), "serving": {"shards": 2}}
    path.write_text(yaml.safe_dump(tree), "utf-8")
    return str(path)


def test_the_command_checks_and_upgrades(
    store: StoreSection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_file(tmp_path, store)
    assert main(["db", "check", path]) == 0
    assert "shard-1: not there yet" in capsys.readouterr().out
    oldest = an_old_store(store)
    assert main(["db", "check", path]) == 1
    assert f"shard-0: schema version {oldest}, an upgrade is due" in capsys.readouterr().out
    assert main(["db", "upgrade", path]) == 0
    assert f"shard-0: {oldest} -> {SCHEMA_VERSION}" in capsys.readouterr().out
    assert main(["db", "check", path]) == 0
    assert f"catalogue: schema version {SCHEMA_VERSION}\n" in capsys.readouterr().out


def test_a_newer_store_is_left_alone(
    store: StoreSection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade(store, 2)
    label(store, "shard-1", "99")
    path = config_file(tmp_path, store)
    assert main(["db", "check", path]) == 1
    assert "version 99, of no version that this Rove can read" in capsys.readouterr().out
    assert main(["db", "upgrade", path]) == 2
    assert "use the Rove that wrote it" in capsys.readouterr().err
