"""The gateway's way to a shard, with a shard written by hand."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

import pytest

from rove.errors import Overloaded
from serving.channels import Channel, answer_many
from serving.http import Request, Response
from serving.problems import Unavailable


class Shard:
    """Echoes paths; `sizes` has the number of requests of each call."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def many(self, payload: bytes) -> bytes:
        answer = await answer_many(payload, self.respond)
        self.sizes.append(answer.count(b"application/json"))
        await self.gate.wait()
        if self.broken:
            raise Unavailable("the shard is away")
        return answer

    async def respond(self, request: Request) -> Response:
        if request.path == "/fails":
            raise ZeroDivisionError("a mistake of ours")
        return Response(200, request.path.encode())


def played(
    script: Callable[[Shard, Channel], Awaitable[None]], *, max_batch: int = 8, max_queue: int = 100
) -> None:
    async def run() -> None:
        shard = Shard()
        await script(shard, channel_to(shard, max_batch, max_queue))

    asyncio.run(run())


def channel_to(shard: Shard, max_batch: int, max_queue: int, max_bytes: int = 100_000) -> Channel:
    return Channel(shard.many, max_batch=max_batch, max_queue=max_queue, max_bytes=max_bytes)


def get(path: str) -> Request:
    return Request("GET", path)


def test_requests_that_wait_travel_together_and_each_gets_its_answer() -> None:
    async def script(shard: Shard, channel: Channel) -> None:
        shard.gate.clear()
        first = asyncio.create_task(channel.send(get("/first")))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(channel.send(get(f"/{i}"))) for i in range(11)]
        await asyncio.sleep(0.01)
        shard.gate.set()
        answers = await asyncio.gather(first, *others)
        assert [one.body.decode() for one in answers] == ["/first", *(f"/{i}" for i in range(11))]
        assert shard.sizes == [1, 8, 3]

    played(script)


def test_a_lone_request_does_not_wait() -> None:
    async def script(shard: Shard, channel: Channel) -> None:
        for number in range(3):
            assert (await channel.send(get(f"/{number}"))).status == 200
        assert shard.sizes == [1, 1, 1]

    played(script)


def test_a_shard_that_is_away_is_a_503_for_those_that_asked() -> None:
    async def script(shard: Shard, channel: Channel) -> None:
        shard.broken = True
        answer = await channel.send(get("/a"))
        assert answer.status == 503
        assert answer.headers == (("retry-after", "1"),)
        shard.broken = False
        assert (await channel.send(get("/b"))).status == 200

    played(script)


def test_one_request_that_breaks_the_shard_does_not_fail_the_others() -> None:
    async def script(shard: Shard, channel: Channel) -> None:
        answers = await asyncio.gather(channel.send(get("/fails")), channel.send(get("/b")))
        assert [answer.status for answer in answers] == [500, 200]

    played(script)


def test_a_full_channel_refuses() -> None:
    async def script(shard: Shard, channel: Channel) -> None:
        shard.gate.clear()
        waiting = [asyncio.create_task(channel.send(get("/a")))]
        await asyncio.sleep(0.01)
        waiting += [asyncio.create_task(channel.send(get("/b"))) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match=re.escape("2 requests wait for this shard")):
            await channel.send(get("/c"))
        shard.gate.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * 3

    played(script, max_queue=2)


def test_a_client_that_left_does_not_disturb_the_others() -> None:
    async def script(shard: Shard, channel: Channel) -> None:
        shard.gate.clear()
        first = asyncio.create_task(channel.send(get("/a")))
        second = asyncio.create_task(channel.send(get("/b")))
        await asyncio.sleep(0.01)
        first.cancel()
        shard.gate.set()
        assert (await second).body == b"/b"
        assert (await channel.send(get("/c"))).body == b"/c"

    played(script)


def test_a_call_is_bounded_in_bytes() -> None:
    """Bodies of 40 kB: two fit into 100 kB; one over the bound goes by itself."""

    async def script(shard: Shard, channel: Channel) -> None:
        shard.gate.clear()
        first = asyncio.create_task(channel.send(get("/first")))
        await asyncio.sleep(0.01)
        bodies = [b"x" * 40_000] * 3 + [b"x" * 150_000]
        others = [
            asyncio.create_task(channel.send(Request("POST", "/", body=body))) for body in bodies
        ]
        await asyncio.sleep(0.01)
        shard.gate.set()
        await asyncio.gather(first, *others)
        assert shard.sizes == [1, 2, 1, 1]

    played(script)


def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    async def script(shard: Shard, channel: Channel) -> None:
        shard.gate.clear()
        first = asyncio.create_task(channel.send(get("/first")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        given_up, kept = (asyncio.create_task(channel.send(get(path))) for path in ("/a", "/b"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        shard.gate.set()
        assert (await first).body == b"/first"
        assert (await kept).body == b"/b"
        assert shard.sizes == [1, 1]

    played(script)


def test_the_time_left_goes_with_a_request() -> None:
    """A deadline is a time of this process here and of the shard's there, a few ms later."""
    deadlines = []

    async def respond(request: Request) -> Response:
        deadlines.append(request.deadline_s)
        return Response()

    async def many(payload: bytes) -> bytes:
        return await answer_many(payload, respond)

    async def script() -> None:
        channel = Channel(many, max_batch=8, max_queue=8, max_bytes=1000)
        await channel.send(Request("GET", "/", deadline_s=time.monotonic() + 5.0))
        await channel.send(get("/"))

    asyncio.run(script())
    assert deadlines[0] - time.monotonic() == pytest.approx(5.0, abs=0.5)
    assert deadlines[1] == 0.0
