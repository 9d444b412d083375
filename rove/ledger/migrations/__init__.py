"""How the tables of one schema version become those of the next.

A migration is a module with its `VERSION` and `upgrade(op, part)`, where `op` are Alembic's
operations on the part's tables (https://alembic.sqlalchemy.org/en/latest/ops.html), within one
transaction. `tests/rove/test_store_upgrade.py` compares what they lead to with `ledger.schema`.
"""

from __future__ import annotations

from rove.ledger.migrations import v3_lease, v4_beside, v5_rights

MIGRATIONS = (v3_lease, v4_beside, v5_rights)
"""By version, ascending and without gaps."""
