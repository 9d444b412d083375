"""Rows of the ledger's tables as records."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from rove.events import Interaction, InteractionType
from rove.records import StoredInteraction


def stored_interaction(row: Row[Any]) -> StoredInteraction:
    """Return the record of a row of `interactions`."""
    fields: dict[str, Any] = {name: getattr(row, name) for name in Interaction.__struct_fields__}
    fields["type"] = InteractionType(row.type)
    return StoredInteraction(
        interaction=Interaction(**fields),
        reward=row.reward,
        status=row.status,
        received_at=row.received_at,
        session=row.session,
    )
