"""Turns of an engine, with an engine written by hand that records what it is asked."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from rove.errors import Conflict, LeaseLost, Overloaded, RoveError, StoreUnavailable
from rove.events import Decision, Interaction, InteractionType, Outcome, RankRequest
from serving.turns import EngineTurns, Limits, Vector


class RecordingEngine:
    """Answers at once, unless it waits at `gate`; `log` has one entry per call."""

    def __init__(self, log: list[tuple[str, int]], gate: threading.Event) -> None:
        self.log = log
        self.gate = gate
        self.thread = threading.get_ident()

    def rank(
        self, requests: Sequence[RankRequest], vectors: Mapping[str, Vector] | None = None
    ) -> Sequence[Decision | RoveError]:
        assert threading.get_ident() == self.thread
        self.gate.wait(5.0)
        self.log.append(("rank", len(requests)))
        if any(request.user_id == "poison" for request in requests):
            raise ZeroDivisionError("a mistake of ours")
        return [
            Conflict("used before") if request.user_id == "conflict" else _decision(request)
            for request in requests
        ]

    def observe(self, interactions: Sequence[Interaction]) -> Sequence[Outcome]:
        self.log.append(("observe", len(interactions)))
        if any(interaction.user_id == "full" for interaction in interactions):
            raise StoreUnavailable("the disk is full")
        if any(interaction.user_id == "lost" for interaction in interactions):
            raise LeaseLost("another process writes this shard")
        return [
            Outcome(interaction_id=interaction.interaction_id, status="accepted")
            for interaction in interactions
        ]

    def sync(self) -> None:
        self.log.append(("sync", 0))

    def close(self) -> None:
        self.log.append(("close", 0))


def _decision(request: RankRequest) -> Decision:
    return Decision(
        event_id=request.event_id or "",
        user_id=request.user_id,
        policy="",
        policy_version="",
        release="",
        seed=0,
        request_digest="",
        candidates_digest="",
        num_candidates=0,
        slots=[],
        created_at=0.0,
        expires_at=0.0,
        activated_at=None,
    )


def rank(user_id: str) -> RankRequest:
    return RankRequest(user_id=user_id)


def click(interaction_id: str, user_id: str = "u") -> Interaction:
    return Interaction(
        interaction_id=interaction_id, user_id=user_id, item_id="i", type=InteractionType.CLICK
    )


Turns = EngineTurns[RecordingEngine]
Log = list[tuple[str, int]]


def played(
    script: Callable[[Turns, threading.Event], Awaitable[None]],
    *,
    max_batch: int = 8,
    max_queue: int = 100,
    max_events: int = 10,
    sync_interval_s: float = 60.0,
) -> Log:
    """Run `script` against an open engine; return what the engine was asked."""
    log: Log = []
    gate = threading.Event()
    gate.set()
    limits = Limits(
        max_batch=max_batch,
        max_queue=max_queue,
        max_events=max_events,
        sync_interval_s=sync_interval_s,
    )

    async def run() -> None:
        turns = EngineTurns(lambda: RecordingEngine(log, gate), limits)
        await turns.start()
        try:
            await script(turns, gate)
        finally:
            gate.set()
            await turns.close()

    asyncio.run(run())
    return log


async def let_them_wait() -> None:
    """Give the first request time to reach the engine's thread."""
    await asyncio.sleep(0.05)


def test_requests_that_wait_are_ranked_in_one_call() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        gate.clear()
        first = asyncio.create_task(turns.rank(rank("a")))
        await let_them_wait()
        others = [asyncio.create_task(turns.rank(rank(f"u{i}"))) for i in range(10)]
        await let_them_wait()
        gate.set()
        decisions = await asyncio.gather(first, *others)
        assert [decision.user_id for decision in decisions] == ["a", *(f"u{i}" for i in range(10))]

    assert played(script)[:3] == [("rank", 1), ("rank", 8), ("rank", 2)]


def test_interactions_of_a_turn_are_observed_before_its_requests_are_ranked() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        gate.clear()
        first = asyncio.create_task(turns.rank(rank("a")))
        await let_them_wait()
        later = asyncio.create_task(turns.rank(rank("b")))
        two = asyncio.create_task(turns.observe([click("1"), click("2")]))
        one = asyncio.create_task(turns.observe([click("3")]))
        await let_them_wait()
        gate.set()
        await asyncio.gather(first, later)
        assert [outcome.interaction_id for outcome in await two] == ["1", "2"]
        assert [outcome.interaction_id for outcome in await one] == ["3"]

    assert played(script)[:3] == [("rank", 1), ("observe", 3), ("rank", 1)]


