"""Who may call which route and how often: in process, as an ASGI server calls the application."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs

from rove.access import ROLES, Key, Role, new_key, print_keys
from rove.config import AccessSection
from rove.errors import ConfigError
from serving import api
from serving.access import Access, Guard
from serving.http import App, Request, Response, Router

PATHS: dict[Access, str] = {
    "open": "/open", "read": "/read", "write": "/write", "admin": "/admin", "internal": "/internal",
}  # fmt: skip


class Answer(Struct):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        detail: str = json.loads(self.body)["detail"]
        return detail


class Keys:
    """A file of keys that changes, as `rove keys` changes it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self._keys: dict[str, Key] = {}

    def new(self, role: Role, **fields: Any) -> str:
        text, key = new_key(role, role, datetime.now(UTC), os.urandom(38), **fields)
        self._keys[key.id] = key
        self.write()
        return text

    def revoke(self, text: str) -> None:
        key_id = text.split("_")[1]
        self._keys[key_id] = structs.replace(self._keys[key_id], revoked=datetime.now(UTC))
        self.write()

    def write(self) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_bytes(print_keys(list(self._keys.values())))
        draft.replace(self.path)


def app(guard: Guard, handler: Callable[[Request], Awaitable[Response]] | None = None) -> App:
    """Return an application with a path of each kind."""

    async def respond(request: Request) -> Response:
        return Response(200, request.body)

    router = Router()
    for access, path in PATHS.items():
        router.add("POST", path, handler or respond, access)
    return App(router, 1000, guard)


def call(
    application: App, path: str, key: str | None = None, *, method: str = "POST", body: bytes = b"x"
) -> Answer:
    """Call with `Authorization: Bearer KEY`; a body is not handed over before it is asked for."""
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode("latin-1"))]
    scope: MutableMapping[str, Any] = {
        "type": "http", "method": method, "path": path, "query_string": b"", "headers": headers,
    }  # fmt: skip
    sent: list[MutableMapping[str, Any]] = []
    asked = []

    async def receive() -> MutableMapping[str, Any]:
        asked.append(True)
        return {"type": "http.request", "body": body}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    start, end = sent
    if start["status"] in (401, 403, 429):
        assert not asked, "the body was read"
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], answered, end["body"])


def statuses(application: App, key: str | None) -> list[int]:
    return [call(application, path, key).status for path in PATHS.values()]


def test_without_a_file_of_keys_all_but_the_internal_is_open() -> None:
    assert statuses(app(Guard(AccessSection())), None) == [200, 200, 200, 200, 401]


def test_each_role_may_call_what_it_and_lower_roles_may(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    texts = {role: keys.new(role) for role in ROLES}
    application = app(Guard(AccessSection(keys=keys.path)))
    assert statuses(application, None) == [200, 401, 401, 401, 401]
    assert statuses(application, texts["read"]) == [200, 200, 403, 403, 401]
    assert statuses(application, texts["write"]) == [200, 200, 200, 403, 401]
    assert statuses(application, texts["admin"]) == [200, 200, 200, 200, 401]


def test_the_internal_token_opens_the_internal_path_of_its_process_only(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.new("admin")
    section = AccessSection(keys=keys.path)
    one, other = Guard(section), Guard(section)
    assert statuses(app(one), one.internal_token) == [200, 401, 401, 401, 200]
    assert statuses(app(other), one.internal_token)[-1] == 401


@pytest.mark.parametrize("path", ["/nothing", "/read"])
def test_what_does_not_exist_is_known_to_keys_only(tmp_path: Path, path: str) -> None:
    keys = Keys(tmp_path)
    key = keys.new("read")
    application = app(Guard(AccessSection(keys=keys.path)))
    assert call(application, path, method="PUT").status == 401
    assert call(application, path, key, method="PUT").status in (404, 405)


def test_a_refusal_says_why(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    weak = keys.new("read")
    old = keys.new("admin", expires=datetime.now(UTC) - timedelta(days=1))
    application = app(Guard(AccessSection(keys=keys.path)))
    refused = call(application, "/write", weak)
    assert refused.headers["content-type"] == "application/problem+json"
    assert "may read, this needs write" in refused.detail
    assert "expired at" in call(application, "/write", old).detail
    for key, message in (
        (None, "an API key is needed"),
        (weak[:-1] + "g", "there is no such API key"),
        ("\xff" * 100, "there is no such API key"),
        ("", "there is no such API key"),
    ):
        answer = call(application, "/read", key)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="rove"'
        assert message in answer.detail


def test_no_refusal_repeats_the_secret(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    weak = keys.new("read")
    application = app(Guard(AccessSection(keys=keys.path)))
    for path, key in (("/write", weak), ("/read", weak[:-1]), ("/internal", weak)):
        assert weak.rpartition("_")[2][:-1].encode() not in call(application, path, key).body


def test_a_revoked_key_is_refused_within_a_second_and_its_successor_let_in(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    old = keys.new("write")
    application = app(Guard(AccessSection(keys=keys.path)))
    new = keys.new("write")
    time.sleep(1.05)
    assert [call(application, "/write", key).status for key in (old, new)] == [200, 200]
    keys.revoke(old)
    time.sleep(1.05)
    assert [call(application, "/write", key).status for key in (old, new)] == [401, 200]
    assert "was revoked at" in call(application, "/write", old).detail


@pytest.mark.parametrize("content", [b"{", None])
def test_a_file_that_is_damaged_or_gone_leaves_the_keys_in_force(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(tmp_path)
    key = keys.new("write")
    application = app(Guard(AccessSection(keys=keys.path)))
    if content is None:
        keys.path.unlink()
    else:
        keys.path.write_bytes(content)
    time.sleep(1.05)
    assert call(application, "/write", key).status == 200
    assert "the keys known before stay in force" in caplog.text
    keys.write()
    keys.revoke(key)
    time.sleep(1.05)
    assert call(application, "/write", key).status == 401


def test_a_server_does_not_start_without_its_file_of_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("make a first key with `rove keys new`")):
        Guard(AccessSection(keys=tmp_path / "none.json"))


def test_a_key_that_calls_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    """Each key has its own count: 2 at once here, 4 for the one that says so; then 0.1/s."""
    keys = Keys(tmp_path)
    one, other = keys.new("read"), keys.new("read", rate_per_s=0.5, burst=4)
    application = app(Guard(AccessSection(keys=keys.path, rate_per_s=0.1, burst=2)))
    assert [call(application, "/read", one).status for _ in range(3)] == [200, 200, 429]
    assert [call(application, "/read", other).status for _ in range(5)] == [200] * 4 + [429]
    refused = call(application, "/read", one)
    assert 9 <= int(refused.headers["retry-after"]) <= 10
    assert "0.1 times a second, 2 at once" in refused.detail
    assert call(application, "/open", one).status == 200


def test_every_endpoint_says_who_may_call_it() -> None:
    """Only the check of life is open; what changes something is never for readers."""
    assert [one.name for one in api.ENDPOINTS if one.access == "open"] == ["health"]
    for endpoint in (*api.ENDPOINTS, *api.SHARD_ENDPOINTS):
        if endpoint.method != "GET" and endpoint is not api.EMBEDDINGS:
            assert endpoint.access in ("write", "admin"), endpoint.name
    assert api.DELETE_USER.access == "admin"


def test_a_route_that_says_nothing_is_for_admins() -> None:
    async def respond(request: Request) -> Response:
        return Response()

    router = Router()
    router.add("GET", "/new", respond)
    assert router.access(Request("GET", "/new")) == "admin"
