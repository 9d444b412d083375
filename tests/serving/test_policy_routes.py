"""The routes of policies, in process: the store is real, the shards are two engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rove.engine import Engine
from rove.ledger.items import ItemStore
from serving import api
from serving.http import Request, Response, Router
from serving.policies import PolicyApi
from serving.schemas import Policies
from tests.worlds import Shop, rank, request


class Service:
    """The policies' routes over the engines of a shop."""

    def __init__(self, shop: Shop) -> None:
        shop.release()
        self.engines = [shop.engine(shard) for shard in range(shop.shards)]
        self.store = shop.catalogue()
        self.router = Router()
        asks = [self._shard(engine) for engine in self.engines]
        policies = PolicyApi(shop.config(), self._on_store, asks, self._sync)
        for endpoint in api.ENDPOINTS:
            if endpoint.tag == "policies":
                handler = getattr(policies, endpoint.name)
                self.router.add(endpoint.method, endpoint.path, handler)

    def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        answer = asyncio.run(self.router.respond(Request(method, f"/v1/policies{path}", body=body)))
        told: dict[str, Any] = json.loads(answer.body)
        return answer.status, told

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
        self.store.close()

    async def _on_store(self, function: Callable[[ItemStore], Any]) -> Any:
        return function(self.store)

    async def _sync(self) -> None:
        for engine in self.engines:
            engine.sync()

    def _shard(self, engine: Engine) -> Callable[[Request], Any]:
        async def ask(request: Request) -> Response:
            states = engine.policy_states()
            return Response(200, msgspec.json.encode(Policies(policies=states)))

        return ask


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(Shop(tmp_path, shards=2))
    yield made
    made.close()


def test_a_policy_is_put_read_promoted_and_rolled_back(service: Service) -> None:
    body = json.dumps({"policy": {"kind": "greedy"}, "share": 0.25}).encode()
    status, put = service.call("PUT", "/calm", body)
    assert status == 200, put
    assert put["policy"]["kind"] == "greedy" and (put["version"], put["share"]) == ("1", 0.25)
    assert put["agreement"] is None
    status, told = service.call("GET", "")
    assert [(one["name"], one["share"]) for one in told["policies"]] == [
        ("shop", 0.75),
        ("calm", 0.25),
    ]
    status, promoted = service.call("POST", "/calm:promote")
    assert status == 200 and promoted["default"]
    for engine in service.engines:
        assert rank(engine, request("ann")).policy == "calm"
    status, back = service.call("POST", "/calm:rollback")
    assert status == 200 and not back["default"] and back["share"] == 0.25
    assert service.call("GET", "/calm")[1] | {"agreement": None} == back


def test_a_policy_file_is_put_as_it_is(service: Service) -> None:
    status, put = service.call("PUT", "/tuned", b"policy:\n  kind: softmax\n  temperature: 0.02\n")
    assert status == 200 and put["policy"]["temperature"] == 0.02


def test_agreement_is_of_all_shards(service: Service) -> None:
    service.call("PUT", "/s", b'{"policy": {"kind": "greedy"}, "mode": "shadow"}')
    for shard, engine in enumerate(service.engines):
        for number in range(3 + shard):
            rank(engine, request(f"u{number}", f"e{shard}-{number}", k=2))
    status, told = service.call("GET", "/s")
    counts = told["agreement"]
    assert status == 200 and (counts["num_decisions"], counts["num_slots"]) == (7, 14)
    assert 0 <= counts["num_same_slots"] <= 14


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/none", b"", 404, "there is no policy 'none'; there are shop"),
        ("POST", "/none:promote", b"", 404, "there is no policy 'none'"),
        ("POST", "/none:rollback", b"", 404, "there is no policy 'none'"),
        ("POST", "/shop:rollback", b"", 409, "policy shop"),
        ("PUT", "/shop", b'{"policy": {}, "share": 0.5}', 400, "leave share out"),
        ("PUT", "/shop", b'{"policy": {}, "mode": "shadow"}', 409, "cannot be a shadow"),
        ("PUT", "/a", b'{"policy": {"kind": "best"}}', 400, "the body: policy.kind: Input should"),
        ("PUT", "/a", b'{"policy": {"kid": "ucb"}}', 400, "unknown key; did you mean kind?"),
        ("PUT", "/a", b'{"policy": {}, "share": 2}', 400, "share: Input should be less"),
        ("PUT", "/a", b"", 400, "the body: expected keys and values, got None"),
        ("PUT", "/a", b"\xff", 400, "neither JSON nor YAML"),
        ("PUT", "/a", b" " * 70_000, 413, "at most 65536 bytes, got 70000"),
        ("PUT", "/a", b"[" * 60_000, 400, "neither JSON nor YAML"),
        ("PUT", "/a%2Fb", b'{"policy": {}}', 400, "a policy's name has 1 to 64 letters"),
        ("PUT", "/a:promote", b'{"policy": {}}', 405, "does not take 'PUT'; use POST"),
        ("POST", "/:promote", b"", 405, "does not take 'POST'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_problem(
    service: Service, method: str, path: str, body: bytes, status: int, said: str
) -> None:
    found, told = service.call(method, path, body)
    assert found == status, told
    assert said in told["detail"]
