"""What both clients are made of."""

from __future__ import annotations

import ssl
import time
from random import Random
from typing import Any

import httpx
from msgspec import Struct

from rove.client.errors import ClientError
from rove.client.recording import OnFull, OnRejected, Recording
from rove.client.steps import Answer, Lost, Send
from rove.client.talks import Talks
from rove.errors import shown

CONNECT_S = 2.0
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)
TIMEOUT_HEADER = "x-request-timeout-s"
"""How long this client waits: what the server cannot do by then it need not begin."""
MAX_TIMEOUT_S = 3600.0
"""The longest that a server takes."""
_JSON = "application/json"


class HttpOptions(Struct, frozen=True, kw_only=True):
    """How the client of httpx is made."""

    base_url: str
    headers: dict[str, str]
    verify: ssl.SSLContext | bool


class BaseClient:
    """What a client remembers; see `RoveClient` for what the arguments mean."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        direct: bool = True,
        timeout_s: float = 10.0,
        batch_rows: int = 100,
        batch_wait_s: float = 0.05,
        max_rows: int = 10_000,
        on_full: OnFull = "block",
        on_rejected: OnRejected | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"url must start with http:// or https://, got {shown(url)}")
        for name, number in (("timeout_s", timeout_s), ("batch_rows", batch_rows)):
            if number <= 0:
                raise ClientError(f"{name} must be positive, got {number}")
        if max_rows < batch_rows:
            raise ClientError(f"max_rows = {max_rows} must be at least batch_rows = {batch_rows}")
        self.url = url
        self._timeout_s = timeout_s
        self._talks = Talks(direct=direct, timeout_s=timeout_s, clock=time.monotonic, rng=Random())
        self._recording = Recording(
            batch_rows=batch_rows,
            batch_wait_s=batch_wait_s,
            max_rows=max_rows,
            on_full=on_full,
            on_rejected=on_rejected,
            clock=time.monotonic,
        )
        headers = {"accept": _JSON}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._open(HttpOptions(base_url=url, headers=headers, verify=verify))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _open(self, options: HttpOptions) -> None:
        raise NotImplementedError


def request_of(step: Send) -> dict[str, Any]:
    """Return the arguments of httpx for a request."""
    headers = {TIMEOUT_HEADER: f"{min(max(step.timeout_s, 0.001), MAX_TIMEOUT_S):.3f}"}
    if step.body:
        headers["content-type"] = _JSON
    return {
        "method": step.method,
        "url": step.path,
        "content": step.body or None,
        "headers": headers,
        "timeout": httpx.Timeout(step.timeout_s, connect=min(step.timeout_s, CONNECT_S)),
    }


def answer_of(response: httpx.Response) -> Answer:
    """Return what a talk sees of a response."""
    return Answer(status=response.status_code, headers=response.headers, body=response.content)


def lost(error: httpx.RequestError) -> Lost:
    """Return what a talk sees of a request that did not get through."""
    return Lost(f"{type(error).__name__}: {error}")
