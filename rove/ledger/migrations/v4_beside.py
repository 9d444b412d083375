"""Version 4: decisions keep what policies that were asked beside would have chosen."""

from __future__ import annotations

from alembic.operations import Operations
from sqlalchemy import Column, Text

from rove.ledger.database import CATALOGUE

VERSION = 4


def upgrade(op: Operations, part: str) -> None:
    """Add the column; nobody was asked before."""
    if part != CATALOGUE:
        op.add_column("decisions", Column("beside", Text))
