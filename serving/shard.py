"""The bandit shard: one engine behind HTTP, for one slice of the users.

A handler is: read the body, check that the user is ours, call the engine through `EngineTurns`,
answer. What comes through a gateway are the same requests, several in one call (`many`).

- A user of another shard is answered 421 with the topology; nothing is served or written for it.
- This process imports no torch, so that it is back seconds after it was killed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import structs
from ray import serve

from rove.config import Config
from rove.engine import Engine
from rove.errors import InvalidInput
from rove.event_ids import new_event_id
from rove.events import (
    MAX_ID_LENGTH,
    Decision,
    Interaction,
    InteractionType,
    Outcome,
    RankRequest,
    Slot,
)
from rove.messages import EventOutcomes, RewardRequest, ShardState, UserReference
from rove.shown.contexts import text_of
from serving import api
from serving.access import Guard
from serving.channels import answer_many
from serving.encoder import EncoderClient, TextVectors
from serving.http import MSGPACK, App, Request, Response, Router, decoder
from serving.problems import Unavailable
from serving.routing import (
    MANY_PATH,
    SHARD_DEPLOYMENT,
    check_owner,
    reward_id,
    topology,
)
from serving.rows import read_events, read_interaction
from serving.schemas import Health, Policies
from serving.turns import EngineTurns, Limits

logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_rank_body = decoder(RankRequest)
_reward_body = decoder(RewardRequest)
_reference_body = decoder(UserReference)


class ShardApi:
    """The routes of one shard."""

    def __init__(
        self,
        turns: EngineTurns[Engine],
        text_vector: Callable[[str], Awaitable[npt.NDArray[np.float32]]],
        *,
        shard: int,
        num_shards: int,
        max_events: int,
        reads_contexts: bool = False,
    ) -> None:
        self._turns = turns
        self._text_vector = text_vector
        self._reads_contexts = reads_contexts
        self._shard = shard
        self._num_shards = num_shards
        self._max_events = max_events

    def router(self) -> Router:
        """Return the router of all of the shard's routes."""
        router = Router()
        for endpoint in api.SHARD_ENDPOINTS:
            handler = getattr(self, endpoint.name)
            router.add(endpoint.method, endpoint.path, handler, endpoint.access)

        async def many(request: Request) -> Response:
            return Response(200, await answer_many(request.body, router.respond), MSGPACK)

        router.add("POST", MANY_PATH, many, "internal")
        return router

    async def rank(self, request: Request) -> Response:
        """Decide, and commit the decision before it is answered."""
        wanted: RankRequest = _rank_body(request.body)
        self._check_owner(wanted.user_id)
        if wanted.event_id is None:
            event_id = request.event_id or new_event_id(self._shard)
            wanted = structs.replace(wanted, event_id=event_id)
        vectors = await self._vectors(wanted)
        return Response(201, _encode(await self._turns.rank(wanted, vectors)))

    async def events(self, request: Request) -> Response:
        """Store interactions; answer each with what became of it, once all are committed."""
        rows = [read_interaction(row) for row in read_events(request.body, self._max_events)]
        interactions = [row for row in rows if isinstance(row, Interaction)]
        for interaction in interactions:
            self._check_owner(interaction.user_id)
        stored = iter(await self._turns.observe(interactions) if interactions else ())
        outcomes = [row if isinstance(row, Outcome) else next(stored) for row in rows]
        return Response(200, _encode(EventOutcomes(outcomes=outcomes)))

    async def reward(self, request: Request) -> Response:
        """Store an explicit reward as an interaction with the slot's item."""
        (event_id,) = request.params
        reward: RewardRequest = _reward_body(request.body)
        decision = await self._decided(event_id, reward.user_id or request.argument(api.USER_QUERY))
        slot = _rewarded_slot(decision, reward)
        interaction = Interaction(
            interaction_id=reward.interaction_id or reward_id(event_id, slot.slot),
            user_id=decision.user_id,
            item_id=slot.item_id,
            type=InteractionType.REWARD,
            value=reward.value,
            timestamp=reward.timestamp,
            event_id=event_id,
            slot=slot.slot,
        )
        (outcome,) = await self._turns.observe([interaction])
        if outcome.status == "rejected":
            raise InvalidInput(outcome.reason or "the reward was rejected")
        return Response(200, _encode(outcome))

    async def activate(self, request: Request) -> Response:
        """Activate a deferred decision."""
        (event_id,) = request.params
        reference: UserReference = _reference_body(request.body or b"{}")
        user_id = reference.user_id or request.argument(api.USER_QUERY)
        decision = await self._turns.call(lambda engine: engine.activate(event_id, user_id))
        return Response(200, _encode(decision))

    async def decision(self, request: Request) -> Response:
        """Return the record of a decision."""
        (event_id,) = request.params
        user_id = request.argument(api.USER_QUERY)
        record = await self._turns.call(lambda engine: engine.decision(event_id, user_id))
        return Response(200, _encode(record))

    async def get_item(self, request: Request) -> Response:
        """Return an item."""
        (item_id,) = request.params
        return Response(200, _encode(await self._turns.call(lambda e: e.item(item_id))))

    async def get_user(self, request: Request) -> Response:
        """Return a user's profile."""
        (user_id,) = request.params
        self._check_owner(user_id)
        return Response(200, _encode(await self._turns.call(lambda e: e.user(user_id))))

    async def export_user(self, request: Request) -> Response:
        """Return a page of what is held about a user."""
        (user_id,) = request.params
        self._check_owner(user_id)
        after = request.argument(api.AFTER_QUERY, 2 * MAX_ID_LENGTH)
        return Response(200, _encode(await self._turns.call(lambda e: e.export(user_id, after))))

    async def delete_user(self, request: Request) -> Response:
        """Erase a user and return the receipt."""
        (user_id,) = request.params
        self._check_owner(user_id)
        return Response(200, _encode(await self._turns.call(lambda e: e.erase(user_id))))

    async def erasure(self, request: Request) -> Response:
        """Return the receipt of an erasure."""
        (erasure_id,) = request.params
        user_id = request.argument(api.USER_QUERY)
        found = await self._turns.call(lambda engine: engine.erasure(erasure_id, user_id))
        return Response(200, _encode(found))

    async def shard_policies(self, request: Request) -> Response:
        """Return all policies, with how this shard's decisions agree with them."""
        states = await self._turns.call(lambda engine: engine.policy_states())
        return Response(200, _encode(Policies(policies=states)))

    async def topology(self, request: Request) -> Response:
        """Return which shard owns which user."""
        return Response(200, _encode(topology(self._num_shards)))

    async def health(self, request: Request) -> Response:
        """Answer while the process is alive."""
        return Response(200, _encode(Health(status="ok")))

    async def shard_ready(self, request: Request) -> Response:
        """Answer when the engine does."""
        state = await self._turns.call(self._state)
        return Response(200, _encode(state))

    async def _vectors(self, wanted: RankRequest) -> dict[str, npt.NDArray[np.float32]]:
        """Return the vectors of the texts that the request is decided by."""
        vectors = {}
        if wanted.candidates is not None and wanted.candidates.query is not None:
            query = wanted.candidates.query
            vectors[query] = await self._text_vector(query)
        text = text_of(wanted.context) if self._reads_contexts else None
        if text is not None:
            try:
                vectors[text] = await self._text_vector(text)
            except Unavailable as error:
                # A decision without it is better than none: the context counts as average.
                logger.warning("a context was not read: %s", error.detail)
        return vectors

    def _state(self, engine: Engine) -> ShardState:
        return ShardState(shard=self._shard, release=engine.release_id, num_items=engine.num_items)

    async def _decided(self, event_id: str, user_id: str | None) -> Decision:
        """Return the decision; raise unless it is here and is the user's."""
        record = await self._turns.call(lambda engine: engine.decision(event_id, user_id))
        return record.decision

    def _check_owner(self, user_id: str) -> None:
        check_owner(user_id, self._shard, self._num_shards)


