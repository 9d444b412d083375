"""A typed client of the HTTP API, for threads and for asyncio.

    errors      what a client raises
    calls       the calls of the API, and `interaction` to make a row
    routes      which shard a call goes to
    steps       what a talk asks of its shell
    talks       what is said and heard: retries, redirections, batches split by shard
    recording   the queue behind `record`
    client      `RoveClient`, for threads
    aio         `AsyncRoveClient`, for asyncio

Answers are the records that the server uses (`rove.events`, `rove.records`, `rove.messages`).
Only httpx and msgspec are loaded, so a web server can use it.
"""

from rove.catalogue import Item
from rove.client.aio import AsyncRoveClient
from rove.client.calls import interaction
from rove.client.client import RoveClient
from rove.client.errors import (
    BadRequest,
    ClientError,
    Conflict,
    NoAnswer,
    NotAllowed,
    NotFound,
    Overloaded,
    QueueFull,
    Refused,
    TooLarge,
    Unavailable,
    Undelivered,
    Unsent,
)
from rove.events import Candidates, Decision, Interaction, Outcome, RankRequest
from rove.messages import RewardRequest

__all__ = [
    "AsyncRoveClient",
    "BadRequest",
    "Candidates",
    "ClientError",
    "Conflict",
    "Decision",
    "Interaction",
    "Item",
    "NoAnswer",
    "NotAllowed",
    "NotFound",
    "Outcome",
    "Overloaded",
    "QueueFull",
    "RankRequest",
    "Refused",
    "RewardRequest",
    "RoveClient",
    "TooLarge",
    "Unavailable",
    "Undelivered",
    "Unsent",
    "interaction",
]
