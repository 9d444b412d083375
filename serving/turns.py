"""One engine, one thread, one turn at a time.

Requests wait in queues; each turn takes what waits, up to a batch, and runs it on the engine's
thread while the event loop goes on reading the next ones.

- The interactions of a turn are observed before its requests are ranked, each in one engine call
  with one commit; what arrives during a commit goes into the next turn.
- A rank that nobody waits for any more is left out; interactions are stored all the same.
- A queue is bounded: beyond it a request is refused with `Overloaded`, never dropped.
- An engine that fails in a way nobody foresaw, or that lost its shard to another process, is not
  trusted any more: its turn is answered with the error, and the next turn has a new engine, built
  from the ledger (once the shard can be had again).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from rove.errors import LeaseLost, Overloaded, RoveError, StoreUnavailable
from rove.events import Decision, Interaction, Outcome, RankRequest

Vector = npt.NDArray[np.float32]
T = TypeVar("T")
_NO_VECTORS: Mapping[str, Vector] = MappingProxyType({})
_PATIENCE = 8  # rounds of the event loop without a new request, about 30 microseconds
logger = logging.getLogger(__name__)


class TurnEngine(Protocol):
    """What a turn needs of an engine."""

    def rank(
        self, requests: Sequence[RankRequest], vectors: Mapping[str, Vector] = ...
    ) -> Sequence[Decision | RoveError]: ...

    def observe(self, interactions: Sequence[Interaction]) -> Sequence[Outcome]: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


E = TypeVar("E", bound=TurnEngine)


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of the queues and of a turn."""

    max_batch: int
    """Most requests ranked in one turn."""
    max_queue: int
    """Most requests, and most interactions, that wait."""
    max_events: int
    """A turn takes no further interactions once it has this many."""
    sync_interval_s: float


class _Rank(Struct, eq=False):
    request: RankRequest
    vectors: Mapping[str, Vector]
    answer: asyncio.Future[Decision]


class _Events(Struct, eq=False):
    interactions: Sequence[Interaction]
    answer: asyncio.Future[Sequence[Outcome]]


class _Job(Struct, eq=False):
    function: Callable[[Any], Any]
    answer: asyncio.Future[Any]


class _Turn(Struct, eq=False):
    ranks: list[_Rank]
    events: list[_Events]
    job: _Job | None
    sync: bool

    def __bool__(self) -> bool:
        return bool(self.ranks or self.events or self.job or self.sync)


_Answers = list[tuple[asyncio.Future[Any], Any]]