def _rewarded_slot(decision: Decision, reward: RewardRequest) -> Slot:
    matches = [
        slot
        for slot in decision.slots
        if reward.slot in (None, slot.slot) and reward.item_id in (None, slot.item_id)
    ]
    if len(matches) == 1:
        return matches[0]
    raise InvalidInput(
        f"slot={reward.slot} and item_id={reward.item_id!r} name {len(matches)} of the "
        f"{len(decision.slots)} slots of this decision; name one"
    )


class _BanditShard:
    """The Serve replica of one shard."""

    def __init__(self, config: dict[str, Any], shard: int) -> None:
        tree = Config.parse(config)
        serving = tree.serving
        self._turns: EngineTurns[Engine] = EngineTurns(
            lambda: Engine.open(tree, shard, serving.shards),
            Limits(
                max_batch=serving.max_batch,
                max_queue=serving.max_queue,
                max_events=serving.max_events,
                sync_interval_s=serving.sync_interval_s,
            ),
        )
        self._router = ShardApi(
            self._turns,
            TextVectors(EncoderClient()),
            shard=shard,
            num_shards=serving.shards,
            max_events=serving.max_events,
            reads_contexts=tree.feedback == "shown",
        ).router()
        self._guard = Guard(tree.access)
        self._max_body_bytes = serving.max_body_bytes

    async def __serve_build_asgi_app__(self) -> App:
        await self._turns.start()
        return App(self._router, self._max_body_bytes, self._guard)

    async def internal_token(self) -> str:
        """Return what a gateway shows when it calls by HTTP."""
        return self._guard.internal_token

    async def many(self, payload: bytes) -> bytes:
        """Answer the requests of one call of a gateway."""
        return await answer_many(payload, self._router.respond)

    async def sync(self) -> None:
        """Take in the catalogue's changes now."""
        await self._turns.call(lambda engine: engine.sync())

    async def check_health(self) -> None:
        """Raise when the engine's turns have ended."""
        self._turns.check()

    async def __del__(self) -> None:
        await self._turns.close()


BanditShard = serve.deployment(name=SHARD_DEPLOYMENT)(serve.ingress()(_BanditShard))
