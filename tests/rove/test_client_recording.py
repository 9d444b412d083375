"""The queue behind `record`, one step at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from rove.client.calls import interaction
from rove.client.errors import ClientError, NoAnswer, QueueFull, Undelivered
from rove.client.recording import Deliver, OnFull, OnRejected, Play, Recording, Until
from rove.client.talks import Result
from rove.events import Interaction, Outcome

FLUSH_S, PATIENCE_S = 2.0, 1.0


class Clock:
    """Stands still unless it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A recording with its sender, both moved by hand."""

    def __init__(
        self,
        *,
        batch_rows: int = 3,
        max_rows: int = 6,
        on_full: OnFull = "block",
        on_rejected: OnRejected | None = None,
    ) -> None:
        self.clock = Clock()
        self.recording = Recording(
            batch_rows=batch_rows,
            batch_wait_s=1.0,
            max_rows=max_rows,
            on_full=on_full,
            on_rejected=on_rejected,
            clock=self.clock,
        )
        self._sender = self.recording.work()
        self.step: Until | Deliver = next(self._sender)

    def record(self, *names: str) -> None:
        for name in names:
            assert finish(self.recording.record(row(name))) is None

    def sent(self) -> list[str]:
        """Move the sender on; return the rows it wants sent."""
        if isinstance(self.step, Until):
            self.step = self._sender.send(None)
        return names(self.step.rows) if isinstance(self.step, Deliver) else []

    def answer(self, *results: Result | str) -> None:
        assert isinstance(self.step, Deliver)
        outcomes = [
            Outcome(interaction_id=one.interaction_id, status="accepted")
            if result == "accepted"
            else Outcome(interaction_id=one.interaction_id, status="rejected", reason="no item")
            if result == "rejected"
            else result
            for one, result in zip(self.step.rows, results, strict=True)
        ]
        self.step = self._sender.send(outcomes)


def row(name: str) -> Interaction:
    return interaction("ann", "mug", "click", interaction_id=name)


def names(rows: Sequence[Interaction]) -> list[str]:
    return [one.interaction_id for one in rows]


def finish(play: Play[Any]) -> Until | Deliver | None:
    """Return the step that a play has to wait at; None when it is over."""
    try:
        step = next(play)
        while isinstance(step, Until) and step.holds():
            step = play.send(None)
    except StopIteration:
        return None
    return step


def test_a_full_batch_is_sent_at_once_and_a_part_of_one_after_its_wait() -> None:
    bench = Bench()
    bench.record("a", "b")
    assert bench.sent() == []
    assert isinstance(bench.step, Until) and bench.step.timeout_s == 1.0
    bench.record("c", "d")
    assert bench.sent() == ["a", "b", "c"]
    bench.answer(*["accepted"] * 3)
    bench.clock.now_s += 1.0
    assert bench.sent() == ["d"]


def test_what_may_pass_is_sent_again_before_what_came_later() -> None:
    bench = Bench()
    bench.record("a", "b", "c", "d")
    assert bench.sent() == ["a", "b", "c"]
    bench.answer("accepted", NoAnswer("gone"), NoAnswer("gone"))
    assert bench.sent() == ["b", "c", "d"]


def test_a_flush_sends_at_once_and_ends_when_all_before_it_is_stored() -> None:
    bench = Bench()
    bench.record("a")
    flush = bench.recording.flush(FLUSH_S, PATIENCE_S)
    step = next(flush)
    assert isinstance(step, Until) and step.timeout_s == FLUSH_S and not step.holds()
    assert bench.sent() == ["a"]
    bench.record("b")
    bench.answer("accepted")
    assert step.holds()
    assert finish(flush) is None


def test_a_flush_hands_back_what_was_not_sent_in_time_and_nothing_later() -> None:
    bench = Bench()
    bench.record("a", "b", "c", "d")
    assert bench.sent() == ["a", "b", "c"]
    flush = bench.recording.flush(FLUSH_S, PATIENCE_S)
    next(flush)
    bench.record("e")
    patience = flush.send(None)
    assert isinstance(patience, Until) and patience.timeout_s == PATIENCE_S
    bench.answer("accepted", NoAnswer("503"), NoAnswer("503"))
    with pytest.raises(Undelivered, match=re.escape("3 recorded rows were not stored")) as caught:
        flush.send(None)
    assert [one.interaction.interaction_id for one in caught.value.rows] == ["b", "c", "d"]
    assert [one.reason for one in caught.value.rows] == ["503", "503", "it was not sent in time"]
    bench.clock.now_s += 1.0
    assert isinstance(bench.step, Deliver)  # taken before they were handed back
    bench.answer(*[NoAnswer("503")] * 3)
    assert bench.sent() == ["e"]


def test_what_the_server_will_never_store_is_handed_back_with_the_reason() -> None:
    bench = Bench()
    bench.record("a", "b", "c")
    bench.sent()
    bench.answer("accepted", "rejected", ClientError("413 Payload too large"))
    with pytest.raises(Undelivered, match=re.escape("the first because of: no item")) as caught:
        finish(bench.recording.flush(FLUSH_S, PATIENCE_S))
    assert [one.interaction.interaction_id for one in caught.value.rows] == ["b", "c"]


def test_rejected_rows_go_to_who_asked_for_them() -> None:
    told: list[tuple[str, str | None]] = []
    bench = Bench(
        on_rejected=lambda one, outcome: told.append((one.interaction_id, outcome.reason))
    )
    bench.record("a", "b", "c")
    bench.sent()
    bench.answer("accepted", "rejected", "accepted")
    assert told == [("b", "no item")]
    assert finish(bench.recording.flush(FLUSH_S, PATIENCE_S)) is None


def test_a_full_queue_waits_or_raises_as_chosen() -> None:
    bench = Bench()
    bench.record(*"abcdef")
    play = bench.recording.record(row("g"))
    step = next(play)
    assert isinstance(step, Until) and step.timeout_s is None and not step.holds()
    bench.sent()
    bench.answer(*["accepted"] * 3)
    assert step.holds()
    assert finish(play) is None
    bench = Bench(on_full="raise")
    bench.record(*"abcdef")
    with pytest.raises(QueueFull, match=re.escape("6 rows wait, the limit is 6")):
        next(bench.recording.record(row("g")))


def test_a_queue_full_of_what_cannot_be_stored_says_so_instead_of_waiting() -> None:
    bench = Bench()
    bench.record(*"abcdef")
    for _ in range(2):
        bench.sent()
        bench.answer(*["rejected"] * 3)
    with pytest.raises(Undelivered, match=re.escape("6 recorded rows")):
        next(bench.recording.record(row("g")))
    bench.record("g")


def test_nothing_is_recorded_after_the_end() -> None:
    bench = Bench()
    bench.recording.stop()
    with pytest.raises(ClientError, match=re.escape("the client is closed")):
        next(bench.recording.record(row("a")))
