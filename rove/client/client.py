"""The client for threads: it plays `rove.client.talks` by httpx, and sends records on a thread."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
_THREADS = 16
"""Most requests of one call to `events` under way together: one per shard."""


class RoveClient(BaseClient):
    """A client of a Rove service; may be used by many threads.

        with RoveClient("http://127.0.0.1:8000", api_key="...") as client:
            decision = client.rank(RankRequest(user_id="ann", k=5))
            client.record(interaction("ann", "mug", "click", decision=decision))

    - `url`: of the gateway. `api_key`: sent as `Authorization: Bearer`, shown nowhere.
    - `direct`: calls about a user go straight to the shard that owns the user, by `/v1/topology`;
      through the gateway where a shard's path cannot be reached. False: always by the gateway.
    - `timeout_s`: of a call with all its retries (connection errors, 429 and 5xx). Ids are given
      before the first attempt, so nothing is decided, stored or counted twice.
    - `record` collects rows and sends them `batch_rows` at a time, or what there is after
      `batch_wait_s`. At most `max_rows` are held; then `record` waits (`on_full="block"`) or raises
      `QueueFull` ("raise").
    - `on_rejected`: called, on the sender's thread, with each row that the server rejected and why.
    - `verify`: of TLS, as httpx takes it.

    Errors: `rove.client.errors`.
    """

    _http: httpx.Client
    _pool: ThreadPoolExecutor
    _one_at_a_time: threading.Lock
    _changed: threading.Condition
    _thread: threading.Thread | None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def rank(self, request: RankRequest) -> Decision:
        """Choose items for a user."""
        return self._play(self._talks.rank(request))

    def events(self, interactions: Sequence[Interaction]) -> list[Outcome]:
        """Store what users did, now; return what became of each.

        If this raises, some may be stored: sending all of them again is safe.
        """
        return self._play(self._talks.events(interactions))

    def reward(self, decision: Decision | str, reward: RewardRequest | float) -> Outcome:
        """Give a slot of a decision (or of the decision with this id) an explicit reward."""
        return self._play(self._talks.ask(calls.reward(decision, reward)))

    def activate(self, decision: Decision | str, user_id: str | None = None) -> Decision:
        """Say that a deferred decision was shown."""
        return self._play(self._talks.ask(calls.activate(decision, user_id)))

    def decision(self, decision: Decision | str, user_id: str | None = None) -> DecisionRecord:
        """Return a decision's record and what it earned."""
        return self._play(self._talks.ask(calls.decision(decision, user_id)))

    def put_items(self, items: Sequence[Item]) -> list[ItemOutcome]:
        """Add or replace items; return what became of each."""
        return self._play(self._talks.put_items(items))

    def item(self, item_id: str) -> Item:
        """Return an item of the catalogue."""
        return self._play(self._talks.ask(calls.item(item_id)))

    def delete_item(self, item_id: str) -> None:
        """Take an item out of the catalogue."""
        self._play(self._talks.ask(calls.delete_item(item_id)))

    def user(self, user_id: str) -> UserProfile:
        """Return what is known and was learnt about a user."""
        return self._play(self._talks.ask(calls.user(user_id)))

    def export_user(self, user_id: str) -> UserExport:
        """Return all that is held about a user."""
        return self._play(self._talks.export_user(user_id))

    def delete_user(self, user_id: str) -> Erasure:
        """Erase a user; return the receipt."""
        return self._play(self._talks.ask(calls.delete_user(user_id)))

    def erasure(self, erasure_id: str, user_id: str | None = None) -> Erasure:
        """Return the receipt of an erasure; with a user, only if it is of that user."""
        return self._play(self._talks.ask(calls.erasure(erasure_id, user_id)))

    def topology(self) -> Topology:
        """Return which shard owns which user."""
        return self._play(self._talks.topology())

    def ready(self) -> Readiness:
        """Return once every shard and the encoder answer; raise `Unavailable` if they do not."""
        return self._play(self._talks.ask(calls.ready()))

    def record(self, interaction: Interaction) -> None:
        """Have what a user did stored soon; `flush` or `close` say what could not be."""
        self._perform(self._recording.record(interaction))
        self._start()

    def flush(self, timeout_s: float | None = None) -> None:
        """Return once everything recorded before is stored; else raise `Undelivered`.

        `timeout_s`: the client's when absent.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        self._perform(self._recording.flush(timeout_s, self._timeout_s))

    def close(self) -> None:
        """Flush and close; raise `Undelivered` if something recorded could not be stored."""
        atexit.unregister(self.close)
        with self._changed:
            self._recording.stop()
            self._changed.notify_all()
        try:
            self.flush()
        finally:
            if self._thread is not None:
                self._thread.join()
            self._pool.shutdown()
            self._http.close()

    def _open(self, options: HttpOptions) -> None:
        self._http = httpx.Client(
            base_url=options.base_url,
            headers=options.headers,
            verify=options.verify,
            limits=LIMITS,
        )
        self._pool = ThreadPoolExecutor(_THREADS, "rove-client")
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Condition()
        self._thread = None

    def _play(self, talk: Talk[T]) -> T:
        reply: Any = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                answer: T = end.value
                return answer
            match step:
                case Send():
                    reply = self._send(step)
                case Wait(wait_s):
                    reply = None
                    time.sleep(wait_s)
                case Together([one]):
                    reply = [self._play(one)]
                case Together(talks):
                    reply = self._together(talks)
                case Alone(one):
                    with self._one_at_a_time:
                        reply = self._play(one)

    def _together(self, talks: Sequence[Talk[T]]) -> list[T]:
        try:
            futures = [self._pool.submit(self._play, talk) for talk in talks]
        except RuntimeError:  # at the interpreter's exit no thread is begun any more
            return [self._play(talk) for talk in talks]
        return [future.result() for future in futures]

    def _send(self, step: Send) -> Answer | Lost:
        try:
            return answer_of(self._http.request(**request_of(step)))
        except httpx.RequestError as error:
            return lost(error)

    def _start(self) -> None:
        """Start the sender with the first row; at exit it is closed if nobody has."""
        if self._thread is None:
            with self._changed:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=lambda: self._perform(self._recording.work()),
                        name="rove-client-sender",
                        daemon=True,
                    )
                    self._thread.start()
                    atexit.register(self.close)

    def _perform(self, play: Play[T]) -> T:
        with self._changed:
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
                        reply = self._play(self._talks.deliver(step.rows))
                    finally:
                        self._changed.acquire()
                else:
                    self._changed.wait_for(step.holds, step.timeout_s)
                    reply = None

    def _tell(self) -> None:
        if self._recording.news:
            self._recording.news = False
            self._changed.notify_all()
