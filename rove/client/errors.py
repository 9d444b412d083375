"""What a client raises.

ClientError
|- Refused                  the server's answer was a problem (RFC 9457)
|  |- BadRequest      400
|  |- NotAllowed      401, 403
|  |- NotFound        404
|  |- Conflict        409
|  |- TooLarge        413
|  |- Overloaded      429   after retries
|  `- Unavailable     5xx   after retries
|- NoAnswer                 nothing answered in time, after retries
|- QueueFull                too many recorded rows wait, and `on_full` is "raise"
`- Undelivered              recorded rows that were not stored, with the rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from rove.errors import shown
from rove.events import Interaction

RETRIED = frozenset({429, 500, 502, 503, 504})
"""Answers after which the same call may succeed; every call is safe to repeat."""
_MEMBERS = ("type", "status", "title", "detail", "retry_after_s")


class ClientError(Exception):
    """Base of all errors of a client."""

    passing = False
    """Whether the same call may succeed later."""


class NoAnswer(ClientError):
    """Nothing answered in time; sending the same ids again is safe."""

    passing = True


class QueueFull(ClientError):
    """Too many recorded rows wait; the new one was not taken."""


class Refused(ClientError):
    """The server's answer was a problem: what is wrong, the value got, what to do."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        title: str = "",
        retry_after_s: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if title else f"{status}: {detail}")
        self.detail = detail
        self.status = status
        self.title = title
        self.retry_after_s = retry_after_s
        self.fields = dict(fields or {})
        """The problem's further members."""
        self.passing = status in RETRIED

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            type(self), self.detail, self.status, self.title, self.retry_after_s, self.fields,
        )  # fmt: skip


class BadRequest(Refused):
    """A value of the request cannot be used."""


class NotAllowed(Refused):
    """The key is missing, unknown or too weak."""


class NotFound(Refused):
    """The item, user or decision does not exist."""


class Conflict(Refused):
    """The id was used before, with another content."""


class TooLarge(Refused):
    """The body, batch or text is over its limit."""


class Overloaded(Refused):
    """The server had too much to do until the time was up."""


class Unavailable(Refused):
    """The server could not answer until the time was up."""


class Unsent(Struct, frozen=True, kw_only=True):
    """A recorded row that was not stored, and why."""

    interaction: Interaction
    reason: str


class Undelivered(ClientError):
    """Recorded rows were not stored; they are in `rows`, and no longer in the client."""

    def __init__(self, rows: Sequence[Unsent]) -> None:
        self.rows = tuple(rows)
        super().__init__(
            f"{len(self.rows)} recorded rows were not stored, the first because of: "
            f"{self.rows[0].reason}; they are in .rows, and recording them again is safe"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Undelivered, (self.rows,)


_KINDS: Mapping[int, type[Refused]] = {
    400: BadRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: Overloaded,
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """Return the error that an answer stands for, whether its body is a problem or not."""
    problem = _members(body)
    kind = _KINDS.get(status, Unavailable if status >= 500 else Refused)
    return kind(
        str(problem.get("detail") or shown(body.decode("utf-8", "replace")) or "no detail"),
        status=status,
        title=str(problem.get("title", "")),
        retry_after_s=_seconds(headers.get("retry-after") or problem.get("retry_after_s")),
        fields={key: value for key, value in problem.items() if key not in _MEMBERS},
    )


def _members(body: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _seconds(value: Any) -> float | None:
    """Return a `Retry-After` in seconds; its other form, a date, is left to the back-off."""
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return None


def _rebuild(
    kind: type[Refused],
    detail: str,
    status: int,
    title: str,
    retry_after_s: float | None,
    fields: Mapping[str, Any],
) -> Refused:
    return kind(detail, status=status, title=title, retry_after_s=retry_after_s, fields=fields)
