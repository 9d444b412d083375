"""The gateway's routes for policies: stored in the catalogue's store, followed by the shards.

A change is in force as soon as its call is answered: the shards are told to sync, and one that does
not answer takes the change in when it next syncs or starts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import structs

from rove.config import Config, PolicyFile
from rove.errors import NotFound, PayloadTooLarge, shown
from rove.ledger.items import ItemStore
from rove.modes import added
from rove.policy_store import PolicyStore
from rove.records import PolicyState
from serving.http import Request, Response
from serving.problems import Unavailable
from serving.schemas import Policies

MAX_FILE_BYTES = 65_536
_encode = msgspec.json.Encoder().encode
_policies_body = msgspec.json.Decoder(Policies).decode


class OnStore(Protocol):
    """Calls a function with the open store, on its thread."""

    async def __call__(self, function: Callable[[ItemStore], Any], /) -> Any: ...


class PolicyApi:
    """The routes of policies."""

    def __init__(
        self,
        config: Config,
        on_store: OnStore,
        ask: Sequence[Callable[[Request], Awaitable[Response]]],
        sync: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._on_store = on_store
        self._ask = ask
        self._sync = sync

    async def get_policies(self, request: Request) -> Response:
        """Return all policies, with how all shards' decisions agree with them."""
        return Response(200, _encode(Policies(policies=await self._all())))

    async def get_policy(self, request: Request) -> Response:
        """Return one policy."""
        (name,) = request.params
        policies = await self._all()
        found = next((policy for policy in policies if policy.name == name), None)
        if found is None:
            known = ", ".join(policy.name for policy in policies)
            raise NotFound(f"there is no policy {shown(name)}; there are {known}")
        return Response(200, _encode(found))

    async def put_policy(self, request: Request) -> Response:
        """Store a new version of a policy."""
        (name,) = request.params
        if len(request.body) > MAX_FILE_BYTES:
            raise PayloadTooLarge(
                f"a policy has at most {MAX_FILE_BYTES} bytes, got {len(request.body)}"
            )
        file = PolicyFile.parse(request.body, source="the body")
        return await self._change(name, lambda store: store.put(name, file, time.time()))

    async def promote_policy(self, request: Request) -> Response:
        """Make a policy the default."""
        (name,) = request.params
        return await self._change(name, lambda store: store.promote(name, time.time()))

    async def roll_back_policy(self, request: Request) -> Response:
        """Take back the latest change of a policy."""
        (name,) = request.params
        return await self._change(name, lambda store: store.roll_back(name))

    async def _change(self, name: str, change: Callable[[PolicyStore], None]) -> Response:
        def changed(store: ItemStore) -> list[PolicyState]:
            policies = PolicyStore(self._config, store)
            change(policies)
            return policies.states()

        states: list[PolicyState] = await self._on_store(changed)
        await self._sync()
        return Response(200, _encode(next(state for state in states if state.name == name)))

    async def _all(self) -> list[PolicyState]:
        """Return the policies of the shards with their counts added."""
        question = [ask(Request("GET", "/v1/policies")) for ask in self._ask]
        told: list[list[PolicyState]] = []
        for shard, answer in enumerate(await asyncio.gather(*question)):
            if answer.status != 200:
                raise Unavailable(f"shard {shard} does not answer: {answer.body.decode()}")
            told.append(_policies_body(answer.body).policies)
        return [_together(one, told) for one in told[0]]


def _together(policy: PolicyState, told: Sequence[Sequence[PolicyState]]) -> PolicyState:
    counts = [
        one.agreement
        for policies in told
        for one in policies
        if (one.name, one.version) == (policy.name, policy.version) and one.agreement is not None
    ]
    return structs.replace(policy, agreement=added(counts))
