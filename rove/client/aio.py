"""The client for asyncio: it plays `rove.client.talks` by httpx, and sends records in a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from rove.catalogue import Item
from rove.client import calls
from rove.client.base import LIMITS, BaseClient, HttpOptions, answer_of, lost, request_of
from rove.client.recording import Deliver, Play
from rove.client.steps import Alone, Answer, Lost, Send, Talk, Together, Wait
from rove.events import Decision, Interaction, Outcome, RankRequest
from rove.messages import ItemOutcome, Readiness, RewardRequest, Topology
from rove.records import DecisionRecord, Erasure, UserExport, UserProfile

T = TypeVar("T")
logger = logging.getLogger(__name__)


class AsyncRoveClient(BaseClient):
    """`RoveClient` for asyncio: the same arguments and methods, to be awaited.

        async with AsyncRoveClient("http://127.0.0.1:8000") as client:
            decision = await client.rank(RankRequest(user_id="ann", k=5))

    It belongs to the event loop it is first used on.
    """

    _http: httpx.AsyncClient
    _one_at_a_time: asyncio.Lock
    _changed: asyncio.Condition
    _sender: asyncio.Task[None] | None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def rank(self, request: RankRequest) -> Decision:
        """Choose items for a user."""
        return await self._play(self._talks.rank(request))

    async def events(self, interactions: Sequence[Interaction]) -> list[Outcome]:
        """Store what users did, now; see `RoveClient.events`."""
        return await self._play(self._talks.events(interactions))

    async def reward(self, decision: Decision | str, reward: RewardRequest | float) -> Outcome:
        """Give a slot of a decision (or of the decision with this id) an explicit reward."""
        return await self._play(self._talks.ask(calls.reward(decision, reward)))

    async def activate(self, decision: Decision | str, user_id: str | None = None) -> Decision:
        """Say that a deferred decision was shown."""
        return await self._play(self._talks.ask(calls.activate(decision, user_id)))

    async def decision(
        self, decision: Decision | str, user_id: str | None = None
    ) -> DecisionRecord:
        """Return a decision's record and what it earned."""
        return await self._play(self._talks.ask(calls.decision(decision, user_id)))

    async def put_items(self, items: Sequence[Item]) -> list[ItemOutcome]:
        """Add or replace items; return what became of each."""
        return await self._play(self._talks.put_items(items))

    async def item(self, item_id: str) -> Item:
        """Return an item of the catalogue."""
        return await self._play(self._talks.ask(calls.item(item_id)))

    async def delete_item(self, item_id: str) -> None:
        """Take an item out of the catalogue."""
        await self._play(self._talks.ask(calls.delete_item(item_id)))

    async def user(self, user_id: str) -> UserProfile:
        """Return what is known and was learnt about a user."""
        return await self._play(self._talks.ask(calls.user(user_id)))

    async def export_user(self, user_id: str) -> UserExport:
        """Return all that is held about a user."""
        return await self._play(self._talks.export_user(user_id))

    async def delete_user(self, user_id: str) -> Erasure:
        """Erase a user; return the receipt."""
        return await self._play(self._talks.ask(calls.delete_user(user_id)))

    async def erasure(self, erasure_id: str, user_id: str | None = None) -> Erasure:
        """Return the receipt of an erasure; with a user, only if it is of that user."""
        return await self._play(self._talks.ask(calls.erasure(erasure_id, user_id)))

    async def topology(self) -> Topology:
        """Return which shard owns which user."""
        return await self._play(self._talks.topology())

    async def ready(self) -> Readiness:
        """Return once every shard and the encoder answer; raise `Unavailable` if they do not."""
        return await self._play(self._talks.ask(calls.ready()))

    async def record(self, interaction: Interaction) -> None:
        """Have what a user did stored soon; `flush` or `close` say what could not be."""
        await self._perform(self._recording.record(interaction))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_recorded())

    async def flush(self, timeout_s: float | None = None) -> None:
        """Return once everything recorded before is stored; see `RoveClient.flush`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        await self._perform(self._recording.flush(timeout_s, self._timeout_s))

    async def close(self) -> None:
        """Flush and close; raise `Undelivered` if something recorded could not be stored."""
        async with self._changed:
            self._recording.stop()
            self._changed.notify_all()
        try:
            await self.flush()
        finally:
            if self._sender is not None:
                await self._sender
            await self._http.aclose()

    def _open(self, options: HttpOptions) -> None:
        self._http = httpx.AsyncClient(
            base_url=options.base_url,
            headers=options.headers,
            verify=options.verify,
            limits=LIMITS,
        )
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._sender = None

    async def _play(self, talk: Talk[T]) -> T:
        reply: Any = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                answer: T = end.value
                return answer
            match step:
                case Send():
                    reply = await self._send(step)
                case Wait(wait_s):
                    reply = None
                    await asyncio.sleep(wait_s)
                case Together(talks):
                    reply = await asyncio.gather(*map(self._play, talks))
                case Alone(one):
                    async with self._one_at_a_time:
                        reply = await self._play(one)

    async def _send(self, step: Send) -> Answer | Lost:
        try:
            return answer_of(await self._http.request(**request_of(step)))
        except httpx.RequestError as error:
            return lost(error)

    async def _send_recorded(self) -> None:
        try:
            await self._perform(self._recording.work())
        finally:
            if num_rows := self._recording.num_waiting:
                logger.error(
                    "%d recorded rows were not sent: the event loop ended before `close`", num_rows
                )

    async def _perform(self, play: Play[T]) -> T:
        async with self._changed:
            reply: Any = None
            while True:
                try:
                    step = play.send(reply)
                except StopIteration as end:
                    answer: T = end.value
                    return answer
                finally:
                    self._tell()
                if isinstance(step, Deliver):
                    self._changed.release()
                    try:
                        reply = await self._play(self._talks.deliver(step.rows))
                    finally:
                        await self._changed.acquire()
                else:
                    reply = None
                    try:
                        async with asyncio.timeout(step.timeout_s):
                            await self._changed.wait_for(step.holds)
                    except TimeoutError:
                        pass  # the play looks again

    def _tell(self) -> None:
        if self._recording.news:
            self._recording.news = False
            self._changed.notify_all()
