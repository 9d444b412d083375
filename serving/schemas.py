"""The bodies of the HTTP API that only the server needs; the others are in `rove.messages`.

The same types decode the bodies and make the OpenAPI document, so the document is exact.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from rove.events import Id, Text
from rove.records import PolicyState

Tag = Annotated[str, Meta(max_length=256)]


class RawEventBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`EventBatch` with its rows not yet decoded, so that one bad row does not fail the others."""

    interactions: list[Raw]


class ItemFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An item without its id, which is in the path; some text is needed."""

    title: Text = ""
    description: Text = ""
    category: Tag = ""
    tags: list[Tag] = []
    item_id: Id | None = None
    """When given, the same as in the path."""


class RawItemBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`ItemBatch` with its rows not yet decoded."""

    items: list[Raw]


class PolicyFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy; JSON, or a policy file as it is (YAML)."""

    policy: dict[str, Any]
    """Settings as in the `policy:` section of the configuration: kind and its dials."""
    mode: Literal["online", "apprentice", "shadow", "logging_only"] = "online"
    """online: decides. apprentice: the baseline is shown, and what it would have chosen is kept.
    shadow: the same, beside whatever decides. logging_only: the request's baseline items are shown
    as they are, and learnt from."""
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Of the users: those it decides for (0 when absent), or of a shadow those it is asked for (1
    when absent). Left out for the default, which has the users that are left."""


class Policies(Struct, frozen=True, kw_only=True):
    """All policies, the default first."""

    policies: list[PolicyState]


class ReleaseState(Struct, frozen=True, kw_only=True):
    """One release."""

    id: str
    created_at: str
    encoder: str
    """Digest of the language model that its items were read with."""
    num_items: int
    in_service: bool
    metrics: dict[str, Any]


class Releases(Struct, frozen=True, kw_only=True):
    """All releases, the newest first."""

    releases: list[ReleaseState]


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
