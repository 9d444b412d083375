"""With which probability each decision in the ledger showed each of its items."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from sqlalchemy import select

from rove.config import StoreSection
from rove.events import Slot
from rove.ledger.database import Database
from rove.ledger.scan import all_shards
from rove.ledger.schema import decisions

_NUM_ROWS = 4096  # decisions of one read
_slots_of = msgspec.json.Decoder(list[Slot]).decode


def all_propensities(store: StoreSection) -> dict[tuple[str, str], float]:
    """Return (event id, item id) -> propensity, of all shards."""
    found: dict[tuple[str, str], float] = {}
    for _, database in all_shards(store):
        for event_id, slots in _decisions(database):
            found |= {(event_id, slot.item_id): slot.propensity for slot in slots}
    return found


def _decisions(database: Database) -> Iterator[tuple[str, list[Slot]]]:
    after = ""
    while True:
        query = (
            select(decisions.c.event_id, decisions.c.slots)
            .where(decisions.c.event_id > after)
            .order_by(decisions.c.event_id)
            .limit(_NUM_ROWS)
        )
        with database.reading() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return
        after = rows[-1].event_id
        for event_id, slots in rows:
            yield event_id, _slots_of(slots)
