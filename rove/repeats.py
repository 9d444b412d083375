"""Requests that come again: what identifies one, and what it is answered.

The same id with the same content gets the same decision; with another content it is a conflict.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from msgspec import structs

from rove.errors import Conflict, InvalidInput, RoveError, shown
from rove.events import Decision, RankRequest

_encode = msgspec.json.Encoder(order="deterministic").encode


def digest_of(request: RankRequest) -> str:
    """Return a hash of a request's content, its id left out."""
    try:
        content = _encode(structs.replace(request, event_id=None))
    except UnicodeEncodeError:
        raise InvalidInput("a text of the request is not valid Unicode: a lone surrogate") from None
    return blake2b(content, digest_size=16).hexdigest()


def seed_of(event_id: str) -> int:
    """Return the seed of a decision: 48 bits, so that every JSON reader keeps them."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=6).digest(), "big")


def answer_again(decision: Decision | None, digest: str, event_id: str) -> Decision | RoveError:
    """Return what a request gets whose id was used before, for `decision`."""
    if decision is None:
        return InvalidInput(f"event_id {shown(event_id)} was used twice, first wrongly")
    if decision.request_digest != digest:
        return Conflict(
            f"event_id {shown(event_id)} was used before for another request; use a new id",
            event_id=event_id,
        )
    return decision
