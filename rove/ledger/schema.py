"""The tables of the ledger and of the catalogue.

One shard's ledger is a database of its own (`meta`, `decisions`, `interactions`,
`item_statistics`, `trial_sums`, `settlements`); the catalogue is another (`meta`, `items`), shared
by all processes.

- Nothing is updated in place but `decisions.activated_at`, sums and catalogue rows.
- Rows of a user leave only through erasure.
- A change of any table raises `SCHEMA_VERSION`; another version is refused, never guessed at.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 2

# SQLite numbers rows by itself only in a column declared exactly INTEGER.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")


def _meta(metadata: MetaData) -> Table:
    return Table(
        "meta",
        metadata,
        Column("key", String, primary_key=True),
        Column("value", String, nullable=False),
    )


ledger_metadata = MetaData()
ledger_meta = _meta(ledger_metadata)

decisions = Table(
    "decisions",
    ledger_metadata,
    Column("event_id", String, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("policy", String, nullable=False),
    Column("policy_version", String, nullable=False),
    Column("release", String, nullable=False),
    Column("seed", String, nullable=False),  # decimal: SQL integers end at 2^63
    Column("request_digest", String, nullable=False),
    Column("candidates_digest", String, nullable=False),
    Column("num_candidates", Integer, nullable=False),
    Column("slots", Text, nullable=False),  # JSON: list[Slot]
    Column("context", Text),  # JSON: Context
    Column("regulated", Text),  # JSON: Regulated
    Column("context_vector", LargeBinary),  # float16, little endian: of the context's text
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("activated_at", Double),
    Index("decisions_by_user", "user_id"),
    Index("decisions_by_expiry", "expires_at"),
)

interactions = Table(
    "interactions",
    ledger_metadata,
    Column("sequence", _RowNumber, primary_key=True, autoincrement=True),
    Column("interaction_id", String, nullable=False, unique=True),
    Column("user_id", String, nullable=False),
    Column("item_id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("value", Double),
    Column("duration_s", Double),
    Column("watch_ratio", Double),
    Column("text", Text),
    Column("timestamp", Double, nullable=False),
    Column("event_id", String),
    Column("slot", Integer),
    Column("session", String),  # what happened together: an invoice, a visit
    Column("reward", Double, nullable=False),
    Column("status", String, nullable=False),
    Column("received_at", Double, nullable=False),
    Index("interactions_by_user", "user_id"),
    # A number is never given twice, also after an erasure: releases remember the last they saw.
    sqlite_autoincrement=True,
)
# Most interactions answer no decision; they stay out of this index.
Index(
    "interactions_by_event",
    interactions.c.event_id,
    sqlite_where=interactions.c.event_id.is_not(None),
    postgresql_where=interactions.c.event_id.is_not(None),
)

item_statistics = Table(
    "item_statistics",
    ledger_metadata,
    Column("release", String, primary_key=True),
    Column("item_id", String, primary_key=True),
    Column("weight", Double, nullable=False),
    Column("total", Double, nullable=False),
    Column("as_of", Double, nullable=False),
    Column("revision", BigInteger, nullable=False),  # number of the write within the release
    Index("item_statistics_by_revision", "release", "revision"),
    sqlite_with_rowid=False,
)

trial_sums = Table(
    "trial_sums",
    ledger_metadata,
    Column("release", String, primary_key=True),
    Column("item_id", String, primary_key=True),
    Column("sums", LargeBinary, nullable=False),  # float64, little endian: `rove.shown.sums`
    Column("revision", BigInteger, nullable=False),  # number of the write within the release
    Index("trial_sums_by_revision", "release", "revision"),
    sqlite_with_rowid=False,
)

settlements = Table(
    "settlements",
    ledger_metadata,
    Column("release", String, primary_key=True),
    Column("until", Double, nullable=False),  # what expired by then counts in `trial_sums`
    sqlite_with_rowid=False,
)

catalogue_metadata = MetaData()
catalogue_meta = _meta(catalogue_metadata)

items = Table(
    "items",
    catalogue_metadata,
    Column("item_id", String, primary_key=True),
    Column("sequence", BigInteger, nullable=False),  # number of the batch that wrote the row last
    Column("item", Text),  # JSON: Item; NULL once deleted
    Column("vector", LargeBinary),  # float32, little endian, (D,)
    Column("encoder", String),
    Index("items_by_sequence", "sequence"),
)
