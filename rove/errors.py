"""The errors Rove raises on purpose.

    RoveError
    |- InvalidInput          400  a value the caller sent cannot be used
    |  |- ConfigError        400  a configuration file or override cannot be used
    |  `- DataError          400  a catalogue or interaction file cannot be used
    |- NotFound              404  an item, user, decision, release or file does not exist
    |- Conflict              409  an id was used before, with another content
    |- PayloadTooLarge       413  a body, batch or text is over its limit
    |- Misdirected           421  a shard was asked for a user it does not own
    |- Overloaded            429  a bounded queue is full
    |- ReleaseError          500  a release directory is damaged or of another schema version
    `- StoreUnavailable      503  the store cannot be reached, is locked or its disk is full
       |- OutcomeUnknown     503  the connection broke while a commit was under way
       `- LeaseLost          503  another process writes this shard now

Every error says what is wrong, the value got and what to do, and survives pickling between actors.
"""

from __future__ import annotations

from typing import Any, ClassVar

_SHOWN_CHARACTERS = 120


def shown(value: object) -> str:
    """Return `value` as a short, printable fragment for an error message."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... (cut)"


class RoveError(Exception):
    """Base of all errors Rove raises on purpose; `fields` are added to the problem+json answer."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Rove error"

    def __init__(self, detail: str, /, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.detail, self.fields)


def _rebuild(kind: type[RoveError], detail: str, fields: dict[str, Any]) -> RoveError:
    return kind(detail, **fields)


class InvalidInput(RoveError):
    """A value the caller sent cannot be used."""

    status = 400
    title = "Invalid input"


class ConfigError(InvalidInput):
    """A configuration file or override cannot be used."""

    title = "Invalid configuration"


class DataError(InvalidInput):
    """A catalogue or interaction file cannot be used."""

    title = "Invalid data"


class NotFound(RoveError):
    """An item, user, decision, release or file does not exist."""

    status = 404
    title = "Not found"


class Conflict(RoveError):
    """An id was used before, with another content."""

    status = 409
    title = "Conflict"


class PayloadTooLarge(RoveError):
    """A body, batch or text is over its limit."""

    status = 413
    title = "Payload too large"


class Misdirected(RoveError):
    """A shard was asked for a user it does not own."""

    status = 421
    title = "Misdirected request"


class Overloaded(RoveError):
    """A bounded queue is full; `retry_after_s` says when to come back."""

    status = 429
    title = "Too many requests"


class ReleaseError(RoveError):
    """A release directory is damaged or of another schema version."""

    title = "Unusable release"


class StoreUnavailable(RoveError):
    """The store cannot be reached, is locked or its disk is full; nothing was acknowledged."""

    status = 503
    title = "Store unavailable"


class OutcomeUnknown(StoreUnavailable):
    """The connection broke during a commit: it is stored or not; the same ids may be sent again."""


class LeaseLost(StoreUnavailable):
    """Another process took the shard over: this one can read, and never write again."""

    title = "Shard taken over"
