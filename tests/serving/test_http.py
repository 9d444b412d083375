"""The HTTP layer, called as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from rove.errors import InvalidInput, NotFound, Overloaded, PayloadTooLarge
from rove.events import RankRequest
from serving.asgi import Receive, read_body
from serving.http import App, Request, Response, Router, decoder, problem
from serving.problems import BodyTimeout

MAX_BODY_BYTES = 1000


class Answer(Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def echo(request: Request) -> Response:
    return Response(200, msgspec.json.encode([list(request.params), request.body.decode()]))


async def missing(request: Request) -> Response:
    raise NotFound("no such thing", thing=request.params[0])


async def empty(request: Request) -> Response:
    return Response(204)


async def slow(request: Request) -> Response:
    await asyncio.sleep(60.0)
    return Response()


async def slow_inside(request: Request) -> Response:
    raise TimeoutError("its own")


def small_app() -> App:
    router = Router()
    router.add("POST", "/fixed", echo)
    router.add("GET", "/things/{id}", echo)
    router.add("DELETE", "/things/{id}", missing)
    router.add("POST", "/things/{id}/part", echo)
    router.add("DELETE", "/fixed", empty)
    router.add("POST", "/slow", slow)
    router.add("POST", "/inside", slow_inside)
    return App(router, MAX_BODY_BYTES)


def call(
    method: str,
    path: str,
    *pieces: bytes,
    root_path: str = "",
    query: bytes = b"",
    timeout: str | None = None,
) -> Answer:
    """Call the application with the body in pieces."""
    scope: MutableMapping[str, Any] = {
        "type": "http",
        "method": method,
        "path": root_path + path,
        "raw_path": (root_path + path).encode(),
        "root_path": root_path,
        "query_string": query,
        "headers": [] if timeout is None else [(b"x-request-timeout-s", timeout.encode())],
    }
    incoming = [
        {"type": "http.request", "body": piece, "more_body": i < len(pieces) - 1}
        for i, piece in enumerate(pieces or (b"",))
    ]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return incoming.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(small_app()(scope, receive, send))
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    if start["status"] == 204:  # RFC 9110, section 8.6
        assert headers == {} and body["body"] == b""
    else:
        assert headers["content-length"] == str(len(body["body"]))
    return Answer(start["status"], headers, body["body"])


def test_a_body_in_pieces_reaches_its_handler_whole() -> None:
    assert call("POST", "/fixed", b"ab", b"", b"cd").json == [[], "abcd"]


def test_a_path_is_relative_to_where_the_application_is_mounted() -> None:
    assert call("POST", "/fixed", b"x", root_path="/shards/3").status == 200


def test_an_encoded_slash_is_part_of_an_id() -> None:
    assert call("GET", "/things/a%2Fb%20c").json == [["a/b c"], ""]
    assert call("POST", "/things/a%2Fb/part").json == [["a/b"], ""]


@pytest.mark.parametrize(
    "path", ["/nothing", "/things", "/things/", "/things/a/b", "/things//part"]
)
def test_an_unknown_path_is_a_404_problem(path: str) -> None:
    answer = call("GET", path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["type"] == "urn:rove:problem:not-found"


def test_a_wrong_method_is_a_405_that_lists_the_right_ones() -> None:
    answer = call("PATCH", "/things/a")
    assert answer.status == 405
    assert answer.headers["allow"] == "DELETE, GET"
    assert "use DELETE or GET" in answer.json["detail"]


def test_an_error_raised_on_purpose_becomes_a_problem_with_its_fields() -> None:
    answer = call("DELETE", "/things/a")
    assert answer.json == {
        "type": "urn:rove:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": "no such thing",
        "thing": "a",
    }


def test_an_answer_without_content_has_no_length() -> None:
    assert call("DELETE", "/fixed").status == 204


def test_what_is_not_answered_in_the_clients_time_is_a_504() -> None:
    started = time.monotonic()
    answer = call("POST", "/slow", timeout="0.05")
    assert time.monotonic() - started < 5.0
    assert answer.status == 504
    assert "x-request-timeout-s ran out" in answer.json["detail"]
    assert call("POST", "/fixed", b"x", timeout="5").status == 200


def test_a_time_limit_inside_is_not_taken_for_the_clients() -> None:
    with pytest.raises(TimeoutError, match=re.escape("its own")):
        call("POST", "/inside", timeout="5")


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e9", "soon", "", "\xff"])
def test_a_time_limit_that_is_none_is_a_400(timeout: str) -> None:
    answer = call("POST", "/fixed", timeout=timeout)
    assert answer.status == 400
    assert "must be seconds above 0" in answer.json["detail"]


def incoming(*messages: MutableMapping[str, Any]) -> Receive:
    """Return an ASGI `receive` that gives `messages` and then nothing."""
    left = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.sleep(60.0)
        return left.pop(0)

    return receive


PIECE = {"type": "http.request", "body": b"a", "more_body": True}


def test_a_body_that_does_not_come_is_given_up() -> None:
    with pytest.raises(BodyTimeout, match=re.escape("the body was not there after 0.05 s")):
        asyncio.run(read_body(incoming(PIECE, PIECE), 100, timeout_s=0.05))


@pytest.mark.parametrize("pieces", [[], [PIECE], [PIECE, PIECE]])
def test_half_a_body_is_not_taken_for_a_whole_one(pieces: list[dict[str, Any]]) -> None:
    """The client went away: nobody is left to be answered."""
    sent: list[Any] = []
    receive = incoming(*pieces, {"type": "http.disconnect"})

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/fixed", "query_string": b"", "headers": []}
    asyncio.run(small_app()(scope, receive, send))
    assert sent == []


def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(small_app()({"type": "websocket"}, incoming(), send))
    assert sent == [{"type": "websocket.close"}]


def test_a_body_over_the_limit_is_a_413() -> None:
    assert call("POST", "/fixed", b"x" * MAX_BODY_BYTES).status == 200
    assert call("POST", "/fixed", b"x" * 600, b"x" * 600).status == 413


def test_a_path_that_is_not_utf8_is_a_400() -> None:
    answer = call("GET", "/things/%ff")
    assert answer.status == 400
    assert "not UTF-8" in answer.json["detail"]


def test_overload_says_when_to_come_back() -> None:
    answer = problem(Overloaded("full", retry_after_s=1.2))
    assert answer.status == 429
    assert answer.headers == (("retry-after", "2"),)
    assert problem(NotFound("gone")).headers == ()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not valid JSON"),
        (b'{"user_id": NaN}', "the body is not valid JSON"),
        (b'{"user_id": "\xff"}', "the body is not UTF-8: byte b'\\xff'"),
        (b'{"user_id": 7}', "Expected `str`, got `int` - at `$.user_id`"),
        (b'{"user_id": "a", "kay": 7}', "unknown field `kay`"),
        (b'{"user_id": "a", "k": 0}', "Expected `int` >= 1 - at `$.k`"),
        (b'{"k": 1}', "missing required field `user_id`"),
        (b"[" * 100_000, "Expected `object`, got `array`"),
        (b'{"user_id":"a","context":' + b"[" * 100_000, "Expected `str | object | null`"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        decoder(RankRequest)(body)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InvalidInput, match=re.escape("nested too deeply")):
        decoder(dict[str, object])(b'{"a":' + b"[" * 100_000)


def test_a_text_that_is_too_long_is_a_413() -> None:
    body = msgspec.json.encode({"user_id": "a", "candidates": {"query": "x" * 1_000_000}})
    with pytest.raises(PayloadTooLarge, match=re.escape("shorten the text")):
        decoder(RankRequest)(body)


def test_a_request_survives_the_way_from_a_gateway_to_a_shard() -> None:
    request = Request("POST", "/v1/rank", "a=b", b"\x00\xff", "3-id")
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request)
    assert sent == request


def test_a_query_argument_is_decoded() -> None:
    assert Request("GET", "/", "user_id=a%20b&x=1").argument("user_id") == "a b"
    assert Request("GET", "/", "x=1").argument("user_id") is None
