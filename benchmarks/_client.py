"""A bounded HTTP load: keep-alive connections on raw sockets, one request at a time on each.

Runs in a process of its own (`python -m benchmarks._client FILE`), reads a `Load` as JSON from FILE
and prints a `Measurement`: the server's process shares nothing with it but the machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import uvloop
from msgspec import Struct

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_COUNTER = "{n}"
_MAX_LATENCIES = 2_000_000


class Load(Struct, frozen=True, kw_only=True):
    """What to send; `{n}` in a body becomes a number never used before."""

    host: str
    port: int
    num_connections: int
    warm_up_s: float
    duration_s: float
    requests: list[tuple[str, str, str]]
    """Method, path and body; the connections go round through them."""
    first_n: int = 0


class Measurement(Struct, frozen=True, kw_only=True):
    """What came back after the warm-up."""

    num_requests: int
    rate: float
    """Requests per second."""
    p50_ms: float
    p99_ms: float
    statuses: dict[int, int]
    """Status -> number of answers."""
    num_reconnects: int


class _Run:
    """What all connections share."""

    def __init__(self, load: Load) -> None:
        self.host = load.host
        self.port = load.port
        self.requests = load.requests
        self.n = load.first_n
        self.next = 0
        self.head = f"host: {load.host}:{load.port}\r\ncontent-type: application/json\r\n"
        self.started = time.perf_counter() + load.warm_up_s
        self.ends = self.started + load.duration_s
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.num_reconnects = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def request(self) -> bytes:
        """Return the bytes of the next request."""
        method, path, body = self.requests[self.next]
        self.next = (self.next + 1) % len(self.requests)
        if _COUNTER in body:
            self.n += 1
            body = body.replace(_COUNTER, str(self.n))
        content = body.encode()
        head = f"{method} {path} HTTP/1.1\r\n{self.head}content-length: {len(content)}\r\n\r\n"
        return head.encode() + content

    def reconnect(self, done: asyncio.Future[None]) -> None:
        """Open a connection in place of one that was closed."""
        task = asyncio.create_task(self.connect(done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def connect(self, done: asyncio.Future[None]) -> None:
        """Open a connection, which sends one request after another and then sets `done`."""
        try:
            await asyncio.get_running_loop().create_connection(
                partial(_Connection, self, done), self.host, self.port
            )
        except OSError as error:
            done.set_exception(error)


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run, done: asyncio.Future[None]) -> None:
        self._run = run
        self._done = done
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._run.request())

    def data_received(self, data: bytes) -> None:
        try:
            self._receive(data)
        except ValueError as error:
            self._done.set_exception(error)
            self._transport.close()

    def _receive(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_END)
        if end < 0:
            return
        head = self._received[:end].lower()
        start = head.index(_LENGTH) + len(_LENGTH)
        stop = head.find(b"\r", start)
        length = int(head[start : stop if stop >= 0 else None])
        if len(self._received) < end + len(_END) + length:
            return
        now = time.perf_counter()
        run = self._run
        if now >= run.started:
            run.latencies.append(now - self._sent)
            run.statuses[int(head[9:12])] += 1
        self._received = b""
        if now < run.ends and len(run.latencies) < _MAX_LATENCIES:
            self._send()
        else:
            self._transport.close()
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None and time.perf_counter() < self._run.ends:
            # HAProxy closes connections when its configuration changes: ask again on a new one.
            self._run.num_reconnects += 1
            self._run.reconnect(self._done)
        else:
            self._done.set_exception(error or ConnectionError("closed by the server"))


async def _measure(load: Load) -> Measurement:
    loop = asyncio.get_running_loop()
    run = _Run(load)
    waiting = []
    for _ in range(load.num_connections):
        done = loop.create_future()
        waiting.append(done)
        await run.connect(done)
    await asyncio.gather(*waiting)
    latencies_ms = np.array(run.latencies) * 1000.0
    return Measurement(
        num_requests=len(latencies_ms),
        rate=len(latencies_ms) / load.duration_s,
        p50_ms=float(np.quantile(latencies_ms, 0.5)),
        p99_ms=float(np.quantile(latencies_ms, 0.99)),
        statuses=dict(run.statuses),
        num_reconnects=run.num_reconnects,
    )


def main() -> None:
    """Send the load in the file named and print what came back."""
    load = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Load)
    print(msgspec.json.encode(uvloop.run(_measure(load))).decode())


if __name__ == "__main__":
    main()
