"""`rove.client` against a real local Serve, one shard of which is killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rove.client import (
    AsyncRoveClient,
    Candidates,
    Conflict,
    Item,
    NotFound,
    RankRequest,
    RewardRequest,
    RoveClient,
    interaction,
)
from rove.event_ids import shard_hint
from rove.messages import Topology
from rove.sharding import HASH_NAME, shard_of
from tests.serving.conftest import NUM_SHARDS, Server
from tests.serving.test_serving_crash import shard_process

pytestmark = pytest.mark.ray

NUM_EVENTS = 600
BEFORE_KILL = 200


@pytest.fixture
def client(server: Server) -> Iterator[RoveClient]:
    with RoveClient(str(server.http.base_url), timeout_s=30.0) as client:
        yield client


def stored_ids(server: Server, prefix: str) -> Counter[str]:
    """Return how often the ledger has each interaction whose id starts with `prefix`."""
    folder = Path(server.config.store.url.removeprefix("sqlite:///"))
    found: Counter[str] = Counter()
    for path in folder.glob("shard-*.sqlite"):
        with closing(sqlite3.connect(path)) as ledger:
            rows = ledger.execute("SELECT interaction_id FROM interactions").fetchall()
        found.update(one for (one,) in rows if one.startswith(prefix))
    return found


def test_a_decision_from_its_making_to_its_reward(server: Server, client: RoveClient) -> None:
    user_id = server.user_of(1, 3)
    request = RankRequest(user_id=user_id, k=3, defer_activation=True)
    decision = client.rank(request)
    assert shard_hint(decision.event_id, NUM_SHARDS) == shard_of(user_id, NUM_SHARDS)
    assert decision.activated_at is None
    assert client.activate(decision).activated_at is not None
    assert client.reward(decision, RewardRequest(value=1.0, slot=0)).status == "accepted"
    assert client.reward(decision, RewardRequest(value=1.0, slot=0)).status == "duplicate"
    shown = decision.slots[1].item_id
    row = interaction(user_id, shown, "click", decision=decision, slot=1)
    assert [outcome.status for outcome in client.events([row, row])] == ["accepted", "duplicate"]
    record = client.decision(decision.event_id)
    assert record.outcome == "rewarded" and record.decision.slots == decision.slots
    assert {item.item_id for item in client.user(user_id).items} >= {decision.slots[0].item_id}


def test_the_same_id_with_another_body_is_a_conflict(server: Server, client: RoveClient) -> None:
    request = RankRequest(user_id=server.users[0], event_id="clients-own", k=2)
    assert client.rank(request) == client.rank(request)
    with pytest.raises(Conflict, match=re.escape("'clients-own' was used before")) as caught:
        client.rank(RankRequest(user_id=server.users[0], event_id="clients-own", k=3))
    assert caught.value.fields["event_id"] == "clients-own"


def test_items_users_and_the_service(server: Server, client: RoveClient) -> None:
    item = Item(item_id="client/made", title="A SMALL CUP")
    assert [outcome.status for outcome in client.put_items([item])] == ["stored"]
    assert client.item("client/made") == item
    only = Candidates(item_ids=["client/made"])
    assert client.rank(RankRequest(user_id="passer-by", k=1, candidates=only)).slots
    client.delete_item("client/made")
    with pytest.raises(NotFound, match=re.escape("404 Not found")):
        client.item("client/made")
    assert client.delete_user("passer-by").num_decisions == 1
    assert client.topology().num_shards == NUM_SHARDS
    assert client.ready().status == "ready"


def test_a_stale_topology_is_corrected_by_the_first_421(server: Server, client: RoveClient) -> None:
    stale = Topology(num_shards=1, hash=HASH_NAME, epoch=0, paths=["/shards/0"])
    client._talks.routes.adopt(stale)
    user_id = server.user_of(1, 4)
    assert client.rank(RankRequest(user_id=user_id, k=1)).slots
    assert client._talks.routes.topology == client.topology()


def test_many_calls_of_one_event_loop(server: Server) -> None:
    async def ask() -> set[str]:
        async with AsyncRoveClient(str(server.http.base_url), timeout_s=30.0) as client:
            requests = [RankRequest(user_id=user_id, k=2) for user_id in server.users]
            decisions = await asyncio.gather(*map(client.rank, requests))
            for decision in decisions:
                await client.record(
                    interaction(decision.user_id, decision.slots[0].item_id, "view")
                )
            await client.flush()
            return {decision.event_id for decision in decisions}

    assert len(asyncio.run(ask())) == len(server.users)


def test_recorded_events_are_stored_once_each_though_a_shard_is_killed(server: Server) -> None:
    users = [server.user_of(shard, number) for shard in range(NUM_SHARDS) for number in range(3)]
    rows = [
        interaction(
            users[number % len(users)],
            server.items[number % len(server.items)],
            "view",
            interaction_id=f"recorded-{number}",
        )
        for number in range(NUM_EVENTS)
    ]
    with RoveClient(str(server.http.base_url), batch_rows=20, timeout_s=30.0) as client:
        for number, row in enumerate(rows):
            if number == BEFORE_KILL:
                os.kill(shard_process(server, 0), signal.SIGKILL)
            client.record(row)
            time.sleep(0.001)
    assert stored_ids(server, "recorded-") == Counter(row.interaction_id for row in rows)
