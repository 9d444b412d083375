"""Deletes what is older than it may become, a bounded part at a time.

Interactions are looked through in the order of their numbers, decisions in order of their expiry:
both have indexes, so that a part takes milliseconds whatever the ledger's size.
"""

from __future__ import annotations

from sqlalchemy import BindParameter, Connection, bindparam, delete, func, select

from rove.ledger.database import parts_of
from rove.ledger.schema import decisions, interactions, trial_parts

NUM_LOOKED_AT = 5000
NUM_DECISIONS = 1000

_ids: BindParameter[list[str]] = bindparam("ids", expanding=True)
_last = select(func.max(interactions.c.sequence))
_old = (
    interactions.c.sequence > bindparam("after"),
    interactions.c.sequence <= bindparam("until"),
    interactions.c.timestamp < bindparam("before"),
)
_old_users = select(interactions.c.user_id).where(*_old).distinct()
_delete_old = delete(interactions).where(*_old)
_old_decisions = (
    select(decisions.c.event_id, decisions.c.user_id)
    .where(decisions.c.expires_at < bindparam("expired"), decisions.c.created_at < bindparam("old"))
    .order_by(decisions.c.expires_at)
    .limit(NUM_DECISIONS)
)
_delete_decisions = delete(decisions).where(decisions.c.event_id.in_(_ids))
_delete_parts = delete(trial_parts).where(trial_parts.c.event_id.in_(_ids))


def delete_interactions(
    connection: Connection, after: int, before_s: float
) -> tuple[set[str], int, int | None]:
    """Look at the next interactions after a number, and delete those from before a time.

    Return whose they were, how many, and the number looked at last; None: there are no more.
    """
    until = after + NUM_LOOKED_AT
    place = {"after": after, "until": until, "before": before_s}
    users = set(connection.execute(_old_users, place).scalars())
    number = connection.execute(_delete_old, place).rowcount if users else 0
    last = connection.execute(_last).scalar() or 0
    return users, number, until if until < last else None


def delete_decisions(connection: Connection, before_s: float, wait_s: float) -> set[str]:
    """Delete the next decisions that were made before a time; return whose they were."""
    place = {"expired": before_s + wait_s, "old": before_s}
    rows = connection.execute(_old_decisions, place).all()
    for part in parts_of([row.event_id for row in rows]):
        connection.execute(_delete_decisions, {"ids": part})
        connection.execute(_delete_parts, {"ids": part})
    return {row.user_id for row in rows}
