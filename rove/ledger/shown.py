"""What was shown and what came of it: decisions with their answers, as trials are made from.

Every function takes an open connection, so that it reads within a transaction or without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs
from sqlalchemy import (
    BindParameter,
    Connection,
    Select,
    bindparam,
    select,
)

from rove.events import Context, Regulated, Slot
from rove.ledger.database import parts_of
from rove.ledger.schema import decisions, interactions

NUM_ROWS = 4096
"""Decisions read at once."""

_decode_slots = msgspec.json.Decoder(list[Slot]).decode
_decode_regulated = msgspec.json.Decoder(Regulated).decode
_decode_context = msgspec.json.Decoder(Context).decode


class Answer(Struct, frozen=True, kw_only=True):
    """One interaction that answered a decision."""

    item_id: str
    type: str
    reward: float
    timestamp: float
    sequence: int
    """In order of arrival at the shard."""


class Shown(Struct, frozen=True, kw_only=True):
    """A decision, and its answers in order of time."""

    event_id: str
    user_id: str
    item_ids: list[str]
    """By slot."""
    context: Context | None
    context_vector: bytes | None
    """float16, little endian: the encoder's vector of the context's text."""
    created_at: float
    expires_at: float
    is_active: bool
    answers: list[Answer]
    regulated: Regulated | None = None


_ids: BindParameter[Sequence[str]] = bindparam("ids", expanding=True)
_shown = select(
    decisions.c.event_id,
    decisions.c.user_id,
    decisions.c.slots,
    decisions.c.context,
    decisions.c.context_vector,
    decisions.c.regulated,
    decisions.c.created_at,
    decisions.c.expires_at,
    decisions.c.activated_at,
)
_by_id = _shown.where(decisions.c.event_id.in_(_ids))
_by_user = _shown.where(decisions.c.user_id == bindparam("user_id")).order_by(
    decisions.c.created_at, decisions.c.event_id
)
_by_expiry = (
    _shown.where(
        decisions.c.expires_at > bindparam("after"),
        decisions.c.expires_at <= bindparam("until"),
    )
    .order_by(decisions.c.expires_at, decisions.c.event_id)
    .limit(NUM_ROWS)
)
_at_expiry = _shown.where(decisions.c.expires_at == bindparam("at")).order_by(decisions.c.event_id)
_answers = (
    select(
        interactions.c.event_id,
        interactions.c.item_id,
        interactions.c.type,
        interactions.c.reward,
        interactions.c.timestamp,
        interactions.c.sequence,
    )
    .where(interactions.c.event_id.in_(_ids), interactions.c.status != "unattributed")
    .order_by(interactions.c.timestamp, interactions.c.sequence)
)
_answered_since = (
    select(interactions.c.event_id)
    .where(
        interactions.c.sequence > bindparam("after"),
        interactions.c.event_id.is_not(None),
        interactions.c.status != "unattributed",
    )
    .distinct()
)


def shown_by_id(connection: Connection, event_ids: Sequence[str]) -> list[Shown]:
    """Return those of the decisions that are stored."""
    return [one for part in parts_of(event_ids) for one in _read(connection, _by_id, {"ids": part})]


def shown_to(connection: Connection, user_id: str) -> list[Shown]:
    """Return all decisions of a user, oldest first."""
    return _read(connection, _by_user, {"user_id": user_id})


def shown_until(connection: Connection, after_s: float, until_s: float) -> Iterator[list[Shown]]:
    """Yield what expired in (after, until], in parts and in order of expiry."""
    while found := _read(connection, _by_expiry, {"after": after_s, "until": until_s}):
        if len(found) == NUM_ROWS:
            # Of one time all or none, so that the next part can begin after a time.
            last = found[-1].expires_at
            found = [one for one in found if one.expires_at < last]
            found += _read(connection, _at_expiry, {"at": last})
        yield found
        after_s = found[-1].expires_at


def answered_since(connection: Connection, after: int) -> list[str]:
    """Return the decisions that were answered since a number of `scan.watermark`."""
    return list(connection.execute(_answered_since, {"after": after}).scalars())


def up_to(shown: Shown, last: int) -> Shown:
    """Return a decision with the answers that had arrived by a number of `scan.watermark`."""
    if all(answer.sequence <= last for answer in shown.answers):
        return shown
    answers = [answer for answer in shown.answers if answer.sequence <= last]
    return structs.replace(shown, answers=answers)


def _read(connection: Connection, query: Select[Any], parameters: dict[str, Any]) -> list[Shown]:
    rows = connection.execute(query, parameters).all()
    answers: dict[str, list[Answer]] = {}
    for part in parts_of([row.event_id for row in rows]):
        for row in connection.execute(_answers, {"ids": part}):
            answers.setdefault(row.event_id, []).append(
                Answer(
                    item_id=row.item_id,
                    type=row.type,
                    reward=row.reward,
                    timestamp=row.timestamp,
                    sequence=row.sequence,
                )
            )
    return [
        Shown(
            event_id=row.event_id,
            user_id=row.user_id,
            item_ids=[slot.item_id for slot in _decode_slots(row.slots)],
            context=None if row.context is None else _decode_context(row.context),
            context_vector=row.context_vector,
            created_at=row.created_at,
            expires_at=row.expires_at,
            is_active=row.activated_at is not None,
            answers=answers.get(row.event_id, []),
            regulated=None if row.regulated is None else _decode_regulated(row.regulated),
        )
        for row in rows
    ]
