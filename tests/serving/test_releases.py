"""Releases: their routes in process, and changed ten times under load on a real server."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rove.config import Config
from rove.engine import Engine
from rove.learning import Learned
from rove.release import Release, current, write
from rove.sharding import shard_of
from rove.view import COUNTED
from serving import api
from serving.http import Request, Router
from serving.releases import ReleaseApi
from tests.serving.conftest import NUM_SHARDS, Server
from tests.worlds import Shop, view_of

CHANGES = 10


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def call(shop: Shop, method: str, path: str) -> tuple[int, dict[str, Any]]:
    async def sync() -> None: ...

    router = Router()
    releases = ReleaseApi(shop.config().releases.path, sync)
    for endpoint in api.ENDPOINTS:
        if endpoint.tag == "releases":
            router.add(endpoint.method, endpoint.path, getattr(releases, endpoint.name))
    answer = asyncio.run(router.respond(Request(method, f"/v1/releases{path}")))
    told: dict[str, Any] = json.loads(answer.body)
    return answer.status, told


def test_releases_are_listed_promoted_and_rolled_back(shop: Shop) -> None:
    first, second = shop.release(), shop.release()
    status, told = call(shop, "GET", "")
    assert status == 200
    found = [(one["id"], one["in_service"]) for one in told["releases"]]
    assert found == [(second, True), (first, False)]
    assert told["releases"][0]["num_items"] == 60
    assert told["releases"][0]["metrics"]["planted"] == 1.0
    assert call(shop, "POST", f"/{first}:promote")[1]["id"] == first
    status, told = call(shop, "POST", f"/{first}:rollback")
    assert (status, told["id"], told["in_service"]) == (200, second, True)


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "%2Fetc", "..", ".", "current", "a%00b", "none"])
@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_an_id_is_no_path(shop: Shop, name: str, verb: str) -> None:
    first = shop.release()
    (shop.folder / "release.yaml").write_text("schema_version: 1")
    status, told = call(shop, "POST", f"/{name}:{verb}")
    assert status == 404 and "there is no release" in told["detail"]
    assert current(shop.config().releases.path).name == first


def test_a_damaged_release_is_not_put_into_service(shop: Shop) -> None:
    first, second = shop.release(), shop.release()
    (shop.config().releases.path / first / "model.safetensors").write_bytes(b"cut")
    status, told = call(shop, "POST", f"/{first}:promote")
    assert status == 409 and "cannot be put into service" in told["detail"]
    assert call(shop, "POST", f"/{first}:rollback")[0] == 409
    assert current(shop.config().releases.path).name == second


class Load:
    """A steady stream of ranks and purchases by threads, each with its own connection."""

    def __init__(self, server: Server, num_threads: int) -> None:
        self.server = server
        self.failed: list[str] = []
        self.acknowledged: list[str] = []
        self.releases: Counter[str] = Counter()
        self.users = server.users[:20]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(num_threads)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, release_id: str, num: int) -> None:
        """Return once so many more requests were answered by a release."""
        enough, deadline = self.releases[release_id] + num, time.monotonic() + 60.0
        while self.releases[release_id] < enough:
            assert time.monotonic() < deadline, self.failed
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        rng = np.random.default_rng(number)
        with httpx.Client(base_url=self.server.http.base_url, timeout=60.0) as http:
            turn = 0
            while not self._stop.is_set():
                self._turn(http, str(rng.choice(self.users)), f"load-{number}-{turn}")
                turn += 1

    def _turn(self, http: httpx.Client, user_id: str, name: str) -> None:
        body = {"user_id": user_id, "event_id": name, "k": 3}
        ranked = self._post(http, "/v1/rank", body)
        if ranked is None:
            return
        self.releases[ranked["release"]] += 1
        row = {
            "interaction_id": f"i-{name}",
            "user_id": user_id,
            "item_id": ranked["slots"][0]["item_id"],
            "type": "purchase",
            "event_id": name,
        }
        told = self._post(http, "/v1/events", {"interactions": [row]})
        if told is not None:
            assert [one["status"] for one in told["outcomes"]] == ["accepted"], told
            self.acknowledged.append(row["interaction_id"])

    def _post(self, http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        try:
            answer = http.post(path, json=body)
        except httpx.HTTPError as error:
            self.failed.append(f"{path}: {error!r}")
            return None
        if answer.status_code not in (200, 201):
            self.failed.append(f"{path}: {answer.status_code} {answer.text}")
            return None
        told: dict[str, Any] = answer.json()
        return told


def another_release(releases: Path) -> str:
    """Write the release in service once more, under another id; it is not promoted."""
    release = Release.open(current(releases))
    learned = Learned(
        model=release.model,
        items=release.items,
        sums_J=np.array(release.sums_J),
        as_of_s=release.as_of_s,
        num_sweeps=0,
        calibration={},
    )
    return write(
        releases,
        learned,
        [release.item(row) for row in range(len(release.catalogue))],
        release.embeddings_JE,
        encoder=release.encoder,
        encoder_folder=release.encoder_folder,
        metrics=release.metrics,
        watermark=release.watermark,
    ).name


@pytest.mark.ray
def test_releases_change_under_load_without_a_failed_request(
    server: Server, tmp_path: Path
) -> None:
    """Promoted and rolled back ten times; every acknowledged event is in the ledger once, and what
    is served of users and items is what is built from the ledger."""
    releases = server.config.releases.path
    old, new = current(releases).name, another_release(releases)
    with Load(server, 4) as load:
        for number in range(CHANGES):
            verb, expected = ("rollback", old) if number % 2 else ("promote", new)
            answer = server.http.post(f"/v1/releases/{new}:{verb}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["id"] == expected
            load.wait_for(expected, 8)
    assert load.failed == []
    assert set(load.releases) == {old, new}
    assert current(releases).name == old
    copy = tmp_path / "ledger"
    served = {user: server.http.get(f"/v1/users/{user}").json() for user in load.users}
    shutil.copytree(server.config.store.url.removeprefix("sqlite:///"), copy)
    stored = [one for shard in range(NUM_SHARDS) for one in interaction_ids(copy, shard)]
    acknowledged = Counter(load.acknowledged)
    assert Counter(one for one in stored if one.startswith("i-load-")) == acknowledged
    assert len(acknowledged) > 50
    config = Config.load(server.config_path, [f"store.url=sqlite:///{copy}"])
    for shard in range(NUM_SHARDS):
        users = [user for user in load.users if shard_of(user, NUM_SHARDS) == shard]
        means, tastes = built(config, shard, users)
        for user, taste in zip(users, tastes, strict=True):
            assert served[user]["release"] == old
            assert np.abs(np.array(served[user]["taste_mean"]) - taste).max() < 1e-6
        forget_statistics(copy, shard)
        assert built(config, shard, users)[0] == pytest.approx(means, rel=1e-9)


def built(config: Config, shard: int, users: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what an engine that opens now knows: the items' sums, and the users' tastes."""
    engine = Engine.open(config, shard)
    try:
        means = view_of(engine).means
        return means.sums_J, [np.array(engine.user(user).taste_mean) for user in users]
    finally:
        engine.close()


def interaction_ids(folder: Path, shard: int) -> list[str]:
    with closing(sqlite3.connect(folder / f"shard-{shard}.sqlite")) as database:
        return [row[0] for row in database.execute("SELECT interaction_id FROM interactions")]


def forget_statistics(folder: Path, shard: int) -> None:
    """Have the next engine count the items' rewards anew."""
    with closing(sqlite3.connect(folder / f"shard-{shard}.sqlite")) as database:
        assert database.execute(f"DELETE FROM meta WHERE key = '{COUNTED}'").rowcount == 1
        database.commit()