class EngineTurns(Generic[E]):
    """The queues in front of one engine; all methods are called on one event loop."""

    def __init__(self, open_engine: Callable[[], E], limits: Limits) -> None:
        self._open = open_engine
        self._limits = limits
        self._engine: E | None = None  # used on the engine's thread only
        self._thread = ThreadPoolExecutor(1, "engine")
        self._ranks: deque[_Rank] = deque()
        self._events: deque[_Events] = deque()
        self._num_interactions = 0
        self._jobs: deque[_Job] = deque()
        self._sync_due = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open the engine; raise what opening it raises."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._current)
        self._task = loop.create_task(self._run())
        self._schedule_sync(loop)

    async def close(self) -> None:
        """Finish the turn under way and close the engine; what waits is refused."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        refusal = StoreUnavailable("the shard is stopping; send the request again")
        waiting: list[_Rank | _Events | _Job] = [*self._ranks, *self._events, *self._jobs]
        _settle([(part.answer, refusal) for part in waiting])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._discard)
        self._thread.shutdown()

    def check(self) -> None:
        """Raise what ended the turns, if they ended."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def rank(
        self, request: RankRequest, vectors: Mapping[str, Vector] = _NO_VECTORS
    ) -> Decision:
        """Return the decision, committed; `vectors` are those of the request's texts."""
        self._admit(len(self._ranks))
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._ranks.append(_Rank(request, vectors, answer))
        self._wake.set()
        return await answer

    async def observe(self, interactions: Sequence[Interaction]) -> Sequence[Outcome]:
        """Return one outcome per interaction, committed."""
        self._admit(self._num_interactions)
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        self._events.append(_Events(interactions, answer))
        self._num_interactions += len(interactions)
        self._wake.set()
        return await answer

    async def call(self, function: Callable[[E], T]) -> T:
        """Return `function(engine)`, called on the engine's thread."""
        self._admit(len(self._jobs))
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job(function, answer))
        self._wake.set()
        return await answer

    def _admit(self, num_waiting: int) -> None:
        if num_waiting >= self._limits.max_queue:
            raise Overloaded(
                f"{num_waiting} wait already, the limit is {self._limits.max_queue}; "
                "send it again after the time in Retry-After",
                retry_after_s=1,
            )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            self._wake.clear()
            await self._gather()
            turn = self._take()
            if turn:
                _settle(await loop.run_in_executor(self._thread, self._play, turn))
            else:
                await self._wake.wait()

    async def _gather(self) -> None:
        """Let answers go out and requests come in that are half way: they share the next turn."""
        num_waiting, patience = -1, _PATIENCE
        while patience:
            before, num_waiting = num_waiting, len(self._ranks) + len(self._events)
            patience = _PATIENCE if num_waiting > before else patience - 1
            await asyncio.sleep(0)

    def _take(self) -> _Turn:
        """Take the next turn's work off the queues."""
        limits = self._limits
        ranks: list[_Rank] = []
        while self._ranks and len(ranks) < limits.max_batch:
            part = self._ranks.popleft()
            if not part.answer.done():  # else its time is over or the client has gone
                ranks.append(part)
        events: list[_Events] = []
        num_interactions = 0
        while self._events and num_interactions < limits.max_events:
            events.append(self._events.popleft())
            num_interactions += len(events[-1].interactions)
        self._num_interactions -= num_interactions
        job = self._jobs.popleft() if self._jobs else None
        sync, self._sync_due = self._sync_due, False
        return _Turn(ranks, events, job, sync)

    def _schedule_sync(self, loop: asyncio.AbstractEventLoop) -> None:
        def due() -> None:
            self._sync_due = True
            self._wake.set()
            self._schedule_sync(loop)

        self._timer = loop.call_later(self._limits.sync_interval_s, due)

    # From here on: the engine's thread.

    def _current(self) -> E:
        if self._engine is None:
            self._engine = self._open()
        return self._engine

    def _discard(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _play(self, turn: _Turn) -> _Answers:
        """Play the parts of a turn, each apart from the others' failures."""
        answers: _Answers = []
        if turn.sync:
            self._part([], lambda engine: _sync(engine), answers)
        if turn.events:
            self._part(turn.events, lambda engine: _observe(engine, turn.events), answers)
        if turn.ranks:
            self._part(turn.ranks, lambda engine: _rank(engine, turn.ranks), answers)
        if turn.job is not None:
            job = turn.job
            self._part([job], lambda engine: [(job.answer, job.function(engine))], answers)
        return answers

    def _part(
        self,
        waiting: Sequence[_Rank | _Events | _Job],
        play: Callable[[E], _Answers],
        answers: _Answers,
    ) -> None:
        try:
            answers += play(self._current())
        except LeaseLost as error:
            logger.error("%s", error)
            answers += [(part.answer, error) for part in waiting]
            self._discard()
        except RoveError as error:
            answers += [(part.answer, error) for part in waiting]
        except Exception as error:  # the supervisor of the engine: see the module's docstring
            logger.exception("the engine failed; it is built again from the ledger")
            answers += [(part.answer, error) for part in waiting]
            self._discard()


def _sync(engine: TurnEngine) -> _Answers:
    try:
        engine.sync()
    except LeaseLost:
        raise
    except StoreUnavailable as error:
        logger.warning("not in sync with the other shards: %s", error)
    return []


def _observe(engine: TurnEngine, events: Sequence[_Events]) -> _Answers:
    interactions = [row for part in events for row in part.interactions]
    outcomes = engine.observe(interactions)
    answers: _Answers = []
    start = 0
    for part in events:
        end = start + len(part.interactions)
        answers.append((part.answer, outcomes[start:end]))
        start = end
    return answers


def _rank(engine: TurnEngine, ranks: Sequence[_Rank]) -> _Answers:
    vectors = {text: vector for part in ranks for text, vector in part.vectors.items()}
    decisions = engine.rank([part.request for part in ranks], vectors)
    return [(part.answer, decision) for part, decision in zip(ranks, decisions, strict=True)]


def _settle(answers: _Answers) -> None:
    for future, result in answers:
        if future.done():  # the client has gone
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
