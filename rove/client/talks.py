"""What a client says and hears, without doing either: generators that a shell plays.

A talk yields a step, is sent what came of it, and returns the call's answer or raises. The shells
(`rove.client.client`, `rove.client.aio`) only send, wait, and play talks one after the other or
together.

- Every call may be repeated, so every failure that may pass is: with the same ids, after full
  jitter (wait ~ U(0, min(cap, base 2^n)), Brooker 2015) on top of the server's `Retry-After`,
  until `timeout_s` is over.
- A shard's own path is tried for at most half of the time that is left; if it fails, or does not
  know what it is asked for, the gateway is asked.
- A shard that answers 421 brings the topology that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, structs

from rove.catalogue import Item
from rove.client import calls
from rove.client.calls import MAX_ROWS, Call
from rove.client.errors import ClientError, NoAnswer, Refused, refusal
from rove.client.routes import GATEWAY, Routes
from rove.client.steps import Alone, Answer, Lost, Send, Talk, Together, Wait
from rove.event_ids import new_event_id
from rove.events import Decision, Interaction, Outcome, RankRequest
from rove.messages import ItemOutcome, Topology
from rove.records import UserExport

T = TypeVar("T")
Result = Outcome | ClientError
"""What became of one interaction."""
_BASE_S = 0.05
_CAP_S = 2.0
_LEAST_S = 0.001
_MAX_REDIRECTIONS = 3
_ELSEWHERE = frozenset({404, 405})
_MISDIRECTED = 421


class _Misdirection(Struct):
    topology: Topology


class Talks:
    """The talks of one client."""

    def __init__(
        self,
        *,
        direct: bool,
        timeout_s: float,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._rng = rng
        self.routes = Routes(direct, clock)

    def rank(self, request: RankRequest) -> Talk[Decision]:
        """Decide, under an id that is given here unless the request has one."""
        deadline_s = self._clock() + self._timeout_s
        yield from self._look(deadline_s)
        if request.event_id is None:
            event_id = new_event_id(self.routes.owner(request.user_id))
            request = structs.replace(request, event_id=event_id)
        return (yield from self.ask(calls.rank(request), deadline_s))

    def events(self, rows: Sequence[Interaction]) -> Talk[list[Outcome]]:
        """Store interactions; raise if any could not be sent."""
        results = yield from self.deliver(rows)
        outcomes = []
        for result in results:
            if isinstance(result, ClientError):
                raise result
            outcomes.append(result)
        return outcomes

    def deliver(self, rows: Sequence[Interaction]) -> Talk[list[Result]]:
        """Store interactions, each shard's by itself; return what became of each, in order."""
        yield from self._look(self._clock() + self._timeout_s)
        by_shard: dict[int | None, list[int]] = {}
        for number, row in enumerate(rows):
            by_shard.setdefault(self.routes.owner(row.user_id), []).append(number)
        parts = [part for numbers in by_shard.values() for part in _parts(numbers)]
        talks = [self._part([rows[n] for n in part]) for part in parts]
        answers = yield Together(talks)
        results = {
            number: result
            for part, answer in zip(parts, answers, strict=True)
            for number, result in zip(part, answer, strict=True)
        }
        return [results[number] for number in range(len(rows))]

    def export_user(self, user_id: str) -> Talk[UserExport]:
        """Read all pages of what is held about a user, and return them as one."""
        page = yield from self.ask(calls.export_user(user_id, None))
        decisions, interactions = page.decisions, page.interactions
        after = page.next
        while after is not None:
            more = yield from self.ask(calls.export_user(user_id, after))
            decisions, interactions = decisions + more.decisions, interactions + more.interactions
            after = more.next
        return structs.replace(page, decisions=decisions, interactions=interactions, next=None)

    def put_items(self, items: Sequence[Item]) -> Talk[list[ItemOutcome]]:
        """Add or replace items."""
        outcomes: list[ItemOutcome] = []
        for part in _parts(items):
            outcomes += yield from self.ask(calls.put_items(part))
        return outcomes

    def topology(self) -> Talk[Topology]:
        """Read the topology, and follow it."""
        topology = yield from self.ask(calls.topology())
        self.routes.adopt(topology)
        return topology

    def ask(self, call: Call[T], deadline_s: float | None = None) -> Talk[T]:
        """Make a call: the answer, or the error when it is final or the time is over."""
        if deadline_s is None:
            deadline_s = self._clock() + self._timeout_s
        if call.users or call.event_id is not None:
            yield from self._look(deadline_s)
        attempts = _Attempts(call, deadline_s)
        while True:
            shard, prefix = GATEWAY if attempts.by_gateway else self.routes.way(call)
            reply = yield self._request(call, prefix, attempts)
            if isinstance(reply, Answer) and self._is_good(reply, shard, attempts):
                return _read(call, reply)
            again_at_once = yield from self._redirected(reply, shard, attempts)
            if not again_at_once:
                yield Wait(self._pause_s(reply, shard, attempts))

    def _request(self, call: Call[T], prefix: str, attempts: _Attempts) -> Send:
        left_s = max(attempts.deadline_s - self._clock(), _LEAST_S)
        return Send(
            method=call.method,
            path=prefix + call.path,
            body=call.body,
            timeout_s=left_s / 2 if prefix else left_s,
        )

    def _is_good(self, answer: Answer, shard: int | None, attempts: _Attempts) -> bool:
        if answer.status == 404 and attempts.call.removes and attempts.maybe_done:
            return True  # by the attempt whose answer was lost
        good = 200 <= answer.status < 300
        if good and attempts.unknown_to is not None and shard is None:
            self.routes.failed(attempts.unknown_to)  # it is there, but not under that path
        return good

    def _redirected(
        self, reply: Answer | Lost, shard: int | None, attempts: _Attempts
    ) -> Talk[bool]:
        """Return whether the call is to be made again at once, by another way."""
        if isinstance(reply, Lost) or shard is None:
            return False
        if reply.status in _ELSEWHERE:
            attempts.by_gateway, attempts.unknown_to = True, shard
            return True
        if reply.status == _MISDIRECTED:
            attempts.num_redirections += 1
            brought = _topology(reply.body)
            if brought is None:
                self.routes.doubt()
                yield from self._look(attempts.deadline_s)
            followed = brought is not None and self.routes.adopt(brought)
            attempts.by_gateway = not followed or attempts.num_redirections >= _MAX_REDIRECTIONS
            return True
        return False

    def _pause_s(self, reply: Answer | Lost, shard: int | None, attempts: _Attempts) -> float:
        """Return how long to wait before the next attempt; raise if there is none."""
        error = attempts.error(reply)
        misdirected = isinstance(reply, Answer) and reply.status == _MISDIRECTED
        if not error.passing and not misdirected:
            raise error
        retry_after_s = error.retry_after_s if isinstance(error, Refused) else None
        if shard is not None and not (isinstance(error, Refused) and error.status == 429):
            self.routes.failed(shard)
        attempts.maybe_done = True
        pause_s = self._rng.uniform(0.0, min(_CAP_S, _BASE_S * 2.0**attempts.num_failed))
        pause_s += retry_after_s or 0.0
        attempts.num_failed += 1
        if self._clock() + pause_s >= attempts.deadline_s:
            raise error
        return pause_s

    def _look(self, deadline_s: float) -> Talk[None]:
        """Ask for the topology if it is time to, and no other talk is asking."""
        if self.routes.unsure:
            yield Alone(self._read_topology(deadline_s))

    def _read_topology(self, deadline_s: float) -> Talk[None]:
        if not self.routes.unsure:
            return  # another talk has just asked
        call = calls.topology()
        left_s = max(deadline_s - self._clock(), _LEAST_S)
        reply = yield Send(method=call.method, path=call.path, body=b"", timeout_s=left_s / 2)
        try:
            topology = call.read(reply.body) if isinstance(reply, Answer) else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            topology = None
        if topology is None:
            self.routes.failed()
        else:
            self.routes.adopt(topology)

    def _part(self, rows: Sequence[Interaction]) -> Talk[list[Result]]:
        try:
            outcomes = yield from self.ask(calls.events(rows))
        except ClientError as error:
            return [error] * len(rows)
        return list(outcomes)


class _Attempts:
    """How far a call has got."""

    def __init__(self, call: Call[Any], deadline_s: float) -> None:
        self.call = call
        self.deadline_s = deadline_s
        self.num_failed = 0
        self.num_redirections = 0
        self.by_gateway = False
        self.unknown_to: int | None = None
        """The shard whose own path did not know what it was asked for."""
        self.maybe_done = False
        """Whether an attempt may have been carried out."""

    def error(self, reply: Answer | Lost) -> NoAnswer | Refused:
        """Return what a reply that is not good stands for."""
        if isinstance(reply, Answer):
            return refusal(reply.status, reply.headers, reply.body)
        return NoAnswer(
            f"no answer to {self.call.method} {self.call.path} after {self.num_failed + 1} "
            f"attempts: {reply.reason}"
        )


def _read(call: Call[T], answer: Answer) -> T:
    try:
        return call.read(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(
            f"the answer to {call.method} {call.path} cannot be read: {error}; "
            "is the address that of a Rove gateway, and of this version?"
        ) from None


def _topology(body: bytes) -> Topology | None:
    try:
        return msgspec.json.decode(body, type=_Misdirection).topology
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _parts(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    return (rows[start : start + MAX_ROWS] for start in range(0, len(rows), MAX_ROWS))
