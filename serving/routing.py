"""Which shard a request belongs to.

- A user's shard is `shard_of(user_id, num_shards)`, always.
- An event id made here starts with its shard, which saves asking every shard for it. That is a
  hint: an id of the client's own, or one from before the number of shards changed, is asked for
  everywhere.
"""

from __future__ import annotations

import os
import re
import time
from hashlib import blake2b

from rove.errors import Misdirected
from rove.sharding import HASH_NAME, shard_of
from serving.schemas import Topology

SHARD_DEPLOYMENT = "BanditShard"
MANY_PATH = "/many"
"""Below a shard's prefix: several requests of a gateway in one (`serving.channels`)."""
_EPOCH = 1  # a store is made for one number of shards
_MADE_HERE = re.compile(r"(\d{1,4})-[0-9a-f]{32}")


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


def new_event_id(shard: int) -> str:
    """Return a new id: shard, time in ms (a shard's ids sort by time) and 80 random bits."""
    return f"{shard}-{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def shard_hint(event_id: str, num_shards: int) -> int | None:
    """Return the shard that probably made `event_id`."""
    match = _MADE_HERE.fullmatch(event_id)
    if match is None:
        return None
    shard = int(match[1])
    return shard if shard < num_shards else None


def reward_id(event_id: str, slot: int) -> str:
    """Return the interaction id of the reward of a slot, for clients that give none."""
    return f"reward-{blake2b(f'{slot}/{event_id}'.encode(), digest_size=16).hexdigest()}"
