"""Requests that nobody should send, to the real applications of a gateway and shards, without Ray.

    python -m benchmarks.fuzz --requests 100000

The bodies are random bytes, damaged JSON, and valid JSON of which parts were replaced by what is
most likely to hurt: huge numbers, NaN, lone surrogates, control characters, deep nesting, wrong
types; so are ids in paths and the query. Every one must be answered, with a status below 500 and,
from 400 on, with a problem; and memory must not grow. The shop is that of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from msgspec import Struct

from rove.engine import Engine
from serving import api
from serving.catalogue import CatalogueWriter
from serving.channels import Channel, answer_many
from serving.encoder import Encoded, EncoderClient
from serving.gateway import GatewayApi, gateway_router
from serving.http import App, Router
from serving.problems import PROBLEM_TYPE
from serving.shard import ShardApi
from serving.turns import EngineTurns, Limits
from tests.worlds import ENCODER, NUM_ITEMS, SIZE, Shop, unit_vectors

NUM_SHARDS = 2
MAX_BODY_BYTES = 200_000
MAX_EVENTS = 100
_AT_ONCE = 32
_USER_CACHE_MB = 1.0
_ANYWHERE = (400, 404, 405)  # a damaged path may be another one, or none
_IDS = [f"item-{number}" for number in range(NUM_ITEMS)]
_USERS = [f"user-{number}" for number in range(50)]

Random = np.random.Generator
Json = Any


class Case(Struct, frozen=True):
    """One request: to the gateway, or to a shard itself."""

    shard: int | None
    method: str
    path: str
    query: bytes
    body: bytes
    statuses: frozenset[int]
    """What it may be answered with."""


class Answer(Struct, frozen=True):
    """What the application said."""

    status: int
    content_type: str
    body: bytes

    def wrong(self, statuses: frozenset[int]) -> str | None:
        """Return what is wrong with the answer; None when nothing is."""
        if self.status not in statuses:
            return f"status {self.status}"
        if self.status >= 400 and self.content_type != PROBLEM_TYPE:
            return f"{self.status} is no problem but {self.content_type}"
        if self.status >= 400 and json.loads(self.body)["status"] != self.status:
            return "the problem has another status"
        return None


class _Encoder(EncoderClient):
    """The vector of a text is a random direction that the text decides."""

    def __init__(self) -> None:  # nothing of Ray
        pass

    async def encode(self, texts: Sequence[str]) -> Encoded:
        rows = [self._vector(text) for text in texts]
        return Encoded(np.array(rows, np.float32).reshape(len(rows), SIZE), ENCODER)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)

    async def name(self) -> str:
        return ENCODER

    async def vector(self, text: str) -> Any:
        """Return the vector of a search."""
        return self._vector(text)

    @staticmethod
    def _vector(text: str) -> Any:
        return unit_vectors(1, np.random.default_rng(zlib.crc32(text.encode())), SIZE)[0]


class Service:
    """The applications of a gateway and of its shards in this process."""

    def __init__(self, gateway: App, shards: Sequence[App]) -> None:
        self._gateway, self._shards = gateway, shards

    async def ask(self, case: Case) -> Answer:
        """Return the answer to one request, as an ASGI server gets it."""
        app = self._gateway if case.shard is None else self._shards[case.shard]
        scope: MutableMapping[str, Any] = {
            "type": "http",
            "method": case.method,
            "path": case.path,
            "raw_path": case.path.encode("latin-1"),
            "query_string": case.query,
            "headers": [],
        }
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": case.body}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        headers = dict(sent[0]["headers"])
        content_type = headers.get(b"content-type", b"").decode()
        return Answer(sent[0]["status"], content_type, sent[1]["body"])


@asynccontextmanager
async def service(folder: Path) -> Any:
    """Run the applications on a small shop in `folder`."""
    shop = Shop(folder, shards=NUM_SHARDS)
    shop.release()
    encoder = _Encoder()
    turns = [_turns(shop, shard) for shard in range(NUM_SHARDS)]
    for each in turns:
        await each.start()
    routers = [
        ShardApi(
            each, encoder.vector, shard=shard, num_shards=NUM_SHARDS, max_events=MAX_EVENTS
        ).router()
        for shard, each in enumerate(turns)
    ]

    async def sync() -> None:
        await asyncio.gather(*(each.call(Engine.sync) for each in turns))

    config = shop.config()
    serving = config.serving.model_copy(update={"max_events": MAX_EVENTS})
    config = config.model_copy(update={"serving": serving})
    writer = CatalogueWriter(config.store, encoder, sync)
    channels = [
        Channel(_many(router), max_batch=64, max_queue=1000, max_bytes=MAX_BODY_BYTES)
        for router in routers
    ]
    api_of_users = GatewayApi(channels, encoder, max_events=MAX_EVENTS)
    gateway = gateway_router(config, api_of_users, channels, encoder, writer, sync)
    try:
        yield Service(
            App(gateway, MAX_BODY_BYTES), [App(router, MAX_BODY_BYTES) for router in routers]
        )
    finally:
        writer.close()
        for each in turns:
            await each.close()


def _turns(shop: Shop, shard: int) -> EngineTurns[Engine]:
    limits = Limits(max_batch=64, max_queue=1000, max_events=MAX_EVENTS, sync_interval_s=1.0)
    return EngineTurns(lambda: shop.engine(shard, _USER_CACHE_MB), limits)


def _many(router: Router) -> Callable[[bytes], Awaitable[bytes]]:
    return lambda payload: answer_many(payload, router.respond)


_ODD: tuple[Json, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -1e308, 5e-324,
    -0.0, 1.5, "", " ", "a", "\x00", "\x1f", "\x7f", "\u202e", "\ud800", "\udfff", "\U0001f600",
    "x" * 257, "\u00e9" * 200, "y" * 100_001, "../../etc/passwd", "/etc/passwd", "..%2f..%2f",
    "%00", "{}", "[]",
    "NaN", "null", "0", "1e999", [], {}, [[]], [None], {"": None}, {"a": {"b": {}}},
    [0] * 200, ["a"] * 200, {str(number): number for number in range(200)},
)  # fmt: skip
_RAW = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"0" * 300, b"9" * 5000, b"-",
        b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf{}", b"{", b"}", b"[", b'"', b"\\", b"\\u", b",",
        b"[" * 5000, b'{"a":' * 5000, b"//", b"\x00", b"1.", b".5", b"0x10", b"tru")  # fmt: skip


class Requests:
    """An endless source of requests."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._number = 0

    def __iter__(self) -> Iterator[Case]:
        while True:
            yield self.next()

    def next(self) -> Case:
        """Return one request."""
        self._number += 1
        shard = int(self._rng.integers(NUM_SHARDS)) if self._rng.random() < 0.4 else None
        endpoints = api.ENDPOINTS if shard is None else api.SHARD_ENDPOINTS
        if self._rng.random() < 0.6:
            endpoints = tuple(endpoint for endpoint in endpoints if endpoint.body is not None)
        endpoint = endpoints[self._rng.integers(len(endpoints))]
        problems = {status for status in endpoint.problems if status < 500}
        statuses = {endpoint.status, *problems, *_ANYWHERE}
        method = endpoint.method
        if self._rng.random() < 0.02:
            statuses |= {one.status for one in api.ENDPOINTS}
            method = str(self._rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "X"]))
        body = b"" if endpoint.body is None else self._body(self._valid(endpoint.name))
        path = self._path(endpoint.path)
        return Case(shard, method, path, self._query(), body, frozenset(statuses))

    def _valid(self, name: str) -> Json:
        """Return a body that the route takes, or would take."""
        rng = self._rng
        user, item = str(rng.choice(_USERS)), str(rng.choice(_IDS))
        if name == "rank":
            candidates: list[Json] = [None, {"item_ids": _IDS[:9]}, {"category": "c1"},
                                      {"query": "a bag"}]  # fmt: skip
            contexts: list[Json] = [None, "text", {"device": "a", "age": 3.5, "new": True}]
            return {
                "user_id": user,
                "k": int(rng.integers(1, 6)),
                "candidates": candidates[rng.integers(4)],
                "context": contexts[rng.integers(3)],
                "event_id": self._event_id() if rng.random() < 0.5 else None,
                "explain": bool(rng.random() < 0.2),
                "excluded_items": [item],
                "baseline_items": [],
            }
        if name == "events":
            return {"interactions": [self._row() for _ in range(rng.integers(0, 4))]}
        if name == "reward":
            return {"value": float(rng.random()), "slot": 0, "user_id": user}
        if name == "activate":
            return {"user_id": user}
        if name == "put_items":
            return {"items": [{"item_id": item, "title": "A", "tags": ["x"]}]}
        if name == "embeddings":
            return {"input": ["a", "b"], "encoding_format": "float"}
        return {"title": "A CUP", "description": "blue", "category": "c1", "tags": ["x"]}

    def _row(self) -> Json:
        rng = self._rng
        return {
            "interaction_id": f"i-{rng.integers(10_000)}",
            "user_id": str(rng.choice(_USERS)),
            "item_id": str(rng.choice(_IDS)),
            "type": str(rng.choice(["click", "purchase", "rating", "dwell", "watch", "reward"])),
            "value": float(rng.integers(5)),
            "duration_s": 3.0,
            "watch_ratio": 0.5,
            "event_id": self._event_id() if rng.random() < 0.3 else None,
            "slot": 0,
        }

    def _event_id(self) -> str:
        return f"e-{self._rng.integers(max(1, self._number - 200), self._number + 1)}"

    def _body(self, valid: Json) -> bytes:
        kind = self._rng.random()
        if kind < 0.05:
            return self._rng.bytes(int(self._rng.integers(0, 300)))
        if kind < 0.1:
            return _RAW[self._rng.integers(len(_RAW))]
        if kind < 0.6:
            for _ in range(self._rng.integers(1, 4)):
                valid = self._changed(valid)
        body = json.dumps(valid, ensure_ascii=bool(self._rng.random() < 0.5)).encode(
            "utf-8", "surrogatepass"
        )
        return self._damaged(body) if kind > 0.8 else body

    def _changed(self, value: Json) -> Json:
        """Return `value` with one part replaced, taken away, doubled or added."""
        rng = self._rng
        if isinstance(value, dict) and value and rng.random() < 0.9:
            key = list(value)[rng.integers(len(value))]
            rest = {name: part for name, part in value.items() if name != key}
            if rng.random() < 0.1:
                return rest
            if rng.random() < 0.1:
                return {**value, str(self._odd()): value[key]}
            return {**rest, key: self._changed(value[key])}
        if isinstance(value, list) and value and rng.random() < 0.8:
            index = int(rng.integers(len(value)))
            if rng.random() < 0.1:
                return value * 40
            return [*value[:index], self._changed(value[index]), *value[index + 1 :]]
        return self._odd()

    def _odd(self) -> Json:
        return _ODD[self._rng.integers(len(_ODD))]

    def _damaged(self, body: bytes) -> bytes:
        """Return `body` with some bytes changed, added or cut off."""
        rng = self._rng
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(len(body) + 1))
            piece = (
                _RAW[rng.integers(len(_RAW))]
                if rng.random() < 0.5
                else rng.bytes(int(rng.integers(4)))
            )
            body = body[:at] + piece + body[at + int(rng.integers(0, 3)) :]
        return body[: rng.integers(len(body) + 1)] if rng.random() < 0.2 else body

    def _path(self, template: str) -> str:
        known = {"item_id": _IDS, "user_id": _USERS, "event_id": [self._event_id()]}

        def filled(match: re.Match[str]) -> str:
            return self._part(str(self._rng.choice(known.get(match[1], ["shop"]))))

        return re.sub(r"\{(\w+)\}", filled, template)

    def _part(self, known: str) -> str:
        kind = self._rng.random()
        if kind < 0.7:
            return known
        if kind < 0.8:
            return quote(self._rng.bytes(int(self._rng.integers(1, 20))), safe="")
        if kind < 0.85:
            return "".join(map(chr, self._rng.integers(33, 256, 8)))
        return quote(str(self._odd()).encode("utf-8", "surrogatepass"), safe="")

    def _query(self) -> bytes:
        kind = self._rng.random()
        if kind < 0.6:
            return b""
        if kind < 0.8:
            return f"user_id={self._rng.choice(_USERS)}".encode()
        value = quote(str(self._odd()).encode("utf-8", "surrogatepass"))
        return [b"user_id=%ff", b"&&=&;=", b"user_id", b"user_id=", self._rng.bytes(20),
                f"user_id={value}".encode()][self._rng.integers(6)]  # fmt: skip


