"""Where a call goes: to the shard that owns its users, or to the gateway.

- Nothing is guessed: what the topology does not say, or says with an unknown hash, the gateway
  knows.
- A shard whose own path failed is reached through the gateway for a while, and the topology is
  looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rove.client.calls import Call
from rove.event_ids import shard_hint
from rove.messages import Topology
from rove.sharding import HASH_NAME, shard_of

_DETOUR_S = 5.0
"""How long a path that failed is left alone; a killed shard is back within a few seconds."""


class Way(NamedTuple):
    """A shard and the prefix of its own routes."""

    shard: int | None
    prefix: str


GATEWAY = Way(None, "")


class Routes:
    """What a client knows of the shards."""

    def __init__(self, direct: bool, clock: Callable[[], float]) -> None:
        self._direct = direct
        self._clock = clock
        self._detours: dict[int, float] = {}
        self._look_at_s: float | None = clock() if direct else None
        self.topology: Topology | None = None

    @property
    def unsure(self) -> bool:
        """Whether it is time to ask for the topology."""
        return self._look_at_s is not None and self._clock() >= self._look_at_s

    def way(self, call: Call[Any]) -> Way:
        """Return where to ask: a shard's own path, or `GATEWAY`."""
        topology = self.topology  # once: another thread may follow a new one meanwhile
        if topology is None:
            return GATEWAY
        owners = {shard_of(user_id, topology.num_shards) for user_id in call.users}
        if not owners and call.event_id is not None:
            hint = shard_hint(call.event_id, topology.num_shards)
            owners = set() if hint is None else {hint}
        if len(owners) != 1:
            return GATEWAY
        (shard,) = owners
        if self._clock() < self._detours.get(shard, 0.0):
            return GATEWAY
        return Way(shard, topology.paths[shard])

    def owner(self, user_id: str) -> int | None:
        """Return the shard of a user, if that is known."""
        topology = self.topology
        return None if topology is None else shard_of(user_id, topology.num_shards)

    def adopt(self, topology: Topology) -> bool:
        """Take in a topology; False if it is not a newer one."""
        self._look_at_s = None
        known = self.topology
        usable = topology.hash == HASH_NAME and len(topology.paths) == topology.num_shards
        if not self._direct or not usable or (known and topology.epoch < known.epoch):
            return False
        self.topology = topology
        if topology != known:
            self._detours.clear()
        return topology != known

    def doubt(self) -> None:
        """Have the topology asked for again."""
        self._look_at_s = self._clock()

    def failed(self, shard: int | None = None) -> None:
        """Note that a shard's own path, or the question for the topology, failed."""
        self._look_at_s = self._clock() + _DETOUR_S
        if shard is not None:
            self._detours[shard] = self._look_at_s
