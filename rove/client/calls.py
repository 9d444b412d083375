"""The calls of the HTTP API: what is sent, whose shard it is for, and what comes back.

A call can be repeated: what must not happen twice carries an id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec

from rove.catalogue import Item
from rove.events import Decision, Interaction, InteractionType, Outcome, RankRequest
from rove.messages import (
    EventBatch,
    EventOutcomes,
    ItemBatch,
    ItemOutcome,
    ItemOutcomes,
    Readiness,
    RewardRequest,
    Topology,
    UserReference,
)
from rove.records import DecisionRecord, Erasure, UserExport, UserProfile

T = TypeVar("T")
MAX_ROWS = 1000
"""Rows of one request; the server's default limit (`serving.max_events`)."""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One method of one path."""

    method: str
    path: str
    """Below the gateway's root, or below a shard's prefix."""
    read: Callable[[bytes], T]
    """From the body of a good answer."""
    body: bytes = b""
    users: tuple[str, ...] = ()
    """The users it is about; a shard's own path is possible if one shard owns them all."""
    event_id: str | None = None
    """The decision it is about, whose id may tell the shard."""
    removes: bool = False
    """Repeated after it was carried out, it is answered 404."""


def interaction(
    user_id: str,
    item_id: str,
    type: InteractionType | str,
    *,
    decision: Decision | None = None,
    slot: int | None = None,
    value: float | None = None,
    duration_s: float | None = None,
    watch_ratio: float | None = None,
    text: str | None = None,
    timestamp: float | None = None,
    interaction_id: str | None = None,
) -> Interaction:
    """Return what a user did, with a new id unless one is given.

    `decision`: the one that showed the item, for the interaction to count as an answer to it.
    """
    return Interaction(
        interaction_id=interaction_id or uuid4().hex,
        user_id=user_id,
        item_id=item_id,
        type=InteractionType(type),
        value=value,
        duration_s=duration_s,
        watch_ratio=watch_ratio,
        text=text,
        timestamp=timestamp,
        event_id=None if decision is None else decision.event_id,
        slot=slot,
    )


def rank(request: RankRequest) -> Call[Decision]:
    """Decide; `request` has its event id."""
    return Call(
        method="POST",
        path="/v1/rank",
        read=_reader(Decision),
        body=_encode(request),
        users=(request.user_id,),
        event_id=request.event_id,
    )


def events(rows: Sequence[Interaction]) -> Call[list[Outcome]]:
    """Store up to `MAX_ROWS` interactions."""
    read = _reader(EventOutcomes)
    return Call(
        method="POST",
        path="/v1/events",
        read=lambda body: read(body).outcomes,
        body=_encode(EventBatch(interactions=list(rows))),
        users=tuple(row.user_id for row in rows),
    )


def reward(decision: Decision | str, given: RewardRequest | float) -> Call[Outcome]:
    """Reward a slot."""
    if not isinstance(given, RewardRequest):
        given = RewardRequest(value=given)
    if given.user_id is None and isinstance(decision, Decision):
        given = msgspec.structs.replace(given, user_id=decision.user_id)
    return _of_decision("POST", decision, "/reward", _reader(Outcome), given, given.user_id)


def activate(decision: Decision | str, user_id: str | None) -> Call[Decision]:
    """Activate a deferred decision."""
    user_id = _user_of(decision, user_id)
    body = UserReference(user_id=user_id)
    return _of_decision("POST", decision, "/activate", _reader(Decision), body, user_id)


def decision(decision: Decision | str, user_id: str | None) -> Call[DecisionRecord]:
    """Read a decision's record."""
    user_id = _user_of(decision, user_id)
    query = "" if user_id is None else f"?user_id={quote(user_id, safe='')}"
    return _of_decision("GET", decision, query, _reader(DecisionRecord), None, user_id)


def put_items(items: Sequence[Item]) -> Call[list[ItemOutcome]]:
    """Add or replace up to `MAX_ROWS` items."""
    read = _reader(ItemOutcomes)
    return Call(
        method="POST",
        path="/v1/items:batch",
        read=lambda body: read(body).outcomes,
        body=_encode(ItemBatch(items=list(items))),
    )


def item(item_id: str) -> Call[Item]:
    """Read an item."""
    return Call(method="GET", path=_path("items", item_id), read=_reader(Item))


def delete_item(item_id: str) -> Call[None]:
    """Take an item out of the catalogue."""
    return Call(method="DELETE", path=_path("items", item_id), read=lambda body: None, removes=True)


def user(user_id: str) -> Call[UserProfile]:
    """Read a user's profile."""
    return _of_user("GET", user_id, "", _reader(UserProfile))


def export_user(user_id: str, after: str | None) -> Call[UserExport]:
    """Read a page of what is held about a user."""
    rest = "/export" if after is None else f"/export?after={quote(after, safe='')}"
    return _of_user("GET", user_id, rest, _reader(UserExport))


def delete_user(user_id: str) -> Call[Erasure]:
    """Erase a user."""
    return _of_user("DELETE", user_id, "", _reader(Erasure))


def erasure(erasure_id: str, user_id: str | None) -> Call[Erasure]:
    """Read the receipt of an erasure."""
    query = "" if user_id is None else f"?user_id={quote(user_id, safe='')}"
    return Call(
        method="GET",
        path=_path("erasures", erasure_id) + query,
        read=_reader(Erasure),
        users=() if user_id is None else (user_id,),
        event_id=erasure_id,
    )


def topology() -> Call[Topology]:
    """Read which shard owns which user."""
    return Call(method="GET", path="/v1/topology", read=_reader(Topology))


def ready() -> Call[Readiness]:
    """Ask whether everything answers."""
    return Call(method="GET", path="/readyz", read=_reader(Readiness))


def _of_decision(
    method: str,
    decision: Decision | str,
    rest: str,
    read: Callable[[bytes], T],
    body: Any,
    user_id: str | None,
) -> Call[T]:
    event_id = decision if isinstance(decision, str) else decision.event_id
    return Call(
        method=method,
        path=_path("events", event_id) + rest,
        read=read,
        body=b"" if body is None else _encode(body),
        users=() if user_id is None else (user_id,),
        event_id=event_id,
    )


def _of_user(method: str, user_id: str, rest: str, read: Callable[[bytes], T]) -> Call[T]:
    return Call(method=method, path=_path("users", user_id) + rest, read=read, users=(user_id,))


def _user_of(decision: Decision | str, user_id: str | None) -> str | None:
    return decision.user_id if isinstance(decision, Decision) else user_id


def _path(kind: str, one: str) -> str:
    return f"/v1/{kind}/{quote(one, safe='')}"


def _reader(kind: type[T]) -> Callable[[bytes], T]:
    return msgspec.json.Decoder(kind).decode