class Report(Struct, kw_only=True):
    """What came out."""

    statuses: Counter[int]
    wrong: list[str]
    memory_mb: list[tuple[int, float]]
    """Resident memory after so many requests."""
    num_items: int
    """In the catalogue at the end; some requests put new ones there."""
    duration_s: float


async def play(folder: Path, num_requests: int, seed: int) -> Report:
    """Ask `num_requests` requests, some at a time, and judge the answers."""
    source = iter(Requests(np.random.default_rng(seed)))
    report = Report(statuses=Counter(), wrong=[], memory_mb=[], num_items=0, duration_s=0.0)
    started = time.perf_counter()
    async with service(folder) as running:
        for first in range(0, num_requests, _AT_ONCE):
            cases = [next(source) for _ in range(min(_AT_ONCE, num_requests - first))]
            answers = await asyncio.gather(*map(running.ask, cases), return_exceptions=True)
            for case, answer in zip(cases, answers, strict=True):
                _judge(case, answer, report)
            if first % (num_requests // 20 // _AT_ONCE * _AT_ONCE or _AT_ONCE) == 0:
                report.memory_mb.append((first, _resident_mb()))
        state = await running.ask(Case(0, "GET", "/readyz", b"", b"", frozenset({200})))
        report.num_items = json.loads(state.body)["num_items"]
    report.duration_s = time.perf_counter() - started
    return report


def _judge(case: Case, answer: Answer | BaseException, report: Report) -> None:
    if isinstance(answer, BaseException):
        if not isinstance(answer, Exception):
            raise answer
        report.wrong.append(f"{answer!r} from {case}"[:2000])
        return
    report.statuses[answer.status] += 1
    if (wrong := answer.wrong(case.statuses)) is not None:
        report.wrong.append(f"{wrong} from {case}: {answer.body!r}"[:2000])


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Run and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(play(Path(folder), options.requests, options.seed))
    print(f"{options.requests:,} requests in {report.duration_s:.0f} s, seed {options.seed}")
    print("statuses: " + ", ".join(f"{k}: {v:,}" for k, v in sorted(report.statuses.items())))
    print("memory:   " + ", ".join(f"{mb:.0f} MB at {at:,}" for at, mb in report.memory_mb))
    print(f"items:    {NUM_ITEMS} at first, {report.num_items:,} at the end")
    print(f"wrong:    {len(report.wrong)}")
    for line in report.wrong[:20]:
        print(f"  {line}")
    raise SystemExit(bool(report.wrong))


if __name__ == "__main__":
    main()
