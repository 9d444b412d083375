"""The HTTP layer: a request, a response, routes and an ASGI application, and nothing else.

- A body is read once, up to a limit, and reaches its handler as bytes.
- A path is matched on its percent-encoded form, so that an id may contain a slash (`%2F`).
- `Request` and `Response` are array-like msgpack records too: the gateway sends them to a shard as
  they are.
- Who may call, and how often, is checked before the body is read (`serving.access`).
- `x-request-timeout-s` is how long the client waits. The time left travels with a request to the
  shard; once it is over, the request is answered 504 and leaves the queues it waits in.
- Errors raised on purpose become `application/problem+json`; others are left to crash.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote

import msgspec
from msgspec import Struct

from rove.config import AccessSection
from rove.errors import InvalidInput, NotFound, PayloadTooLarge, RoveError, shown
from rove.events import MAX_ID_LENGTH, MAX_TEXT_LENGTH
from serving.access import Access, Guard
from serving.asgi import (
    Disconnected,
    Receive,
    Scope,
    Send,
    headers_of,
    lifespan,
    path_of,
    read_body,
)
from serving.problems import (
    PROBLEM_TYPE,
    DeadlineExceeded,
    MethodNotAllowed,
    problem_body,
    problem_headers,
)

T = TypeVar("T")

JSON = "application/json"
MSGPACK = "application/msgpack"
NO_CONTENT = 204
TIMEOUT_HEADER = "x-request-timeout-s"
_HEADERS = (TIMEOUT_HEADER.encode(), b"authorization", b"ocp-apim-subscription-key")
_VARIABLE = re.compile(r"\{\w+\}")
_MAX_TIMEOUT_S = 3600.0
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
    deadline_s: float = 0.0
    """When it must be answered, in this process's monotonic time; 0: whenever. Between processes,
    the seconds left."""

    def argument(self, name: str, max_length: int = MAX_ID_LENGTH) -> str | None:
        """Return the first value of a query parameter, an id unless it may be longer."""
        if not self.query:
            return None
        try:
            values = parse_qs(self.query, keep_blank_values=True, errors="strict").get(name)
        except UnicodeDecodeError:
            raise InvalidInput(f"the query is not UTF-8: {shown(self.query)}") from None
        if values and not 0 < len(values[0]) <= max_length:
            raise InvalidInput(
                f"{name} must have 1 to {max_length} characters, got {shown(values[0])}",
                field=name,
            )
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
    return Response(error.status, problem_body(error), PROBLEM_TYPE, problem_headers(error))


class _Route(Struct, frozen=True):
    handler: Handler
    access: Access


class Router:
    """Finds the handler of a request: fixed paths by one lookup, then those with variable parts."""

    def __init__(self) -> None:
        self._fixed: dict[str, dict[str, _Route]] = {}
        self._variable: dict[int, list[tuple[tuple[str, ...], dict[str, _Route]]]] = {}

    def add(self, method: str, path: str, handler: Handler, access: Access = "admin") -> None:
        """Serve `method path` with `handler`; `{name}` stands for one variable part.

        `{name}:verb` stands for one that ends so, and goes before `{name}`.
        """
        route = _Route(handler, access)
        if "{" not in path:
            self._fixed.setdefault(path, {})[method] = route
            return
        parts = tuple(_VARIABLE.sub("", part) for part in path.split("/")[1:])
        patterns = self._variable.setdefault(len(parts), [])
        for known, methods in patterns:
            if known == parts:
                methods[method] = route
                return
        place = 0 if any(part.startswith(":") for part in parts) else len(patterns)
        patterns.insert(place, (parts, {method: route}))

    def access(self, request: Request) -> Access:
        """Return who may make the request; any key may learn that a path does not exist."""
        methods = self._find(request)
        route = None if methods is None else methods.get(request.method)
        return "read" if route is None else route.access

    async def respond(self, request: Request) -> Response:
        """Return the answer to `request`; errors raised on purpose come as problem+json."""
        methods = self._find(request)
        if methods is None:
            return problem(NotFound(f"no such path: {shown(request.path)}; see /docs"))
        route = methods.get(request.method)
        if route is None:
            return _not_allowed(request, sorted(methods))
        try:
            if request.params:
                request.params = tuple(_unquoted(part) for part in request.params)
            if request.deadline_s:
                return await _in_time(route.handler, request)
            return await route.handler(request)
        except RoveError as error:
            return problem(error)

    def _find(self, request: Request) -> dict[str, _Route] | None:
        return self._fixed.get(request.path) or self._match(request)

    def _match(self, request: Request) -> dict[str, _Route] | None:
        parts = request.path.split("/")[1:]
        for pattern, methods in self._variable.get(len(parts), ()):
            pairs = list(zip(pattern, parts, strict=True))
            if all(_matches(fixed, part) for fixed, part in pairs):
                request.params = tuple(
                    part.removesuffix(fixed) for fixed, part in pairs if _is_variable(fixed)
                )
                return methods
        return None


def _is_variable(fixed: str) -> bool:
    return not fixed or fixed[0] == ":"


def _matches(fixed: str, part: str) -> bool:
    if not _is_variable(fixed):
        return part == fixed
    return part.endswith(fixed) and len(part) > len(fixed)


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


async def _in_time(handler: Handler, request: Request) -> Response:
    """Return the handler's answer; cancel it and raise `DeadlineExceeded` when time runs out."""
    late = DeadlineExceeded(
        f"{TIMEOUT_HEADER} ran out before the answer was there; what has an id may be sent again "
        "with the same one"
    )
    left_s = request.deadline_s - time.monotonic()
    if left_s <= 0.0:
        raise late
    limit = asyncio.timeout(left_s)
    try:
        async with limit:
            return await handler(request)
    except TimeoutError:
        if limit.expired():
            raise late from None
        raise


class App:
    """The ASGI application of a router."""

    def __init__(self, router: Router, max_body_bytes: int, guard: Guard | None = None) -> None:
        self._router = router
        self._max_body_bytes = max_body_bytes
        self._guard = guard or Guard(AccessSection())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            try:
                await _answer(await self._respond(scope, receive), send)
            except Disconnected:
                return

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        arrived_s = time.monotonic()
        request = Request(scope["method"], path_of(scope), scope["query_string"].decode("latin-1"))
        timeout, authorization, key = headers_of(scope, *_HEADERS)
        if authorization is None and key is not None:  # clients of Azure Personalizer
            authorization = f"Bearer {key}"
        try:
            self._guard.admit(self._router.access(request), authorization)
            if timeout is not None:
                request.deadline_s = arrived_s + _timeout_s(timeout)
            request.body = await read_body(receive, self._max_body_bytes)
        except RoveError as error:
            return problem(error)
        return await self._router.respond(request)


def _timeout_s(text: str) -> float:
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0.0 < timeout_s <= _MAX_TIMEOUT_S:
        raise InvalidInput(
            f"{TIMEOUT_HEADER} must be seconds above 0, at most {_MAX_TIMEOUT_S:g}, "
            f"got {shown(text)}"
        )
    return timeout_s


async def _answer(response: Response, send: Send) -> None:
    headers = []
    if response.status != NO_CONTENT:
        headers = [
            (b"content-type", response.content_type.encode()),
            (b"content-length", b"%d" % len(response.body)),
        ]
    for name, value in response.headers:
        headers.append((name.encode("latin-1"), value.encode("latin-1")))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
