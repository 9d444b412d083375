"""The HTTP layer: a request, a response, routes and an ASGI application, and nothing else.

- A body is read once, up to a limit, and reaches its handler as bytes.
- A path is matched on its percent-encoded form, so that an id may contain a slash (`%2F`).
- `Request` and `Response` are array-like msgpack records too: the gateway sends them to a shard as
  they are.
- Errors raised on purpose become `application/problem+json`; others are left to crash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote

import msgspec
from msgspec import Struct

from rove.errors import InvalidInput, NotFound, PayloadTooLarge, RoveError, shown
from rove.events import MAX_TEXT_LENGTH
from serving.problems import PROBLEM_TYPE, MethodNotAllowed, problem_body, retry_after_s

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

JSON = "application/json"
MSGPACK = "application/msgpack"
_TOO_LONG = f"of length <= {MAX_TEXT_LENGTH}"


class Request(Struct, array_like=True):
    """One request as a handler sees it."""

    method: str
    path: str
    """Percent-encoded, relative to where the application is mounted."""
    query: str = ""
    body: bytes = b""
    event_id: str = ""
    """The id that a gateway gave the decision, for a body that names none."""
    params: tuple[str, ...] = ()
    """The decoded variable parts of the path, in order."""

    def argument(self, name: str) -> str | None:
        """Return the first value of a query parameter."""
        values = parse_qs(self.query, errors="strict").get(name) if self.query else None
        return values[0] if values else None


class Response(Struct, array_like=True):
    """One answer; `headers` come on top of the content type and length."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]


class Decoder(Struct, frozen=True):
    """Reads bodies of one type."""

    json: msgspec.json.Decoder[Any]

    def __call__(self, body: bytes | msgspec.Raw) -> Any:
        """Return the value in `body`; raise `InvalidInput` or `PayloadTooLarge`."""
        try:
            return self.json.decode(body)
        except msgspec.ValidationError as error:
            message = f"{error}"
            if _TOO_LONG in message:
                raise PayloadTooLarge(f"{message}; shorten the text") from None
            raise InvalidInput(f"{message}; see /docs for the types") from None
        except msgspec.DecodeError as error:
            raise InvalidInput(f"the body is not valid JSON: {error}") from None
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"the body is not UTF-8: byte {shown(error.object[error.start : error.start + 1])}"
                f" at {error.start} of a string"
            ) from None
        except RecursionError:
            raise InvalidInput("the body is nested too deeply; see /docs for the types") from None


def decoder(kind: Any) -> Decoder:
    """Return the decoder of JSON bodies of type `kind`."""
    return Decoder(msgspec.json.Decoder(kind))


def problem(error: RoveError) -> Response:
    """Return the problem+json answer for `error`."""
    wait_s = retry_after_s(error)
    headers = () if wait_s is None else (("retry-after", str(wait_s)),)
    return Response(error.status, problem_body(error), PROBLEM_TYPE, headers)


class Router:
    """Finds the handler of a request: fixed paths by one lookup, then those with variable parts."""

    def __init__(self) -> None:
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._variable: dict[int, list[tuple[tuple[str, ...], dict[str, Handler]]]] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Serve `method path` with `handler`; `{name}` stands for one variable part."""
        if "{" not in path:
            self._fixed.setdefault(path, {})[method] = handler
            return
        parts = tuple("" if part.startswith("{") else part for part in path.split("/")[1:])
        patterns = self._variable.setdefault(len(parts), [])
        for known, methods in patterns:
            if known == parts:
                methods[method] = handler
                return
        patterns.append((parts, {method: handler}))

    async def respond(self, request: Request) -> Response:
        """Return the answer to `request`; errors raised on purpose come as problem+json."""
        methods = self._fixed.get(request.path) or self._match(request)
        if methods is None:
            return problem(NotFound(f"no such path: {shown(request.path)}; see /docs"))
        handler = methods.get(request.method)
        if handler is None:
            return _not_allowed(request, sorted(methods))
        try:
            if request.params:
                request.params = tuple(_unquoted(part) for part in request.params)
            return await handler(request)
        except RoveError as error:
            return problem(error)

    def _match(self, request: Request) -> dict[str, Handler] | None:
        parts = request.path.split("/")[1:]
        for pattern, methods in self._variable.get(len(parts), ()):
            pairs = list(zip(pattern, parts, strict=True))
            if all(part == fixed if fixed else part for fixed, part in pairs):
                request.params = tuple(part for fixed, part in pairs if not fixed)
                return methods
        return None


def _not_allowed(request: Request, allowed: Sequence[str]) -> Response:
    answer = problem(
        MethodNotAllowed(
            f"{request.path} does not take {shown(request.method)}; use {' or '.join(allowed)}"
        )
    )
    answer.headers = (("allow", ", ".join(allowed)),)
    return answer


def _unquoted(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise InvalidInput(f"the path is not UTF-8: {shown(part)}") from None


class App:
    """The ASGI application of a router."""

    def __init__(self, router: Router, max_body_bytes: int) -> None:
        self._respond = router.respond
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        assert scope["type"] == "http", scope["type"]
        try:
            body = await read_body(receive, self._max_body_bytes)
        except PayloadTooLarge as error:
            response = problem(error)
        else:
            response = await self._respond(
                Request(
                    scope["method"], _path(scope), scope["query_string"].decode("latin-1"), body
                )
            )
        await _answer(response, send)


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """Return the whole body; raise `PayloadTooLarge` once it is over `max_bytes`."""
    message = await receive()
    body: bytes = message.get("body", b"")
    size = len(body)
    pieces = [body]
    while message.get("more_body") and size <= max_bytes:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
    if size > max_bytes:
        raise PayloadTooLarge(f"the body is over {max_bytes} bytes; send less at a time")
    return body if len(pieces) == 1 else b"".join(pieces)


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw[len(scope.get("root_path", "")) :].decode("latin-1") or "/"


async def _answer(response: Response, send: Send) -> None:
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", b"%d" % len(response.body)),
    ]
    for name, value in response.headers:
        headers.append((name.encode("latin-1"), value.encode("latin-1")))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
