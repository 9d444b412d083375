"""The gateway: the one address of plain clients. Stateless; any number of replicas.

It finds the shard of each request and forwards the body as it came, so it is decoded fully only
once, at the shard. Requests that wait for one shard travel together (`serving.channels`). It
gives each decision its id before forwarding, so that a call that is repeated decides once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import aiohttp
import msgspec
from msgspec import Raw, Struct
from ray import serve

from rove.config import Config, ServingSection
from rove.errors import RoveError
from rove.event_ids import new_event_id, shard_hint
from rove.events import Outcome, RankRequest
from rove.messages import EventOutcomes, Readiness, ShardState
from rove.sharding import shard_of
from serving import api
from serving.access import Guard
from serving.actions import Actions
from serving.catalogue import CatalogueApi, CatalogueWriter
from serving.channels import Channel
from serving.docs import add_docs
from serving.embeddings import EmbeddingsApi
from serving.encoder import EncoderClient
from serving.handles import RemoteApp
from serving.http import MSGPACK, App, Request, Response, Router, decoder
from serving.personalizer import PersonalizerApi
from serving.policies import PolicyApi
from serving.problems import Unavailable
from serving.releases import ReleaseApi
from serving.routing import (
    MANY_PATH,
    SHARD_DEPLOYMENT,
    shard_app,
    shard_path,
    topology,
)
from serving.rows import read_events, row_id, row_user
from serving.schemas import Health

APP_NAME = "gateway"
DEPLOYMENT_NAME = "Gateway"
_HTTP_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
_HEADERS = {"content-type": MSGPACK, "x-request-disconnect-disabled": "?1"}
_TIMEOUT_S = 15.0  # a killed shard is back within a few seconds


class _User(Struct):
    """As much of a body as finds its shard."""

    user_id: str


class _MaybeUser(Struct):
    user_id: str | None = None


logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_user_body = msgspec.json.Decoder(_User).decode
_maybe_user_body = msgspec.json.Decoder(_MaybeUser).decode
_rank_body = decoder(RankRequest)
_outcomes_body = msgspec.json.Decoder(EventOutcomes).decode
_state_body = msgspec.json.Decoder(ShardState).decode


class GatewayApi:
    """The routes that lead to shards."""

    def __init__(
        self, channels: Sequence[Channel], encoder: EncoderClient, *, max_events: int
    ) -> None:
        self._channels = channels
        self._num_shards = len(channels)
        self._encoder = encoder
        self._max_events = max_events

    async def rank(self, request: Request) -> Response:
        """Forward to the user's shard, with an id for the decision."""
        try:
            user_id = _user_body(request.body).user_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _rank_body(request.body)  # says the same of this body as the shard would
            raise
        shard = shard_of(user_id, self._num_shards)
        request.event_id = new_event_id(shard)
        return await self._channels[shard].send(request)

    async def events(self, request: Request) -> Response:
        """Split the rows by shard and merge what became of them, in order."""
        rows = read_events(request.body, self._max_events)
        outcomes: dict[int, Outcome] = {}
        parts: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            try:
                shard = shard_of(row_user(row), self._num_shards)
            except RoveError as error:
                outcomes[index] = Outcome(
                    interaction_id=row_id(row), status="rejected", reason=error.detail
                )
            else:
                parts.setdefault(shard, []).append(index)
        if len(parts) == 1 and not outcomes:
            return await self._channels[next(iter(parts))].send(request)
        answers = await asyncio.gather(
            *(
                self._channels[shard].send(_part(request, [rows[index] for index in indices]))
                for shard, indices in parts.items()
            )
        )
        for indices, answer in zip(parts.values(), answers, strict=True):
            if answer.status != 200:
                return answer
            part = _outcomes_body(answer.body).outcomes
            outcomes.update(zip(indices, part, strict=True))
        ordered = [outcomes[index] for index in range(len(rows))]
        return Response(200, _encode(EventOutcomes(outcomes=ordered)))

    async def reward(self, request: Request) -> Response:
        """Forward to the shard of the decision."""
        return await self._by_decision(request)

    async def activate(self, request: Request) -> Response:
        """Forward to the shard of the decision."""
        return await self._by_decision(request)

    async def decision(self, request: Request) -> Response:
        """Forward to the shard of the decision."""
        return await self._by_decision(request)

    async def get_item(self, request: Request) -> Response:
        """Ask one shard: each knows the whole catalogue."""
        return await self._channels[shard_of(request.path, self._num_shards)].send(request)

    async def get_user(self, request: Request) -> Response:
        """Forward to the user's shard."""
        return await self._by_user(request, request.params[0])

    async def export_user(self, request: Request) -> Response:
        """Forward to the user's shard."""
        return await self._by_user(request, request.params[0])

    async def delete_user(self, request: Request) -> Response:
        """Forward to the user's shard."""
        return await self._by_user(request, request.params[0])

    async def erasure(self, request: Request) -> Response:
        """Forward to the shard that the receipt's id names; all are asked if it is not there."""
        return await self._by_decision(request)

    async def topology(self, request: Request) -> Response:
        """Return which shard owns which user."""
        return Response(200, _encode(topology(self._num_shards)))

    async def health(self, request: Request) -> Response:
        """Answer while the process is alive."""
        return Response(200, _encode(Health(status="ok")))

    async def ready(self, request: Request) -> Response:
        """Answer when every shard and the encoder do."""
        encoder = await self._encoder.name()
        question = [channel.send(Request("GET", "/readyz")) for channel in self._channels]
        answers = await asyncio.gather(*question)
        for shard, answer in enumerate(answers):
            if answer.status != 200:
                raise Unavailable(f"shard {shard} is not ready: {answer.body.decode()}")
        shards = [_state_body(answer.body) for answer in answers]
        return Response(200, _encode(Readiness(status="ready", encoder=encoder, shards=shards)))

    async def _by_user(self, request: Request, user_id: str) -> Response:
        return await self._channels[shard_of(user_id, self._num_shards)].send(request)

    async def _by_decision(self, request: Request) -> Response:
        """Ask the shard of the user named, else the shard the id hints at, else every shard."""
        user_id = request.argument(api.USER_QUERY)
        if user_id is None and request.body:
            try:
                user_id = _maybe_user_body(request.body).user_id
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                user_id = None  # the shard says what is wrong with the body
        if user_id is not None:
            return await self._by_user(request, user_id)
        hint = shard_hint(request.params[0], self._num_shards)
        answer = Response(404)
        for shard in _starting_with(hint, self._num_shards):
            answer = await self._channels[shard].send(request)
            if answer.status != 404:
                break
        return answer


