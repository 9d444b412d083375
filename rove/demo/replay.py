"""The invoices through HTTP, as a plain client would: rank, then post what was bought.

The client knows nothing of shards. A call that is refused for the moment (429, 503) or whose
connection breaks is sent again with the same ids, so nothing is decided or counted twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rove.demo.split import Visit
from rove.demo.windows import windows
from rove.errors import RoveError
from rove.events import Decision, Interaction, Outcome, RankRequest

WINDOW = 8  # connections
_MAX_EVENTS = 1000  # per call
_GIVE_UP_S = 60.0
_TIMEOUT_S = 30.0
_WAIT_S = 0.2


class _Events(Struct):
    interactions: list[Interaction]


class _Outcomes(Struct):
    outcomes: list[Outcome]


@dataclass(slots=True)
class Traffic:
    """What the replay did and how long each call took, as the client saw it."""

    rank_s: list[float] = field(default_factory=list)
    events_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Status -> number of interactions."""
    num_retries: int = 0
    duration_s: float = 0.0


Progress = Callable[[Sequence[Visit], Sequence[Decision]], None]


def replay(
    url: str, visits: Sequence[Visit], k: int, seen: Progress
) -> tuple[list[list[str]], Traffic]:
    """Replay `visits` and return the item ids of every slate, best first, and the traffic.

    `seen` is told of every window that is done.
    """
    return asyncio.run(_replay(url, visits, k, seen))


async def _replay(
    url: str, visits: Sequence[Visit], k: int, seen: Progress
) -> tuple[list[list[str]], Traffic]:
    slates: list[list[str]] = []
    limits = httpx.Limits(max_connections=WINDOW, max_keepalive_connections=WINDOW)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT_S) as http:
        client = _Client(http)
        start = time.perf_counter()
        for window in windows(visits, WINDOW):
            decisions = await asyncio.gather(*(client.rank(visit, k) for visit in window))
            await asyncio.gather(*map(client.post_bought, window, decisions))
            slates += [[slot.item_id for slot in decision.slots] for decision in decisions]
            seen(window, decisions)
        client.traffic.duration_s = time.perf_counter() - start
    return slates, client.traffic


class _Client:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.traffic = Traffic()

    async def rank(self, visit: Visit, k: int) -> Decision:
        """Ask for k items that are new to the user."""
        start = time.perf_counter()
        answer = await self._post("/v1/rank", rank_request(visit, k))
        self.traffic.rank_s.append(time.perf_counter() - start)
        return msgspec.json.decode(answer, type=Decision)

    async def post_bought(self, visit: Visit, decision: Decision) -> None:
        """Tell what was bought, and from which slot of the slate if it was there."""
        bought = attributed(visit.interactions, decision)
        for first in range(0, len(bought), _MAX_EVENTS):
            start = time.perf_counter()
            batch = _Events(interactions=bought[first : first + _MAX_EVENTS])
            answer = await self._post("/v1/events", batch)
            self.traffic.events_s.append(time.perf_counter() - start)
            outcomes = msgspec.json.decode(answer, type=_Outcomes).outcomes
            self.traffic.outcomes.update(outcome.status for outcome in outcomes)

    async def _post(self, path: str, body: Struct) -> bytes:
        content = msgspec.json.encode(body)
        headers = {"content-type": "application/json"}
        deadline = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                answer = await self._http.post(path, content=content, headers=headers)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__} {error}".strip()
            else:
                if answer.is_success:
                    return answer.content
                problem = f"{answer.status_code} {answer.text}"
                if answer.status_code not in (429, 503):
                    raise RoveError(f"POST {path} was refused: {problem}")
            if time.monotonic() > deadline:
                raise RoveError(f"POST {path} failed for {_GIVE_UP_S:g} s, at last: {problem}")
            self.traffic.num_retries += 1
            await asyncio.sleep(_WAIT_S)


def rank_request(visit: Visit, k: int) -> RankRequest:
    """Return the request of an invoice: k items out of the whole catalogue, none bought before."""
    return RankRequest(user_id=visit.user_id, event_id=event_id(visit), k=k, exclude_seen=True)


def event_id(visit: Visit) -> str:
    """Return the id of the decision made for an invoice."""
    return f"demo-{visit.visit_id}"


def attributed(bought: Sequence[Interaction], decision: Decision) -> list[Interaction]:
    """Return `bought` with the decision and slot of what was in the slate."""
    slots = {slot.item_id: slot.slot for slot in decision.slots}
    return [
        replace(interaction, event_id=decision.event_id, slot=slots[interaction.item_id])
        if interaction.item_id in slots
        else interaction
        for interaction in bought
    ]
