"""The bodies of the HTTP API that both ends need: the server decodes and prints them, so does
`rove.client`.

What is ranked and what happens is in `rove.events`, what is stored in `rove.records`.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from rove.catalogue import Item
from rove.events import Id, Interaction, Outcome, SlotNumber


class EventBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Interactions to store and to learn from; each is judged by itself."""

    interactions: list[Interaction]


class EventOutcomes(Struct, frozen=True, kw_only=True):
    """What became of each interaction, in the order they were sent."""

    outcomes: list[Outcome]


class RewardRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An explicit reward for one slot of a decision."""

    value: float
    slot: SlotNumber | None = None
    """The slot; with neither `slot` nor `item_id`, the decision must have one slot only."""
    item_id: Id | None = None
    """The item; instead of its slot."""
    interaction_id: Id | None = None
    """Made from the decision and the slot when absent, so sending it again changes nothing;
    give one to add a further reward to the same slot."""
    timestamp: float | None = None
    user_id: Id | None = None
    """Whose decision it is; saves the search among the shards."""


class UserReference(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user a decision belongs to; saves the search among the shards."""

    user_id: Id | None = None


class ItemBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to put into the catalogue; each is judged by itself."""

    items: list[Item]


class ItemOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one item of a batch."""

    item_id: str
    status: Literal["stored", "rejected"]
    reason: str | None = None


class ItemOutcomes(Struct, frozen=True, kw_only=True):
    """What became of each item, in the order they were sent."""

    outcomes: list[ItemOutcome]


class Topology(Struct, frozen=True, kw_only=True):
    """Where users live: `shard_of(user_id, num_shards)` by `hash`, then the path of that shard."""

    num_shards: int
    hash: str
    epoch: int
    """Grows when the number of shards changes; ask again when a shard answers 421."""
    paths: list[str]
    """Prefix of shard i's own `/v1/...` routes, at position i."""


class ShardState(Struct, frozen=True, kw_only=True):
    """What one shard serves."""

    shard: int
    release: str
    num_items: int


class Readiness(Struct, frozen=True, kw_only=True):
    """Everything answers."""

    status: Literal["ready"]
    encoder: str
    """Name of the encoder in service."""
    shards: list[ShardState]
