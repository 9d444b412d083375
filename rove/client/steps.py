"""What a talk asks of its shell, and what the shell replies."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a request; reply `Answer` or `Lost`."""

    method: str
    path: str
    body: bytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait; reply None."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Together:
    """Play talks, at the same time if that is possible; reply their answers in order."""

    talks: Sequence[Talk[Any]]


@dataclass(frozen=True, slots=True)
class Alone:
    """Play a talk while no other one is played alone; reply its answer."""

    talk: Talk[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server said; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The request or its answer did not get through."""

    reason: str


Step = Send | Wait | Together | Alone
Talk = Generator[Step, Any, T]
