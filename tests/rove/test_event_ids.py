"""Ids of decisions, and the shard they hint at."""

from __future__ import annotations

import pytest

from rove.event_ids import new_event_id, shard_hint


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


def test_an_id_made_without_a_shard_hints_at_nothing() -> None:
    assert shard_hint(new_event_id(), 4) is None
    assert new_event_id() != new_event_id()
