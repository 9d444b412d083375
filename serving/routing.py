"""Which shard a request belongs to.

- A user's shard is `shard_of(user_id, num_shards)`, always.
- A decision's id hints at its shard (`rove.event_ids`).
"""

from __future__ import annotations

from hashlib import blake2b

from rove.errors import Misdirected
from rove.messages import Topology
from rove.sharding import HASH_NAME, shard_of

SHARD_DEPLOYMENT = "BanditShard"
MANY_PATH = "/many"
"""Below a shard's prefix: several requests of a gateway in one (`serving.channels`)."""
_EPOCH = 1  # a store is made for one number of shards


def shard_path(shard: int) -> str:
    """Return the route prefix of a shard's application."""
    return f"/shards/{shard}"


def shard_app(shard: int) -> str:
    """Return the name of a shard's application."""
    return f"shard-{shard}"


def topology(num_shards: int) -> Topology:
    """Return what a client needs to find a user's shard."""
    paths = [shard_path(shard) for shard in range(num_shards)]
    return Topology(num_shards=num_shards, hash=HASH_NAME, epoch=_EPOCH, paths=paths)


def check_owner(user_id: str, shard: int, num_shards: int) -> None:
    """Raise `Misdirected`, with the topology, unless `shard` owns `user_id`."""
    owner = shard_of(user_id, num_shards)
    if owner != shard:
        raise Misdirected(
            f"shard {shard} does not own this user, shard {owner} does; "
            f"send it to {shard_path(owner)} or to the gateway",
            topology=topology(num_shards),
        )


def reward_id(event_id: str, slot: int) -> str:
    """Return the interaction id of the reward of a slot, for clients that give none."""
    return f"reward-{blake2b(f'{slot}/{event_id}'.encode(), digest_size=16).hexdigest()}"
