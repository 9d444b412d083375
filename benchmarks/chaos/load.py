"""The load: ranks, events and rewards of many users, and what was acknowledged of them.

- One half of the callers ask the shards directly, the other half through the gateway.
- A call that failed is made again, with the same ids, until it is answered.
- Calls are due at fixed times, whether earlier ones were answered or not, as long as a caller is
  free; what is overdue for more than a second is left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import TypeVar

import numpy as np

from rove.client import (
    AsyncRoveClient,
    Candidates,
    ClientError,
    Decision,
    Interaction,
    RankRequest,
    RewardRequest,
    interaction,
)
from rove.client.steps import Answer, Lost, Send
from rove.events import InteractionType

T = TypeVar("T")
_NUM_CALLERS = 64
_TIMEOUT_S = 20.0
_GIVE_UP_S = 180.0
_NUM_RANKED = 10
_MAX_ROWS = 5
_REMEMBERED = 2000
_SHARE_RANKED = 0.45
_SHARE_OBSERVED = 0.9  # the rest are rewards
_SHARE_SEARCHED = 0.05  # of the ranks; these need the encoder
_OVERDUE_S = 1.0
_TYPES = (InteractionType.CLICK, InteractionType.PURCHASE)
_TOPOLOGY = "/v1/topology"
_attempts: ContextVar[list[str]] = ContextVar("attempts")


class CountingClient(AsyncRoveClient):
    """A client that notes every request of the call it is in."""

    async def _send(self, step: Send) -> Answer | Lost:
        if step.path != _TOPOLOGY:
            _attempts.get().append(step.path)
        return await super()._send(step)


class Acknowledged:
    """What the clients were told."""

    def __init__(self) -> None:
        self.events: dict[str, str] = {}
        """Interaction id -> user."""
        self.decisions: dict[str, Decision] = {}
        self.failures: list[str] = []
        """What no retry could help."""
        self.num_calls = 0
        self.num_retried = 0
        """Calls that took more than one request."""


class Load:
    """The callers; `rate` is the calls a second that are due, None for as many as there can be."""

    def __init__(self, url: str, users: Sequence[str], items: Sequence[str], seed: int) -> None:
        self.heard = Acknowledged()
        self._clients = [
            CountingClient(url, direct=direct, timeout_s=_TIMEOUT_S) for direct in (True, False)
        ]
        self._users = users
        self._items = items
        self._seed = seed
        self._num_runs = 0
        self._number = 0
        self._next_s = 0.0
        self._recent: list[Decision] = []

    async def run(self, duration_s: float, rate: float | None) -> float:
        """Send calls for so long, wait for all answers, and return the calls a second."""
        self._num_runs += 1
        before, started = self.heard.num_calls, time.monotonic()
        self._next_s, ends = started, started + duration_s
        callers = [self._caller(number, ends, rate) for number in range(_NUM_CALLERS)]
        await asyncio.gather(*callers)
        return (self.heard.num_calls - before) / (time.monotonic() - started)

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            await client.close()

    async def _caller(self, number: int, ends: float, rate: float | None) -> None:
        rng = np.random.default_rng([self._seed, self._num_runs, number])
        client = self._clients[number % len(self._clients)]
        while True:
            await self._turn(rate)
            if time.monotonic() >= ends:
                return
            try:
                await self._call(client, rng)
            except ClientError as error:
                self.heard.failures.append(f"{type(error).__name__}: {error}")

    async def _turn(self, rate: float | None) -> None:
        if rate is None:
            return
        now = time.monotonic()
        due = max(self._next_s, now - _OVERDUE_S)
        self._next_s = due + 1.0 / rate
        if due > now:
            await asyncio.sleep(due - now)

    async def _call(self, client: CountingClient, rng: np.random.Generator) -> None:
        kind = rng.random()
        if kind < _SHARE_RANKED or not self._recent:
            await self._rank(client, rng)
        elif kind < _SHARE_OBSERVED:
            await self._observe(client, rng)
        else:
            await self._reward(client, rng)

    async def _rank(self, client: CountingClient, rng: np.random.Generator) -> None:
        searched = rng.random() < _SHARE_SEARCHED
        text = f"gift {rng.integers(100_000)}"
        request = RankRequest(
            user_id=str(rng.choice(self._users)),
            event_id=self._id("rank"),
            k=_NUM_RANKED,
            candidates=Candidates(query=text) if searched else None,
        )
        decision = await self._until_answered(lambda: client.rank(request))
        self.heard.decisions[decision.event_id] = decision
        if len(self._recent) < _REMEMBERED:
            self._recent.append(decision)
        else:
            self._recent[int(rng.integers(_REMEMBERED))] = decision

    async def _observe(self, client: CountingClient, rng: np.random.Generator) -> None:
        """Of one user: some interactions with any items, one of which may answer a decision."""
        shown = self._recent[int(rng.integers(len(self._recent)))]
        rows = [
            interaction(
                shown.user_id,
                str(rng.choice(self._items)),
                _TYPES[int(rng.integers(len(_TYPES)))],
                interaction_id=self._id("event"),
            )
            for _ in range(int(rng.integers(1, _MAX_ROWS)))
        ]
        slot = shown.slots[int(rng.integers(len(shown.slots)))]
        rows.append(
            interaction(
                shown.user_id,
                slot.item_id,
                InteractionType.CLICK,
                decision=shown,
                interaction_id=self._id("event"),
            )
        )
        outcomes = await self._until_answered(lambda: client.events(rows))
        for row, outcome in zip(rows, outcomes, strict=True):
            self.note(row, outcome.status)

    async def _reward(self, client: CountingClient, rng: np.random.Generator) -> None:
        shown = self._recent[int(rng.integers(len(self._recent)))]
        slot = shown.slots[int(rng.integers(len(shown.slots)))]
        reward = RewardRequest(
            value=float(rng.integers(1, 4)),
            slot=slot.slot,
            interaction_id=self._id("reward"),
            user_id=shown.user_id,
        )
        outcome = await self._until_answered(lambda: client.reward(shown, reward))
        if outcome.status == "rejected":
            self.heard.failures.append(f"rejected: {outcome.reason}")
        else:
            self.heard.events[str(reward.interaction_id)] = shown.user_id

    def note(self, row: Interaction, status: str) -> None:
        """Take in what became of an interaction."""
        if status == "rejected":
            self.heard.failures.append(f"rejected: {row}")
        else:
            self.heard.events[row.interaction_id] = row.user_id

    def _id(self, kind: str) -> str:
        self._number += 1
        return f"chaos-{kind}-{self._number}"

    async def _until_answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call until it is answered; the ids are in it."""
        attempts: list[str] = []
        _attempts.set(attempts)
        gives_up = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                answer = await call()
            except ClientError as error:
                if not error.passing or time.monotonic() > gives_up:
                    raise
            else:
                self.heard.num_calls += 1
                self.heard.num_retried += len(attempts) > 1
                return answer
