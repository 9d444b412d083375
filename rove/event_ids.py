"""Ids of decisions: made by whoever asks first, so that a call that is repeated decides once.

An id starts with the shard of the decision's user, which saves asking every shard for it. That is
a hint: an id of a caller's own, or one from before the number of shards changed, is asked for
everywhere.
"""

from __future__ import annotations

import os
import re
import time

_MADE_HERE = re.compile(r"(\d{1,4})-[0-9a-f]{32}")


def new_event_id(shard: int | None = None) -> str:
    """Return a new id: shard, if known, time in ms (ids sort by time) and 80 random bits."""
    unique = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    return unique if shard is None else f"{shard}-{unique}"


def shard_hint(event_id: str, num_shards: int) -> int | None:
    """Return the shard that probably made `event_id`."""
    match = _MADE_HERE.fullmatch(event_id)
    if match is None:
        return None
    shard = int(match[1])
    return shard if shard < num_shards else None
