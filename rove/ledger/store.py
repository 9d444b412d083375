"""Opens what `store.url` names: `sqlite:///DIR` or `postgresql+psycopg://...`."""

from __future__ import annotations

from rove.config import StoreSection
from rove.ledger import postgres, sqlite
from rove.ledger.database import Store


def open_store(section: StoreSection) -> Store:
    """Return the store; nothing is connected to before a part of it is opened."""
    if section.url.startswith(postgres.PREFIX):
        return postgres.PostgresStore(section)
    return sqlite.SqliteStore(section)
