"""What is killed when, and how long it took to answer again.

Kinds and gaps are drawn by the seed; the process of a kind is one of those alive then. A process is
found by the name of its actor in Ray's state, so nothing but this service's own is killed.

The first good answer is that of a request sent after the kill that needs what was killed: an event
committed by the shard on its own path, a user read through the gateway, a text read by the encoder,
and, for the store, an event committed by every shard. Requests are sent every 50 ms.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import httpx
import numpy as np
import ray
from msgspec import Struct
from ray.util.state import list_actors

from benchmarks.chaos.load import Load
from benchmarks.chaos.preparing import World, crash, restart
from rove.client import interaction
from rove.events import InteractionType
from rove.sharding import shard_of
from serving.routing import shard_path

Kind = Literal["shard", "gateway", "encoder", "store"]
_PROBE_S = 0.05
_PROBE_TIMEOUT_S = 5.0
_GIVE_UP_S = 180.0
_PREFIX = "SERVE_REPLICA::"


class Kill(Struct, kw_only=True):
    """One kill, and what came after."""

    what: Kind
    which: str
    at_s: float
    """After the start."""
    recovered_s: float | None = None
    """From the kill to the first good answer; None: there was none."""


class Victim(Struct, frozen=True):
    """A process of a replica."""

    name: str
    pid: int


def replicas(kind: Kind, address: str) -> list[Victim]:
    """Return the living replicas of a kind of application of this Ray, by name."""
    found = [
        Victim(actor.name.removeprefix(_PREFIX), actor.pid)
        for actor in list_actors(address, filters=[("state", "=", "ALIVE")], limit=1000)
        if actor.name and actor.name.startswith(_PREFIX + kind) and actor.pid
    ]
    return sorted(found, key=lambda victim: victim.name)


class Killer:
    """Kills, and asks until what was killed answers."""

    def __init__(self, world: World, load: Load, url: str, seed: int) -> None:
        self.kills: list[Kill] = []
        self._world = world
        self._load = load
        self._http = httpx.AsyncClient(base_url=url, timeout=_PROBE_TIMEOUT_S)
        self._rng = np.random.default_rng([seed, 2])
        self._address = ray.get_runtime_context().gcs_address
        self._killed: set[int] = set()
        self._num_probes = 0

    async def run(self, duration_s: float, every_s: float) -> None:
        """Kill for so long, and wait for the first good answer after every kill."""
        started = time.monotonic()
        kinds: list[Kind] = ["shard", "gateway", "encoder"]
        kinds += ["store"] if self._world.server is not None else []
        at_s = self._rng.exponential(every_s)
        async with asyncio.TaskGroup() as waiting:
            while at_s < duration_s:
                await asyncio.sleep(started + at_s - time.monotonic())
                kind = kinds[int(self._rng.integers(len(kinds)))]
                kill, first = await self._kill(kind, started)
                self.kills.append(kill)
                waiting.create_task(self._recovery(kill, time.monotonic(), first))
                at_s += self._rng.exponential(every_s)
        await self._http.aclose()

    async def _kill(self, kind: Kind, started: float) -> tuple[Kill, list[Awaitable[None]]]:
        draw = self._rng.random()
        if kind == "store":
            assert self._world.server is not None
            await asyncio.to_thread(crash, self._world.server)
            kill = Kill(what=kind, which="postgres", at_s=time.monotonic() - started)
            return kill, [asyncio.to_thread(restart, self._world.server)]
        while True:
            alive = await asyncio.to_thread(replicas, kind, self._address)
            victims = [victim for victim in alive if victim.pid not in self._killed]
            if victims:
                victim = victims[int(draw * len(victims))]
                self._killed.add(victim.pid)
                try:
                    os.kill(victim.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it has just ended
                name = victim.name.split("#")[0]
                return Kill(what=kind, which=name, at_s=time.monotonic() - started), []
            await asyncio.sleep(_PROBE_S)

    async def _recovery(self, kill: Kill, killed_at: float, first: list[Awaitable[None]]) -> None:
        for step in first:
            await step
        shards = range(self._world.config.serving.shards)
        probes: list[Callable[[], Awaitable[bool]]]
        if kill.what == "gateway":
            probes = [self._read_user]
        elif kill.what == "encoder":
            probes = [self._embed]
        else:
            wanted = [int(kill.which.rpartition("-")[2])] if kill.what == "shard" else shards
            probes = [self._writer(shard) for shard in wanted]
        done = await asyncio.gather(*(self._until_good(probe) for probe in probes))
        if all(done):
            kill.recovered_s = time.monotonic() - killed_at

    async def _until_good(self, probe: Callable[[], Awaitable[bool]]) -> bool:
        gives_up = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < gives_up:
            try:
                if await probe():
                    return True
            except httpx.HTTPError:
                pass
            await asyncio.sleep(_PROBE_S)
        return False

    async def _read_user(self) -> bool:
        answer = await self._http.get(f"/v1/users/{self._user()}")
        return answer.status_code == 200

    async def _embed(self) -> bool:
        answer = await self._http.post("/v1/embeddings", json={"input": ["a text"]})
        return answer.status_code == 200

    def _writer(self, shard: int) -> Callable[[], Awaitable[bool]]:
        """Return a probe that sends one event until it is acknowledged; it counts as load."""
        num_shards = self._world.config.serving.shards
        user = next(one for one in self._world.users if shard_of(one, num_shards) == shard)
        self._num_probes += 1
        row = interaction(
            user,
            self._world.items[0],
            InteractionType.CLICK,
            interaction_id=f"chaos-probe-{self._num_probes}",
        )
        body = {
            "interactions": [
                {
                    "interaction_id": row.interaction_id,
                    "user_id": row.user_id,
                    "item_id": row.item_id,
                    "type": "click",
                }
            ]
        }

        async def write() -> bool:
            answer = await self._http.post(f"{shard_path(shard)}/v1/events", json=body)
            if answer.status_code != 200:
                return False
            self._load.note(row, answer.json()["outcomes"][0]["status"])
            return True

        return write

    def _user(self) -> str:
        return self._world.users[0]
