"""A shard's process is killed while clients post events."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rove.config import Config
from rove.engine import Engine
from rove.sharding import shard_of
from tests.serving.conftest import NUM_SHARDS, Server

pytestmark = pytest.mark.ray

NUM_EVENTS = 300
GIVE_UP_S = 60.0


def shard_process(server: Server, shard: int) -> int:
    """Return the process of one shard of this server, found among its descendants."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in table.stdout.splitlines()]
    family = {server.process.pid}
    for _ in rows:
        family |= {int(pid) for pid, parent, *_ in rows if int(parent) in family}
    name = f"ray::ServeReplica:shard-{shard}:"
    (found,) = (int(pid) for pid, _, args in rows if int(pid) in family and args.startswith(name))
    return found


class Poster:
    """A client that posts one event after another and repeats a call that failed, ids unchanged."""

    def __init__(self, server: Server, users: list[str]) -> None:
        self.outcomes: list[str] = []
        self.num_retries = 0
        self._server = server
        self._users = users

    def run(self) -> None:
        """Post all events."""
        base_url = str(self._server.http.base_url)
        with httpx.Client(base_url=base_url, timeout=30.0) as http:
            for number in range(NUM_EVENTS):
                row = {
                    "interaction_id": f"crash-{number}",
                    "user_id": self._users[number % len(self._users)],
                    "item_id": self._server.items[number % len(self._server.items)],
                    "type": "purchase",
                }
                self.outcomes.append(self._post(http, row))

    def _post(self, http: httpx.Client, row: dict[str, Any]) -> str:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            try:
                answer = http.post("/v1/events", json={"interactions": [row]})
                if answer.status_code == 200:
                    status: str = answer.json()["outcomes"][0]["status"]
                    return status
                assert answer.status_code in (429, 500, 502, 503), answer.text
            except httpx.TransportError:
                pass
            self.num_retries += 1
            time.sleep(0.1)
        raise TimeoutError(f"{row} was never answered")


def test_no_acknowledged_event_is_lost_or_counted_twice(server: Server, tmp_path: Path) -> None:
    """Afterwards the posterior in service is the one that is built from the ledger."""
    users = [server.user_of(shard, number) for shard in range(NUM_SHARDS) for number in range(3)]
    before = {user: num_interactions(server, user) for user in users}
    poster = Poster(server, users)
    thread = threading.Thread(target=poster.run)
    thread.start()
    time.sleep(0.3)
    killed = shard_process(server, 0)
    os.kill(killed, signal.SIGKILL)
    thread.join()

    assert len(poster.outcomes) == NUM_EVENTS
    assert set(poster.outcomes) <= {"accepted", "duplicate"}
    assert poster.num_retries <= 100
    assert shard_process(server, 0) != killed
    each = NUM_EVENTS // len(users)
    assert {user: num_interactions(server, user) - before[user] for user in users} == dict.fromkeys(
        users, each
    )
    time.sleep(2 * server.config.serving.sync_interval_s)
    for shard in range(NUM_SHARDS):
        of_shard = [user for user in users if shard_of(user, NUM_SHARDS) == shard]
        assert_posteriors_are_those_of_the_ledger(server, shard, of_shard, tmp_path / str(shard))


def num_interactions(server: Server, user_id: str) -> int:
    number: int = server.http.get(f"/v1/users/{user_id}").json()["num_interactions"]
    return number


def assert_posteriors_are_those_of_the_ledger(
    server: Server, shard: int, users: list[str], folder: Path
) -> None:
    """Compare the profiles in service with those of an engine on a copy of the ledger."""
    served = [server.http.get(f"/v1/users/{user_id}").json() for user_id in users]
    shutil.copytree(server.config.store.url.removeprefix("sqlite:///"), folder)
    config = Config.load(server.config_path, [f"store.url=sqlite:///{folder}"])
    engine = Engine.open(config, shard)
    try:
        rebuilt = [engine.user(user_id) for user_id in users]
    finally:
        engine.close()
    assert [user["release"] for user in served] == [user.release for user in rebuilt]
    means = np.array([user["taste_mean"] for user in served])
    assert np.abs(means - [user.taste_mean for user in rebuilt]).max() < 1e-6
