"""Connections between replicas, against small servers on this machine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from serving.links import Link, LinkError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def played(handler: Handler, script: Callable[[Link], Awaitable[None]]) -> None:
    """Run `script` with a link to a server that handles each connection with `handler`."""

    async def run() -> None:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            await script(Link("127.0.0.1", server.sockets[0].getsockname()[1]))
            server.close()

    asyncio.run(run())


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Return the path and the body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", head)
    assert length is not None
    return head.split()[1], await reader.readexactly(int(length[1]))


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_one_connection_serves_one_request_after_another() -> None:
    connections = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        for _ in range(3):
            path, body = await read_request(reader)
            writer.write(answer(path.encode() + b" " + body))
        writer.close()

    async def script(link: Link) -> None:
        for body in (b"", b"\r\n\r\n", b"x" * 1_000_000):
            assert await link.post("/a", body) == b"/a " + body

    played(echo, script)
    assert len(connections) == 1


def test_an_answer_may_come_in_pieces() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in answer(b"slow"):
            writer.write(bytes([byte]))
            await writer.drain()
        writer.close()

    async def script(link: Link) -> None:
        assert await link.post("/", b"") == b"slow"

    played(drip, script)


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await read_request(reader)
        writer.write(answer(body))
        writer.close()

    async def script(link: Link) -> None:
        assert await link.post("/", b"1") == b"1"
        assert await link.post("/", b"2") == b"2"  # perhaps before the close is known of
        await asyncio.sleep(0.05)
        assert await link.post("/", b"3") == b"3"

    played(once, script)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (answer(b"", "503 Service Unavailable"), "answered 503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "an answer without a content-length"),
        (b"", "closed by the other side"),
    ],
)
def test_anything_but_success_is_an_error(said: bytes, message: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        writer.close()

    async def script(link: Link) -> None:
        with pytest.raises(LinkError, match=re.escape(message)):
            await link.post("/", b"")

    played(handler, script)


def test_a_port_where_nothing_listens_is_an_error() -> None:
    async def unused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def script(link: Link) -> None:
        with pytest.raises(LinkError, match=re.escape("127.0.0.1:1/a")):
            await Link("127.0.0.1", 1).post("/a", b"")

    played(unused, script)
