"""Which shard a request belongs to."""

from __future__ import annotations

import re

import pytest

from rove.errors import Misdirected
from rove.sharding import HASH_NAME, shard_of
from serving.routing import (
    check_owner,
    reward_id,
    shard_path,
    topology,
)


def test_only_the_owner_passes() -> None:
    owner = shard_of("ann", 4)
    check_owner("ann", owner, 4)
    other = (owner + 1) % 4
    with pytest.raises(Misdirected, match=re.escape(f"send it to /shards/{owner}")) as caught:
        check_owner("ann", other, 4)
    assert caught.value.fields["topology"] == topology(4)


def test_the_topology_lists_a_path_per_shard() -> None:
    found = topology(3)
    assert found.hash == HASH_NAME
    assert found.paths == [shard_path(shard) for shard in range(3)]


def test_a_rewards_id_depends_on_decision_and_slot() -> None:
    ids = {reward_id(event_id, slot) for event_id in ("a", "b" * 256) for slot in (0, 1)}
    assert len(ids) == 4
    assert all(len(one) < 64 for one in ids)
    assert reward_id("a", 0) == reward_id("a", 0)
