"""Version 3: a shard's writer has a lease."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Double, Integer, String

from rove.ledger.database import CATALOGUE

VERSION = 3


def upgrade(op: Operations, part: str) -> None:
    """Add the lease, which nobody holds."""
    if part == CATALOGUE:
        return
    lease = op.create_table(
        "lease",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("epoch", BigInteger, nullable=False),
        Column("holder", String, nullable=False),
        Column("expires_at", Double, nullable=False),
    )
    op.bulk_insert(lease, [{"id": 1, "epoch": 0, "holder": "", "expires_at": 0.0}])
