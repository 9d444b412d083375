"""Rows that are recorded now and sent in batches: a bounded queue, without threads or tasks.

`Recording` has three plays, generators that a shell plays (`rove.client.client` on threads under
one lock, `rove.client.aio` on one event loop): `record` and `flush` for callers, `work` for the
sender. They yield `Until` (go on once the condition holds, or the time is over) and `Deliver`.

- A batch is sent when it has `batch_rows` rows or its first one has waited `batch_wait_s`.
- A row leaves the queue when the server has stored it, when the server will never store it, or when
  `flush` hands it back. A failure that may pass keeps the row, in its place, for the next batch.
- What was not stored is told: rejected rows to `on_rejected`, everything else (rejected rows too,
  without it) by `Undelivered`, raised by `flush`, or by `record` when such rows fill the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rove.client.errors import ClientError, QueueFull, Undelivered, Unsent
from rove.client.talks import Result
from rove.events import Interaction, Outcome

T = TypeVar("T")
OnFull = Literal["block", "raise"]
OnRejected = Callable[[Interaction, Outcome], None]


@dataclass(frozen=True, slots=True)
class Until:
    """Go on once `holds`, or after `timeout_s` (None: never)."""

    holds: Callable[[], bool]
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send rows, unlocked; reply what became of each."""

    rows: Sequence[Interaction]


Play = Generator[Until | Deliver, Any, T]


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    recorded_s: float
    interaction: Interaction


class Recording:
    """The queue of one client, and what is done with it."""

    def __init__(
        self,
        *,
        batch_rows: int,
        batch_wait_s: float,
        max_rows: int,
        on_full: OnFull,
        on_rejected: OnRejected | None,
        clock: Callable[[], float],
    ) -> None:
        self._batch_rows = batch_rows
        self._batch_wait_s = batch_wait_s
        self._max_rows = max_rows
        self._on_full = on_full
        self._on_rejected = on_rejected
        self._clock = clock
        self._waiting: deque[_Row] = deque()
        self._sent: list[_Row] = []
        self._unsent: list[Unsent] = []
        self._reasons: dict[int, str] = {}
        self._num_recorded = 0
        self._num_handed_back = 0
        self._num_flushing = 0
        self._stopping = False
        self.news = False
        """Whether a play that waits may go on since this was last set to False."""

    @property
    def due(self) -> bool:
        """Whether the sender has something to do."""
        return self._due_in_s() == 0.0 or self._stopping

    @property
    def num_waiting(self) -> int:
        """How many rows are held that may still be stored."""
        return len(self._waiting) + len(self._sent)

    def stop(self) -> None:
        """Have the sender end once nothing waits, and take no further rows."""
        self._stopping = self.news = True

    def record(self, interaction: Interaction) -> Play[None]:
        """Put a row into the queue."""
        if self._stopping:
            raise ClientError("the client is closed; make a new one")
        while self._num_held() >= self._max_rows:
            if len(self._unsent) >= self._max_rows or (self._unsent and self._on_full == "raise"):
                raise Undelivered(self._hand_back(0))
            if self._on_full == "raise":
                raise QueueFull(
                    f"{self._num_held()} rows wait, the limit is {self._max_rows}; slow down, or "
                    'let record wait with on_full="block"'
                )
            yield Until(self._may_record)
        self._num_recorded += 1
        self._waiting.append(_Row(self._num_recorded, self._clock(), interaction))
        self.news = self.news or len(self._waiting) in (1, self._batch_rows)

    def flush(self, timeout_s: float, patience_s: float) -> Play[None]:
        """Send what was recorded so far; raise `Undelivered` with what was not stored in time.

        A request that is under way gets `patience_s` on top, its own time limit.
        """
        last = self._num_recorded
        self._num_flushing += 1
        self.news = True
        try:
            yield Until(lambda: self._is_done(last), timeout_s)
            if not self._is_done(last):
                yield Until(lambda: not self._sent, patience_s)
        finally:
            self._num_flushing -= 1
        unsent = self._hand_back(last)
        if unsent:
            raise Undelivered(unsent)

    def work(self) -> Play[None]:
        """Send batches until `stop`."""
        while True:
            wait_s = self._due_in_s()
            if wait_s == 0.0:
                num_rows = min(self._batch_rows, len(self._waiting))
                self._sent = [self._waiting.popleft() for _ in range(num_rows)]
                results = yield Deliver([row.interaction for row in self._sent])
                self._settle(results)
            elif self._stopping:
                return
            else:
                yield Until(lambda: self.due, wait_s)

    def _due_in_s(self) -> float | None:
        """Return after how many seconds a batch is due; None when nothing waits."""
        if not self._waiting:
            return None
        if self._num_flushing or self._stopping or len(self._waiting) >= self._batch_rows:
            return 0.0
        return max(0.0, self._waiting[0].recorded_s + self._batch_wait_s - self._clock())

    def _num_held(self) -> int:
        return len(self._waiting) + len(self._sent) + len(self._unsent)

    def _may_record(self) -> bool:
        return self._num_held() < self._max_rows or len(self._unsent) >= self._max_rows

    def _is_done(self, last: int) -> bool:
        """Return whether no row up to the `last` one waits or is under way."""
        first = [rows[0].number for rows in (self._waiting, self._sent) if rows]
        return not first or min(first) > last

    def _settle(self, results: Sequence[Result]) -> None:
        """Take in what became of the rows under way."""
        again: list[_Row] = []
        for row, result in zip(self._sent, results, strict=True):
            if row.number <= self._num_handed_back:
                continue
            if isinstance(result, ClientError) and result.passing:
                again.append(row)
                self._reasons[row.number] = str(result)
                continue
            self._reasons.pop(row.number, None)
            if isinstance(result, ClientError):
                self._unsent.append(Unsent(interaction=row.interaction, reason=str(result)))
            elif result.status == "rejected":
                self._reject(row.interaction, result)
        self._waiting.extendleft(reversed(again))
        self._sent, self.news = [], True

    def _reject(self, interaction: Interaction, outcome: Outcome) -> None:
        reason = outcome.reason or "rejected"
        if self._on_rejected is not None:
            try:
                self._on_rejected(interaction, outcome)
                return
            except Exception as error:  # the caller's: told to the caller, who is not here
                reason = f"{reason} (and on_rejected raised {error!r})"
        self._unsent.append(Unsent(interaction=interaction, reason=reason))

    def _hand_back(self, last: int) -> list[Unsent]:
        """Take out what will not be stored, and what of the rows up to the `last` one was not."""
        unsent, self._unsent = self._unsent, []
        self._num_handed_back, self.news = max(last, self._num_handed_back), True
        late = [row for row in self._sent if row.number <= last]
        while self._waiting and self._waiting[0].number <= last:
            late.append(self._waiting.popleft())
        for row in late:
            reason = self._reasons.pop(row.number, "it was not sent in time")
            unsent.append(Unsent(interaction=row.interaction, reason=reason))
        return unsent
