"""Which shard owns a user.

Rendezvous (highest random weight) hashing (Thaler and Ravishankar 1998): every shard gets a score
from a hash of (shard, user) and the highest wins, so going from n to n + 1 shards moves only the
users the new shard wins, 1 / (n + 1) of them, and none between old shards.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

HASH_NAME = "rendezvous-blake2b-64"


@lru_cache(maxsize=100_000)
def shard_of(user_id: str, num_shards: int) -> int:
    """Return the shard in [0, num_shards) that owns `user_id`.

    score(shard) = first 8 bytes, big endian, of BLAKE2b(user_id in UTF-8, key = shard as 4 bytes
    big endian); the lowest shard wins a tie.
    """
    assert num_shards >= 1, num_shards
    user = user_id.encode("utf-8", "surrogatepass")
    return max(range(num_shards), key=lambda shard: (_score(shard, user), -shard))


def _score(shard: int, user: bytes) -> int:
    digest = blake2b(user, digest_size=8, key=shard.to_bytes(4, "big")).digest()
    return int.from_bytes(digest, "big")
