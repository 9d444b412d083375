"""Rove frozen: the same release, policy and requests, with nothing learnt after the release.

The engine runs in this process on a copy of the ledger as it was when the server started. Users
are as the history left them; what they bought since is only left out of their slates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rove.baselines.base import Ints
from rove.config import Config
from rove.demo.replay import rank_request
from rove.demo.split import Visit
from rove.engine import Engine
from rove.errors import RoveError
from rove.events import Decision, RankRequest
from rove.sharding import shard_of

_BATCH = 64


def rank_frozen(config: Config, visits: Sequence[Visit], chosen: Ints, k: int) -> list[list[str]]:
    """Return the slates of the `chosen` visits; `config.store` is the copy of the ledger."""
    requests = list(_requests(visits, set(chosen.tolist()), k))
    num_shards = config.serving.shards
    shards = np.array([shard_of(request.user_id, num_shards) for request in requests], np.int64)
    slates: list[list[str]] = [[] for _ in requests]
    for shard in range(num_shards):
        engine = Engine.open(config, shard, num_shards)
        own = np.flatnonzero(shards == shard).tolist()
        for start in range(0, len(own), _BATCH):
            batch = own[start : start + _BATCH]
            for index, answer in zip(batch, engine.rank([requests[i] for i in batch]), strict=True):
                slates[index] = _slate(answer)
        engine.close()
    return slates


def _requests(visits: Sequence[Visit], chosen: set[int], k: int) -> Iterator[RankRequest]:
    bought: dict[str, dict[str, None]] = {}
    for index, visit in enumerate(visits):
        before = bought.setdefault(visit.user_id, {})
        if index in chosen:
            request = rank_request(visit, k)
            yield RankRequest(
                user_id=request.user_id,
                event_id=request.event_id,
                k=k,
                exclude_seen=True,
                excluded_items=list(before),
            )
        before.update(dict.fromkeys(line.item_id for line in visit.interactions))


def _slate(answer: Decision | RoveError) -> list[str]:
    if isinstance(answer, RoveError):
        raise answer
    return [slot.item_id for slot in answer.slots]
