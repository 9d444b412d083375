"""The stores: a test that asks for `store` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from rove.config import StoreSection
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that is started for the first test that needs one."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_store(postgres: PostgresServer) -> StoreSection:
    """An empty store on PostgreSQL: schemas of a name that no other test has."""
    return StoreSection(
        url=postgres.url,
        durability="process",
        busy_timeout_s=5.0,
        schema_prefix=f"t{uuid4().hex[:12]}",
    )


@pytest.fixture
def sqlite_store(tmp_path: Path) -> StoreSection:
    """An empty store on SQLite."""
    return StoreSection(
        url=f"sqlite:///{tmp_path / 'ledger'}", durability="process", busy_timeout_s=5.0
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> StoreSection:
    """An empty store, of each kind."""
    kind = "sqlite_store" if request.param == "sqlite" else "postgres_store"
    made: StoreSection = request.getfixturevalue(kind)
    return made
