"""The HTTP layer, called as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from rove.errors import InvalidInput, NotFound, Overloaded, PayloadTooLarge
from rove.events import RankRequest
from serving.http import App, Request, Response, Router, decoder, problem

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


def small_app() -> App:
    router = Router()
    router.add("POST", "/fixed", echo)
    router.add("GET", "/things/{id}", echo)
    router.add("DELETE", "/things/{id}", missing)
    router.add("POST", "/things/{id}/part", echo)
    return App(router, MAX_BODY_BYTES)


def call(method: str, path: str, *pieces: bytes, root_path: str = "", query: bytes = b"") -> Answer:
    """Call the application with the body in pieces."""
    scope: MutableMapping[str, Any] = {
        "type": "http",
        "method": method,
        "path": root_path + path,
        "raw_path": (root_path + path).encode(),
        "root_path": root_path,
        "query_string": query,
        "headers": [],
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
