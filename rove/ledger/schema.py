"""The tables of the ledger and of the catalogue.

One shard's ledger is a set of tables of its own (`meta`, `lease`, `decisions`, `interactions`,
`item_statistics`, `trial_sums`, `trial_parts`, `settlements`, `erasures`); the catalogue is another
(`meta`, `items`), shared by all processes. A set is a file of SQLite or a schema of PostgreSQL, so
no table names its shard.

- Nothing is updated in place but `decisions.activated_at`, the lease, sums and catalogue rows.
- Rows of a user leave only through erasure and retention.
- A change of any table raises `SCHEMA_VERSION` and brings a migration (`rove.ledger.migrations`);
  another version is refused, never guessed at.
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

SCHEMA_VERSION = 5

# SQLite numbers rows by itself only in a column declared exactly INTEGER.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")
# Compared byte by byte, as SQLite does, whatever language the database is set to.
_Name = String().with_variant(String(collation="C"), "postgresql")


def _meta(metadata: MetaData) -> Table:
    return Table(
        "meta",
        metadata,
        Column("key", _Name, primary_key=True),
        Column("value", _Name, nullable=False),
    )


ledger_metadata = MetaData()
ledger_meta = _meta(ledger_metadata)

lease = Table(
    "lease",  # one row: who may write (`rove.ledger.lease`)
    ledger_metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),  # grows with every change of the holder
    Column("holder", String, nullable=False),  # for people
    Column("expires_at", Double, nullable=False),  # by the store's clock, unix seconds
)

decisions = Table(
    "decisions",
    ledger_metadata,
    Column("event_id", _Name, primary_key=True),
    Column("user_id", _Name, nullable=False),
    Column("policy", _Name, nullable=False),
    Column("policy_version", _Name, nullable=False),
    Column("release", _Name, nullable=False),
    Column("seed", _Name, nullable=False),  # decimal: SQL integers end at 2^63
    Column("request_digest", _Name, nullable=False),
    Column("candidates_digest", _Name, nullable=False),
    Column("num_candidates", Integer, nullable=False),
    Column("slots", Text, nullable=False),  # JSON: list[Slot]
    Column("context", Text),  # JSON: Context
    Column("regulated", Text),  # JSON: Regulated
    Column("beside", Text),  # JSON: list[Beside]
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
    Column("interaction_id", _Name, nullable=False, unique=True),
    Column("user_id", _Name, nullable=False),
    Column("item_id", _Name, nullable=False),
    Column("type", _Name, nullable=False),
    Column("value", Double),
    Column("duration_s", Double),
    Column("watch_ratio", Double),
    Column("text", Text),
    Column("timestamp", Double, nullable=False),
    Column("event_id", _Name),
    Column("slot", Integer),
    Column("session", _Name),  # what happened together: an invoice, a visit
    Column("reward", Double, nullable=False),
    Column("status", _Name, nullable=False),
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
    Column("release", _Name, primary_key=True),
    Column("item_id", _Name, primary_key=True),
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
    Column("release", _Name, primary_key=True),
    Column("item_id", _Name, primary_key=True),
    Column("sums", LargeBinary, nullable=False),  # float64, little endian: `rove.shown.sums`
    Column("revision", BigInteger, nullable=False),  # number of the write within the release
    Index("trial_sums_by_revision", "release", "revision"),
    sqlite_with_rowid=False,
)

trial_parts = Table(
    "trial_parts",  # what each trial added to `trial_sums` of the release in service
    ledger_metadata,
    Column("sequence", _RowNumber, primary_key=True, autoincrement=True),
    Column("event_id", _Name, nullable=False),
    Column("user_id", _Name, nullable=False),
    Column("item_id", _Name, nullable=False),
    Column("part", LargeBinary, nullable=False),  # float64, little endian: `rove.shown.posterior`
    Index("trial_parts_by_event", "event_id"),
    Index("trial_parts_by_user", "user_id"),
)

settlements = Table(
    "settlements",
    ledger_metadata,
    Column("release", _Name, primary_key=True),
    Column("until", Double, nullable=False),  # what expired by then counts in `trial_sums`
    sqlite_with_rowid=False,
)

erasures = Table(
    "erasures",  # receipts; neither column tells whose it was without the receipt's id
    ledger_metadata,
    Column("receipt", _Name, primary_key=True),  # SHA-256 of the receipt's id
    Column("person", _Name, nullable=False),  # HMAC-SHA256 of the user's id; key: the receipt's id
    Column("erased_at", Double, nullable=False),
    Column("release", _Name, nullable=False),  # in service then
    Column("num_decisions", Integer, nullable=False),
    Column("num_interactions", Integer, nullable=False),
    Column("num_trials", Integer, nullable=False),
    sqlite_with_rowid=False,
)

catalogue_metadata = MetaData()
catalogue_meta = _meta(catalogue_metadata)

items = Table(
    "items",
    catalogue_metadata,
    Column("item_id", _Name, primary_key=True),
    Column("sequence", BigInteger, nullable=False),  # number of the batch that wrote the row last
    Column("item", Text),  # JSON: Item; NULL once deleted
    Column("vector", LargeBinary),  # float32, little endian, (D,)
    Column("encoder", _Name),
    Index("items_by_sequence", "sequence"),
)
