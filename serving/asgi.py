"""What an ASGI server hands over: where a request goes, some of its headers, its body."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rove.errors import PayloadTooLarge
from serving.problems import BodyTimeout

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_BODY_S = 30.0  # a body that came with its headers needs none of it


class Disconnected(Exception):
    """The client has gone before its body was there."""


def path_of(scope: Scope) -> str:
    """Return the path, percent-encoded, below where the application is mounted."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw[len(scope.get("root_path", "")) :].decode("latin-1") or "/"


def headers_of(scope: Scope, *names: bytes) -> list[str | None]:
    """Return the values of the headers `names` (in lower case); None for what was not sent."""
    values: list[str | None] = [None] * len(names)
    for name, value in scope["headers"]:
        if name in names:
            values[names.index(name)] = value.decode("latin-1")
    return values


async def read_body(receive: Receive, max_bytes: int, timeout_s: float = _BODY_S) -> bytes:
    """Return the whole body; raise `PayloadTooLarge` once it is over `max_bytes`."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body") and len(body) <= max_bytes:
        try:
            async with asyncio.timeout(timeout_s):
                body = await _rest(receive, body, max_bytes)
        except TimeoutError:
            raise BodyTimeout(f"the body was not there after {timeout_s:g} s") from None
    if message["type"] == "http.disconnect":
        raise Disconnected
    if len(body) > max_bytes:
        raise PayloadTooLarge(f"the body is over {max_bytes} bytes; send less at a time")
    return body


async def _rest(receive: Receive, body: bytes, max_bytes: int) -> bytes:
    """Return `body` and what follows, up to the first piece that is over `max_bytes`."""
    pieces, size, more = [body], len(body), True
    while more and size <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        more = message.get("more_body", False)
    return b"".join(pieces)


async def lifespan(receive: Receive, send: Send) -> None:
    """Say yes to the server's start and end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