def _starting_with(first: int | None, num_shards: int) -> Iterable[int]:
    return sorted(range(num_shards), key=lambda shard: shard != first)


def _part(request: Request, rows: Sequence[Raw]) -> Request:
    body = b'{"interactions":[' + b",".join(bytes(row) for row in rows) + b"]}"
    return Request(request.method, request.path, body=body, deadline_s=request.deadline_s)


class ShardCalls:
    """The way to one shard: fast by HTTP, and when that fails, by Serve's handle.

    A call by handle costs several times the CPU of one through this node's HAProxy, but it waits
    for a shard that is being started again, and works wherever Serve listens. A call that is sent
    twice is answered the same: its ids are given before.
    """

    def __init__(self, shard: int, remote: RemoteApp, serving: ServingSection) -> None:
        self._url = f"http://127.0.0.1:{serving.port}{shard_path(shard)}{MANY_PATH}"
        self._remote = remote
        self._max_bytes = serving.max_body_bytes
        self._session: aiohttp.ClientSession | None = None  # made on the loop that it runs on
        self._token: str | None = None

    async def many(self, payload: bytes) -> bytes:
        """Have the shard answer the requests of one call of its channel."""
        if len(payload) <= self._max_bytes:
            try:
                return await self._post(payload)
            except (aiohttp.ClientError, TimeoutError) as error:
                self._token = None  # the shard may be another process now
                # Not its repr: that has the request's headers.
                logger.warning("%s by handle: %s: %s", self._url, type(error).__name__, error)
        answer: bytes = await self._remote.call("many", payload)
        return answer

    async def _post(self, payload: bytes) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=_HTTP_TIMEOUT,
                headers=_HEADERS,
                raise_for_status=True,
            )
        if self._token is None:
            self._token = f"Bearer {await self._remote.call('internal_token')}"
        headers = {"authorization": self._token}
        async with self._session.post(self._url, data=payload, headers=headers) as answer:
            return await answer.read()


def gateway_router(
    config: Config,
    gateway: GatewayApi,
    channels: Sequence[Channel],
    encoder: EncoderClient,
    writer: CatalogueWriter,
    sync: Callable[[], Awaitable[None]],
) -> Router:
    """Return the router of all of the gateway's routes."""
    max_events = config.serving.max_events
    parts = (
        gateway,
        CatalogueApi(writer, gateway.get_item, max_events),
        PolicyApi(config, writer.on_store, [one.send for one in channels], sync),
        ReleaseApi(config.releases.path, sync),
        EmbeddingsApi(encoder, max_events),
    )
    router = Router()
    for endpoint in api.ENDPOINTS:
        (part,) = (part for part in parts if hasattr(part, endpoint.name))
        router.add(endpoint.method, endpoint.path, getattr(part, endpoint.name), endpoint.access)
    PersonalizerApi(gateway, Actions(gateway.get_item, writer.put), max_events).add_to(router)
    add_docs(router, with_keys=config.access.keys is not None)
    return router


class _Gateway:
    """The Serve replica."""

    def __init__(self, config: dict[str, Any]) -> None:
        tree = Config.parse(config)
        serving = tree.serving
        self._shards = [
            RemoteApp(SHARD_DEPLOYMENT, shard_app(shard), _TIMEOUT_S)
            for shard in range(serving.shards)
        ]
        channels = [
            Channel(
                ShardCalls(shard, remote, serving).many,
                max_batch=serving.max_batch,
                max_queue=serving.max_queue,
                max_bytes=serving.max_body_bytes,
            )
            for shard, remote in enumerate(self._shards)
        ]
        encoder = EncoderClient()
        gateway = GatewayApi(channels, encoder, max_events=serving.max_events)
        self._writer = CatalogueWriter(tree.store, encoder, self._sync)
        self._router = gateway_router(tree, gateway, channels, encoder, self._writer, self._sync)
        self._guard = Guard(tree.access)
        self._gateway = gateway
        self._max_body_bytes = serving.max_body_bytes

    def __serve_build_asgi_app__(self) -> App:
        return App(self._router, self._max_body_bytes, self._guard)

    async def ready(self) -> None:
        """Return when every shard and the encoder answer; raise when one does not."""
        await self._gateway.ready(Request("GET", api.READY.path))

    async def _sync(self) -> None:
        """Have every shard take in the catalogue; one that is away does when it is back."""
        answers = await asyncio.gather(
            *(shard.call("sync") for shard in self._shards), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, RoveError):
                raise answer

    async def __del__(self) -> None:
        self._writer.close()


Gateway = serve.deployment(name=DEPLOYMENT_NAME)(serve.ingress()(_Gateway))
