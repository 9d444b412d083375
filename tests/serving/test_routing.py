"""Which shard a request belongs to."""

from __future__ import annotations

import re

import pytest

from rove.errors import Misdirected
from rove.sharding import HASH_NAME, shard_of
from serving.routing import (
    check_owner,
    new_event_id,
    reward_id,
    shard_hint,
    shard_path,
    topology,
)


def test_a_made_id_hints_at_its_shard() -> None:
    ids = [new_event_id(3) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {shard_hint(event_id, 4) for event_id in ids} == {3}


def test_made_ids_sort_by_time() -> None:
    times = [new_event_id(0)[2:14] for _ in range(100)]
    assert times == sorted(times)


@pytest.mark.parametrize("event_id", ["mine", "4-", "3-xyz", f"x-{'0' * 32}", f"3-{'0' * 33}"])
def test_an_id_of_the_clients_own_hints_at_nothing(event_id: str) -> None:
    assert shard_hint(event_id, 4) is None


def test_an_id_from_when_there_were_more_shards_hints_at_nothing() -> None:
    assert shard_hint(new_event_id(7), 4) is None


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
