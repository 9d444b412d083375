"""Batches whose rows are judged one by one."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw, Struct

from rove.errors import InvalidInput, PayloadTooLarge, RoveError
from rove.events import Interaction, Outcome
from serving.http import decoder
from serving.schemas import RawEventBatch


class _Ids(Struct):
    interaction_id: str = ""
    user_id: str = ""
    item_id: str = ""


_batch = decoder(RawEventBatch)
_interaction = decoder(Interaction)
_ids = decoder(_Ids)


def read_events(body: bytes, max_events: int) -> Sequence[Raw]:
    """Return the rows of an event batch, not yet decoded."""
    batch: RawEventBatch = _batch(body)
    check_size(len(batch.interactions), max_events, "interactions")
    return batch.interactions


def check_size(size: int, max_size: int, what: str) -> None:
    """Raise `PayloadTooLarge` when a batch has too many rows."""
    if size > max_size:
        raise PayloadTooLarge(
            f"{size} {what} in one request, the limit is {max_size}; send them in parts"
        )


def read_interaction(row: Raw) -> Interaction | Outcome:
    """Return the interaction in `row`, or the outcome that rejects it."""
    try:
        interaction: Interaction = _interaction(row)
        return interaction
    except RoveError as error:
        return Outcome(interaction_id=row_id(row), status="rejected", reason=error.detail)


def row_user(row: Raw) -> str:
    """Return the user a row is about, by which it finds its shard."""
    ids: _Ids = _ids(row)
    if not ids.user_id:
        raise InvalidInput("user_id is missing; every interaction needs one", field="user_id")
    return ids.user_id


def row_id(row: Raw, name: str = "interaction_id") -> str:
    """Return what a row that cannot be decoded says its id is; empty when that cannot be told."""
    try:
        return str(getattr(_ids(row), name))
    except RoveError:
        return ""
