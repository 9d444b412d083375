"""The routes of the HTTP API as data: what each takes, answers and can go wrong with.

The gateway and the shards add their handlers to routers by these entries, and `serving.openapi`
makes the document of them, so the three cannot differ.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from rove.catalogue import Item
from rove.events import Decision, Outcome, RankRequest
from rove.messages import (
    EventBatch,
    EventOutcomes,
    ItemBatch,
    ItemOutcomes,
    Readiness,
    RewardRequest,
    ShardState,
    Topology,
    UserReference,
)
from rove.records import DecisionRecord, Erasure, PolicyState, UserExport, UserProfile
from serving.access import Access
from serving.schemas import (
    Embeddings,
    EmbeddingsRequest,
    Health,
    ItemFields,
    Policies,
    PolicyFields,
    Releases,
    ReleaseState,
)

USER_QUERY = "user_id"
"""Query parameter of the event routes: whose decision it is; saves the search among the shards."""

AFTER_QUERY = "after"
"""Query parameter of an export: the `next` of the page before."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """One method of one path."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    body: Any = None
    body_required: bool = True
    answer: Any = None
    """None: no body."""
    status: int = 200
    problems: tuple[int, ...] = ()
    query: tuple[str, ...] = ()
    on_shard: bool = False
    """Also served by each shard at its own prefix."""
    access: Access = "admin"
    """Who may call it, once there are keys. read: what changes nothing; write: what a shop's
    server does all day; admin: what cannot be undone or is about the service itself."""


