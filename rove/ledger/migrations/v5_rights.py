"""Version 5: what each trial added, so that it can be taken back, and receipts of erasures."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Double, Integer, LargeBinary, String

from rove.ledger.database import CATALOGUE

VERSION = 5
_RowNumber = BigInteger().with_variant(Integer, "sqlite")
_Name = String().with_variant(String(collation="C"), "postgresql")


def upgrade(op: Operations, part: str) -> None:
    """Make the tables; sums since the release are counted anew, with their parts."""
    if part == CATALOGUE:
        return
    op.create_table(
        "trial_parts",
        Column("sequence", _RowNumber, primary_key=True, autoincrement=True),
        Column("event_id", _Name, nullable=False),
        Column("user_id", _Name, nullable=False),
        Column("item_id", _Name, nullable=False),
        Column("part", LargeBinary, nullable=False),
    )
    op.create_index("trial_parts_by_event", "trial_parts", ["event_id"])
    op.create_index("trial_parts_by_user", "trial_parts", ["user_id"])
    op.create_table(
        "erasures",
        Column("receipt", _Name, primary_key=True),
        Column("person", _Name, nullable=False),
        Column("erased_at", Double, nullable=False),
        Column("release", _Name, nullable=False),
        Column("num_decisions", Integer, nullable=False),
        Column("num_interactions", Integer, nullable=False),
        Column("num_trials", Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute("DELETE FROM meta WHERE key = 'counted'")
