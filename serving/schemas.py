"""The bodies of the HTTP API beyond the records of `rove.events`, `rove.catalogue` and the engine.

The same types decode the bodies and make the OpenAPI document, so the document is exact.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from rove.catalogue import Item
from rove.events import Id, Interaction, Outcome, Text

Tag = Annotated[str, Meta(max_length=256)]


class EventBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Interactions to store and to learn from; each is judged by itself."""

    interactions: list[Interaction]


class RawEventBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`EventBatch` with its rows not yet decoded, so that one bad row does not fail the others."""

    interactions: list[Raw]


class EventOutcomes(Struct, frozen=True, kw_only=True):
    """What became of each interaction, in the order they were sent."""

    outcomes: list[Outcome]


class RewardRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An explicit reward for one slot of a decision."""

    value: float
    slot: Annotated[int, Meta(ge=0)] | None = None
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


class ItemFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item without its id, which is in the path; some text is needed."""

    title: Text = ""
    description: Text = ""
    category: Tag = ""
    tags: list[Tag] = []
    item_id: Id | None = None
    """When given, the same as in the path."""


class ItemBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items to put into the catalogue; each is judged by itself."""

    items: list[Item]


class RawItemBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`ItemBatch` with its rows not yet decoded."""

    items: list[Raw]


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


class Health(Struct, frozen=True, kw_only=True):
    """The process is alive."""

    status: Literal["ok"]


class EmbeddingsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts to encode, in the body format of the OpenAI embeddings call."""

    input: Text | list[Text]
    model: str = ""
    """Accepted for compatibility; the release's encoder is what answers."""
    encoding_format: Literal["float", "base64"] = "float"
    """base64: little-endian float32."""
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """When given, the encoder's own number of dimensions."""
    user: str | None = None


class Embedding(Struct, frozen=True, kw_only=True):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens read, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, frozen=True, kw_only=True):
    """Vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Problem(Struct, frozen=True, kw_only=True):
    """RFC 9457: what is wrong, the value got, what to do. Some problems have further members."""

    type: str
    title: str
    status: int
    detail: str
