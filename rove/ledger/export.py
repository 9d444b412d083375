"""All that the ledger holds of one user, page by page."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, select

from rove.ledger.records import StoredInteraction
from rove.ledger.rows import stored_interaction
from rove.ledger.schema import decisions, interactions
from rove.ledger.transaction import read_decisions
from rove.records import Beside, UserDecision

NUM_ROWS = 500
"""Of each kind in one page: of 1,000 slots each, some ten megabytes."""
_decode_beside = msgspec.json.Decoder(list[Beside]).decode

_interactions = (
    select(interactions)
    .where(
        interactions.c.user_id == bindparam("user"), interactions.c.sequence > bindparam("after")
    )
    .order_by(interactions.c.sequence)
    .limit(NUM_ROWS)
)
_decisions = (
    select(decisions.c.event_id, decisions.c.beside, decisions.c.context_vector)
    .where(decisions.c.user_id == bindparam("user"), decisions.c.event_id > bindparam("after"))
    .order_by(decisions.c.event_id)
    .limit(NUM_ROWS)
)


def interactions_of(
    connection: Connection, user_id: str, after: int
) -> tuple[list[StoredInteraction], int]:
    """Return the user's next interactions in order of arrival, and the number of the last one."""
    rows = connection.execute(_interactions, {"user": user_id, "after": after}).all()
    return [stored_interaction(row) for row in rows], rows[-1].sequence if rows else after


def decisions_of(connection: Connection, user_id: str, after: str) -> Sequence[UserDecision]:
    """Return the user's next decisions, in order of their ids."""
    rows = connection.execute(_decisions, {"user": user_id, "after": after}).all()
    found = read_decisions(connection, [row.event_id for row in rows])
    return [
        UserDecision(
            decision=found[row.event_id],
            beside=[] if row.beside is None else _decode_beside(row.beside),
            context_vector=row.context_vector,
        )
        for row in rows
    ]
