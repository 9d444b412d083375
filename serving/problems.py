"""RFC 9457: what an error looks like on the wire (`application/problem+json`)."""

from __future__ import annotations

import math
import re

import msgspec

from rove.errors import RoveError

PROBLEM_TYPE = "application/problem+json"
_RESERVED = frozenset({"type", "title", "status", "detail"})
_RETRIED = frozenset({429, 503})
_RETRY_AFTER_S = 1.0
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class MethodNotAllowed(RoveError):
    """The path exists, with other methods."""

    status = 405
    title = "Method not allowed"


class Unauthorized(RoveError):
    """No key, or none that is valid."""

    status = 401
    title = "Unauthorized"


class Forbidden(RoveError):
    """The key's role is too low."""

    status = 403
    title = "Forbidden"


class BodyTimeout(RoveError):
    """The body did not arrive in time."""

    status = 408
    title = "Request timeout"


class DeadlineExceeded(RoveError):
    """The time that the client gave ran out; what it asked for may have been done or not."""

    status = 504
    title = "Deadline exceeded"


class Unavailable(RoveError):
    """A shard or the encoder does not answer; nothing was acknowledged."""

    status = 503
    title = "Service unavailable"


def problem_of(error: RoveError) -> dict[str, object]:
    """Return the members of the problem: `type` names the error's class, `detail` says it all."""
    name = _CAPITAL.sub("-", type(error).__name__).lower()
    fields = {key: value for key, value in error.fields.items() if key not in _RESERVED}
    return {
        "type": f"urn:rove:problem:{name}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        **fields,
    }


def problem_body(error: RoveError) -> bytes:
    """Return the JSON of `error`."""
    return msgspec.json.encode(problem_of(error))


def problem_headers(error: RoveError) -> tuple[tuple[str, str], ...]:
    """Return the headers that go with the answer."""
    if error.status == 401:
        return (("www-authenticate", 'Bearer realm="rove"'),)
    wait_s = retry_after_s(error)
    return () if wait_s is None else (("retry-after", str(wait_s)),)


def retry_after_s(error: RoveError) -> int | None:
    """Return the whole seconds of a `Retry-After` header; None when a retry would not help."""
    if error.status not in _RETRIED:
        return None
    wait_s = float(error.fields.get("retry_after_s", _RETRY_AFTER_S))
    return max(1, math.ceil(wait_s))