RANK = Endpoint(
    name="rank",
    method="POST",
    path="/v1/rank",
    access="write",
    tag="decisions",
    summary="Choose k items for a user. The same id with the same body gives the same answer.",
    body=RankRequest,
    answer=Decision,
    status=201,
    problems=(400, 404, 409, 413, 421, 429, 503),
    on_shard=True,
)
EVENTS = Endpoint(
    name="events",
    method="POST",
    path="/v1/events",
    access="write",
    tag="events",
    summary="Store what users did and learn from it. One bad row does not fail the others; "
    "when a shard cannot answer the whole call fails, and sending it again is safe.",
    body=EventBatch,
    answer=EventOutcomes,
    problems=(400, 413, 421, 429, 503),
    on_shard=True,
)
REWARD = Endpoint(
    name="reward",
    method="POST",
    path="/v1/events/{event_id}/reward",
    access="write",
    tag="events",
    summary="Give one slot of a decision an explicit reward.",
    body=RewardRequest,
    answer=Outcome,
    query=(USER_QUERY,),
    problems=(400, 404, 413, 421, 429, 503),
    on_shard=True,
)
ACTIVATE = Endpoint(
    name="activate",
    method="POST",
    path="/v1/events/{event_id}/activate",
    access="write",
    tag="decisions",
    summary="Say that a deferred decision was shown.",
    body=UserReference,
    body_required=False,
    answer=Decision,
    query=(USER_QUERY,),
    problems=(400, 404, 409, 413, 421, 429, 503),
    on_shard=True,
)
DECISION = Endpoint(
    name="decision",
    method="GET",
    path="/v1/events/{event_id}",
    access="read",
    tag="decisions",
    summary="The record of a decision, and what it earned.",
    answer=DecisionRecord,
    query=(USER_QUERY,),
    problems=(400, 404, 421, 429, 503),
    on_shard=True,
)
GET_ITEM = Endpoint(
    name="get_item",
    method="GET",
    path="/v1/items/{item_id}",
    access="read",
    tag="catalogue",
    summary="One item of the catalogue.",
    answer=Item,
    problems=(400, 404, 429, 503),
    on_shard=True,
)
PUT_ITEM = Endpoint(
    name="put_item",
    method="PUT",
    path="/v1/items/{item_id}",
    access="write",
    tag="catalogue",
    summary="Add or replace an item; it can be recommended as soon as this is answered.",
    body=ItemFields,
    answer=Item,
    problems=(400, 413, 429, 503),
)
DELETE_ITEM = Endpoint(
    name="delete_item",
    method="DELETE",
    path="/v1/items/{item_id}",
    access="write",
    tag="catalogue",
    summary="Take an item out of the catalogue.",
    status=204,
    problems=(400, 404, 429, 503),
)
PUT_ITEMS = Endpoint(
    name="put_items",
    method="POST",
    path="/v1/items:batch",
    access="write",
    tag="catalogue",
    summary="Add or replace many items. One bad row does not fail the others.",
    body=ItemBatch,
    answer=ItemOutcomes,
    problems=(400, 413, 429, 503),
)
GET_USER = Endpoint(
    name="get_user",
    method="GET",
    path="/v1/users/{user_id}",
    access="read",
    tag="users",
    summary="What is known and was learnt about a user.",
    answer=UserProfile,
    problems=(400, 404, 421, 429, 503),
    on_shard=True,
)
EXPORT_USER = Endpoint(
    name="export_user",
    method="GET",
    path="/v1/users/{user_id}/export",
    tag="users",
    summary="All that is held about a user, in pages: ask again with `after` = `next` until that "
    "is null.",
    answer=UserExport,
    query=(AFTER_QUERY,),
    problems=(400, 404, 421, 429, 503),
    on_shard=True,
)
DELETE_USER = Endpoint(
    name="delete_user",
    method="DELETE",
    path="/v1/users/{user_id}",
    access="admin",
    tag="users",
    summary="Erase a user: every decision, every interaction, and their share of what was counted "
    "since the release; answers with a receipt.",
    answer=Erasure,
    problems=(400, 404, 421, 429, 503),
    on_shard=True,
)
ERASURE = Endpoint(
    name="erasure",
    method="GET",
    path="/v1/erasures/{erasure_id}",
    access="read",
    tag="users",
    summary="The receipt of an erasure. It is kept without the user's id; with `user_id`, 404 "
    "unless it is of that user.",
    answer=Erasure,
    query=(USER_QUERY,),
    problems=(400, 404, 421, 429, 503),
    on_shard=True,
)
EMBEDDINGS = Endpoint(
    name="embeddings",
    method="POST",
    path="/v1/embeddings",
    access="read",
    tag="encoder",
    summary="Encode texts, in the format of the OpenAI embeddings call.",
    body=EmbeddingsRequest,
    answer=Embeddings,
    problems=(400, 413, 429, 503),
)
TOPOLOGY = Endpoint(
    name="topology",
    method="GET",
    path="/v1/topology",
    access="read",
    tag="service",
    summary="Which shard owns which user, for clients that call the shards directly.",
    answer=Topology,
    on_shard=True,
)
GET_POLICIES = Endpoint(
    name="get_policies",
    method="GET",
    path="/v1/policies",
    access="read",
    tag="policies",
    summary="All policies: settings, mode, share, and how those that watch agree.",
    answer=Policies,
    problems=(429, 503),
)
GET_POLICY = Endpoint(
    name="get_policy",
    method="GET",
    path="/v1/policies/{name}",
    access="read",
    tag="policies",
    summary="One policy.",
    answer=PolicyState,
    problems=(404, 429, 503),
)
PUT_POLICY = Endpoint(
    name="put_policy",
    method="PUT",
    path="/v1/policies/{name}",
    tag="policies",
    summary="Store a new version of a policy, with its mode and share; every shard follows.",
    body=PolicyFields,
    answer=PolicyState,
    problems=(400, 409, 413, 429, 503),
)
PROMOTE_POLICY = Endpoint(
    name="promote_policy",
    method="POST",
    path="/v1/policies/{name}:promote",
    tag="policies",
    summary="Make a policy the default: online, with the users that the others' shares leave.",
    answer=PolicyState,
    problems=(404, 409, 429, 503),
)
ROLL_BACK_POLICY = Endpoint(
    name="roll_back_policy",
    method="POST",
    path="/v1/policies/{name}:rollback",
    tag="policies",
    summary="Take back the latest change of a policy, put or promotion.",
    answer=PolicyState,
    problems=(404, 409, 429, 503),
)
GET_RELEASES = Endpoint(
    name="get_releases",
    method="GET",
    path="/v1/releases",
    access="read",
    tag="releases",
    summary="All releases, and which is in service.",
    answer=Releases,
    problems=(404, 429, 503),
)
PROMOTE_RELEASE = Endpoint(
    name="promote_release",
    method="POST",
    path="/v1/releases/{release_id}:promote",
    tag="releases",
    summary="Put a release into service; every shard follows, no request fails.",
    answer=ReleaseState,
    problems=(404, 409, 429, 503),
)
ROLL_BACK_RELEASE = Endpoint(
    name="roll_back_release",
    method="POST",
    path="/v1/releases/{release_id}:rollback",
    tag="releases",
    summary="Take the release in service out of it again; answers with the one before it.",
    answer=ReleaseState,
    problems=(404, 409, 429, 503),
)
HEALTH = Endpoint(
    name="health",
    method="GET",
    path="/healthz",
    access="open",
    tag="service",
    summary="The process is alive.",
    answer=Health,
    on_shard=True,
)
READY = Endpoint(
    name="ready",
    method="GET",
    path="/readyz",
    access="read",
    tag="service",
    summary="Every shard and the encoder answer.",
    answer=Readiness,
    problems=(503,),
)
SHARD_READY = Endpoint(
    name="shard_ready",
    method="GET",
    path="/readyz",
    access="read",
    tag="service",
    summary="The shard answers.",
    answer=ShardState,
    problems=(503,),
)
SHARD_POLICIES = Endpoint(
    name="shard_policies",
    method="GET",
    path="/v1/policies",
    access="read",
    tag="policies",
    summary="All policies, and how those that watch agree with this shard's decisions.",
    answer=Policies,
    problems=(429, 503),
)

ENDPOINTS = (
    RANK, EVENTS, REWARD, ACTIVATE, DECISION,
    GET_ITEM, PUT_ITEM, DELETE_ITEM, PUT_ITEMS,
    GET_POLICIES, GET_POLICY, PUT_POLICY, PROMOTE_POLICY, ROLL_BACK_POLICY,
    GET_RELEASES, PROMOTE_RELEASE, ROLL_BACK_RELEASE,
    GET_USER, EXPORT_USER, DELETE_USER, ERASURE, EMBEDDINGS, TOPOLOGY, HEALTH, READY,
)  # fmt: skip
"""What the gateway serves."""

SHARD_ENDPOINTS = (
    *(endpoint for endpoint in ENDPOINTS if endpoint.on_shard),
    SHARD_READY,
    SHARD_POLICIES,
)
"""What a shard serves, below its own prefix."""