def test_one_request_that_fails_does_not_fail_the_others() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        answers = await asyncio.gather(
            turns.rank(rank("a")), turns.rank(rank("conflict")), return_exceptions=True
        )
        assert isinstance(answers[0], Decision)
        assert isinstance(answers[1], Conflict)

    played(script)


def test_a_full_disk_fails_the_interactions_and_not_the_ranks() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        answers = await asyncio.gather(
            turns.observe([click("1", "full")]), turns.rank(rank("a")), return_exceptions=True
        )
        assert isinstance(answers[0], StoreUnavailable)
        assert isinstance(answers[1], Decision)

    played(script)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        gate.clear()
        waiting = [asyncio.create_task(turns.rank(rank("a")))]
        await let_them_wait()
        waiting += [asyncio.create_task(turns.rank(rank("b"))) for _ in range(3)]
        await let_them_wait()
        with pytest.raises(Overloaded, match=re.escape("3 wait already, the limit is 3")) as caught:
            await turns.rank(rank("c"))
        assert caught.value.fields == {"retry_after_s": 1}
        gate.set()
        assert len(await asyncio.gather(*waiting)) == 4

    played(script, max_queue=3)


def test_a_turn_takes_no_more_interactions_than_its_bound() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        gate.clear()
        first = asyncio.create_task(turns.rank(rank("a")))
        await let_them_wait()
        posts = [
            asyncio.create_task(turns.observe([click(f"{i}a"), click(f"{i}b")])) for i in range(4)
        ]
        await let_them_wait()
        gate.set()
        await asyncio.gather(first, *posts)

    log = played(script, max_events=3)
    assert [count for name, count in log if name == "observe"] == [4, 4]


def test_an_engine_that_fails_is_built_again() -> None:
    """The turn is answered with the error; the next one has a new engine."""

    async def script(turns: Turns, gate: threading.Event) -> None:
        with pytest.raises(ZeroDivisionError, match=re.escape("a mistake of ours")):
            await turns.rank(rank("poison"))
        assert (await turns.rank(rank("a"))).user_id == "a"
        turns.check()

    assert played(script) == [("rank", 1), ("close", 0), ("rank", 1), ("close", 0)]


def test_an_engine_that_lost_its_shard_is_opened_anew() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        with pytest.raises(LeaseLost, match=re.escape("another process writes this shard")):
            await turns.observe([click("i1", "lost")])
        await turns.observe([click("i1")])

    assert played(script) == [("observe", 1), ("close", 0), ("observe", 1), ("close", 0)]


def test_the_engine_syncs_by_itself() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        await asyncio.sleep(0.2)

    log = played(script, sync_interval_s=0.03)
    assert 3 <= log.count(("sync", 0)) <= 7


def test_a_function_is_called_on_the_engines_thread() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        assert await turns.call(lambda engine: engine.thread == threading.get_ident())

    played(script)


def test_what_waits_when_the_shard_stops_is_refused() -> None:
    async def script(turns: Turns, gate: threading.Event) -> None:
        gate.clear()
        first = asyncio.create_task(turns.rank(rank("a")))
        await let_them_wait()
        second = asyncio.create_task(turns.rank(rank("b")))
        await let_them_wait()
        gate.set()
        await turns.close()
        assert (await first).user_id == "a"
        with pytest.raises(StoreUnavailable, match=re.escape("the shard is stopping")):
            await second

    async def run() -> None:
        log: Log = []
        gate = threading.Event()
        limits = Limits(max_batch=1, max_queue=9, max_events=9, sync_interval_s=60.0)
        turns = EngineTurns(lambda: RecordingEngine(log, gate), limits)
        await turns.start()
        await script(turns, gate)

    asyncio.run(run())


def test_an_engine_that_cannot_be_opened_says_why() -> None:
    def broken() -> RecordingEngine:
        raise StoreUnavailable("no such folder")

    async def run() -> None:
        limits = Limits(max_batch=1, max_queue=1, max_events=1, sync_interval_s=1.0)
        await EngineTurns(broken, limits).start()

    with pytest.raises(StoreUnavailable, match=re.escape("no such folder")):
        asyncio.run(run())


def test_a_rank_that_nobody_waits_for_any_more_is_left_out() -> None:
    """The interactions of a client that went away are stored all the same."""

    async def script(turns: Turns, gate: threading.Event) -> None:
        gate.clear()
        first = asyncio.create_task(turns.rank(rank("first")))
        await let_them_wait()
        given_up, kept = (asyncio.create_task(turns.rank(rank(user))) for user in ("a", "b"))
        clicked = asyncio.create_task(turns.observe([click("c")]))
        await let_them_wait()
        given_up.cancel()
        clicked.cancel()
        await let_them_wait()
        gate.set()
        await first
        await kept

    assert played(script)[:3] == [("rank", 1), ("observe", 1), ("rank", 1)]
