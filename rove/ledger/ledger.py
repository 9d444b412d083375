"""One shard's record of what was decided and what users then did.

    rove.events         the records that go in and come out
    ledger.schema       the tables
    ledger.store        SQLite or PostgreSQL: transactions, errors
    ledger.lease        one writer at a time
    ledger.transaction  what a transaction can do
    ledger.shown        decisions with what answered them
    ledger.scan         every shard's interactions, for training

- A row is acknowledged only after the commit that holds it; `transaction` is all or nothing.
- Ids are idempotency keys: an id that is stored already is a `Conflict`, so look first.
- One writer per shard: it has a lease from `open` to `close`, the end of the process, or until
  another took over after it had been silent for `store.lease_s` (then: `LeaseLost`). Others read.
- Whoever keeps something in memory beside the ledger looks at `num_doubts` before relying on it.
- A ledger is used by one thread at a time.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Self

import msgspec
import numpy as np
import pyarrow as pa
from sqlalchemy import (
    bindparam,
    select,
)

from rove.config import StoreSection
from rove.errors import ConfigError, OutcomeUnknown, StoreUnavailable
from rove.events import Decision
from rove.ledger import rights
from rove.ledger.database import (
    Database,
    Store,
    check_schema,
    prepare,
    read_meta,
    shard_part,
)
from rove.ledger.export import decisions_of, interactions_of
from rove.ledger.lease import Lease, add_lease
from rove.ledger.records import Erased as Erased
from rove.ledger.records import History as History
from rove.ledger.records import Receipt as Receipt
from rove.ledger.records import Rewards as Rewards
from rove.ledger.records import Statistics as Statistics
from rove.ledger.records import StoredInteraction as StoredInteraction
from rove.ledger.records import TrialParts as TrialParts
from rove.ledger.records import TrialSums as TrialSums
from rove.ledger.rows import stored_interaction
from rove.ledger.scan import all_interactions
from rove.ledger.schema import (
    SCHEMA_VERSION,
    decisions,
    interactions,
    item_statistics,
    ledger_meta,
    ledger_metadata,
    settlements,
    trial_sums,
)
from rove.ledger.shown import Shown, answered_since, shown_to, shown_until
from rove.ledger.store import open_store
from rove.ledger.transaction import Transaction as Transaction
from rove.ledger.transaction import read_decisions
from rove.pseudonyms import PLAIN, check_user_ids
from rove.records import Beside, UserDecision

_SCRUB_RETRY_S = 1.0
_USER_IDS = "user_ids"
"""Key in `meta`: how users are named."""
_decode_beside = msgspec.json.Decoder(list[Beside]).decode

_select_history = (
    select(
        interactions.c.item_id,
        interactions.c.reward,
        interactions.c.timestamp,
        interactions.c.event_id,
        interactions.c.slot,
        interactions.c.type,
    )
    .where(interactions.c.user_id == bindparam("user_id"))
    .order_by(interactions.c.timestamp, interactions.c.sequence)
)
_select_rewards = select(
    interactions.c.item_id, interactions.c.reward, interactions.c.timestamp
).where(
    interactions.c.reward > 0.0,
    interactions.c.sequence > bindparam("sequence"),
    interactions.c.timestamp > bindparam("time_s"),
)
_select_answers = (
    select(interactions)
    .where(interactions.c.event_id == bindparam("event_id"))
    .order_by(interactions.c.timestamp, interactions.c.sequence)
)
_select_beside = select(decisions.c.beside).where(decisions.c.event_id == bindparam("event_id"))
_select_statistics = select(
    item_statistics.c.item_id,
    item_statistics.c.weight,
    item_statistics.c.total,
    item_statistics.c.as_of,
    item_statistics.c.revision,
).where(
    item_statistics.c.release == bindparam("release"),
    item_statistics.c.revision > bindparam("since"),
)

_select_trials = select(trial_sums.c.item_id, trial_sums.c.sums, trial_sums.c.revision).where(
    trial_sums.c.release == bindparam("release"), trial_sums.c.revision > bindparam("since")
)
_select_settlement = select(settlements.c.until).where(
    settlements.c.release == bindparam("release")
)


class Ledger:
    """One shard's ledger."""

    shard: int
    num_shards: int

    num_doubts: int
    """How many transactions may have been stored although they raised (`OutcomeUnknown`)."""

    def __init__(
        self, section: StoreSection, store: Store, database: Database, shard: int, num_shards: int
    ) -> None:
        self.shard = shard
        self.num_shards = num_shards
        self.num_doubts = 0
        self._section = section
        self._store = store
        self._database = database
        self._lease: Lease | None = None
        self._others: dict[int, Database] = {}
        self._revisions: dict[str, int] = {}
        self._to_scrub = False
        self._scrubbed_at = -_SCRUB_RETRY_S

    @classmethod
    def open(
        cls,
        section: StoreSection,
        shard: int,
        num_shards: int,
        *,
        read_only: bool = False,
        user_ids: str | None = None,
    ) -> Self:
        """Open one shard for writing (waits for another writer to leave), or only for reading.

        `user_ids`: how it names users (`rove.pseudonyms`); one that does otherwise is refused.
        Whoever writes users' rows has to say.
        """
        assert 0 <= shard < num_shards, (shard, num_shards)
        with ExitStack() as undo:
            store = open_store(section)
            undo.callback(store.close)
            database = store.open(shard_part(shard), "read" if read_only else "write")
            undo.callback(database.close)
            _check_neighbour(store, shard, num_shards)
            ledger = cls(section, store, database, shard, num_shards)
            ledger._prepare(read_only, user_ids)
            undo.pop_all()
        return ledger

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commit what the body does on the `Transaction`, or nothing if anything is raised."""
        if self._lease is None:
            raise StoreUnavailable(f"{self._database.name} is open for reading only")
        try:
            with self._database.transaction() as connection:
                self._lease.check(connection)
                transaction = Transaction(connection, self._revisions)
                yield transaction
        except OutcomeUnknown:
            self.num_doubts += 1
            raise
        due = self._to_scrub and time.monotonic() - self._scrubbed_at >= _SCRUB_RETRY_S
        if transaction.erased or due:
            self._scrub()

    def renew(self) -> None:
        """Renew the lease if it is due, as every transaction does; `LeaseLost` if it is lost."""
        if self._lease is not None:
            self._lease.renew()

    def decisions(self, event_ids: Sequence[str]) -> dict[str, Decision]:
        """Return those of the decisions that are stored, by event id."""
        with self._database.reading() as connection:
            return read_decisions(connection, event_ids)

    def history(self, user_id: str) -> History:
        """Return all stored interactions of the user, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(_select_history, {"user_id": user_id}).all()
        if not rows:
            return History(
                item_ids=[],
                rewards=_floats(()),
                timestamps=_floats(()),
                event_ids=[],
                slots=[],
                types=[],
            )
        item_ids, rewards, timestamps, event_ids, slots, types = zip(*rows, strict=True)
        return History(
            item_ids=list(item_ids),
            rewards=_floats(rewards),
            timestamps=_floats(timestamps),
            event_ids=list(event_ids),
            slots=list(slots),
            types=list(types),
        )

    def rewards_since(self, *, sequence: int = 0, time_s: float = -math.inf) -> Rewards:
        """Return this shard's positive rewards after a number of `watermark` and after a time."""
        parameters = {"sequence": sequence, "time_s": max(time_s, -sys.float_info.max)}
        with self._database.reading() as connection:
            rows = connection.execute(_select_rewards, parameters).all()
        item_ids, rewards, timestamps = zip(*rows, strict=True) if rows else ((),) * 3
        return Rewards(
            item_ids=list(item_ids), rewards=_floats(rewards), timestamps=_floats(timestamps)
        )

    def interactions_of(self, event_id: str) -> list[StoredInteraction]:
        """Return what answered the decision, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(_select_answers, {"event_id": event_id}).all()
        return [stored_interaction(row) for row in rows]

    def beside(self, event_id: str) -> list[Beside]:
        """Return what policies that were asked beside a decision would have chosen."""
        with self._database.reading() as connection:
            found = connection.execute(_select_beside, {"event_id": event_id}).scalar()
        return [] if found is None else _decode_beside(found)

    def statistics(self, release: str) -> Statistics:
        """Return this shard's item statistics since `release`."""
        return _statistics(self._database, release, 0)

    def statistics_of_others(self, release: str, since: Mapping[int, int]) -> dict[int, Statistics]:
        """Return, per other shard, the rows written after revision `since[shard]` (0 when absent).

        A shard without anything new has no entry.
        """
        found: dict[int, Statistics] = {}
        for shard, database in self._all_others():
            news = _statistics(database, release, since.get(shard, 0))
            if len(news):
                found[shard] = news
        return found

    def shown_to(self, user_id: str) -> list[Shown]:
        """Return all decisions of a user with what answered them, oldest first."""
        with self._database.reading() as connection:
            return shown_to(connection, user_id)

    def expired(self, after_s: float, until_s: float) -> list[Shown]:
        """Return the first part of what expired in (after, until]; empty if nothing did."""
        with self._database.reading() as connection:
            return next(shown_until(connection, after_s, until_s), [])

    def answered_since(self, after: int) -> list[str]:
        """Return the decisions that were answered since a number of `watermark`."""
        with self._database.reading() as connection:
            return answered_since(connection, after)

    def trial_sums(self, release: str) -> TrialSums:
        """Return this shard's trial sums since `release`."""
        return _trial_sums(self._database, release, 0)

    def trial_sums_of_others(self, release: str, since: Mapping[int, int]) -> dict[int, TrialSums]:
        """Return, per other shard, the rows written after revision `since[shard]`; as above."""
        found: dict[int, TrialSums] = {}
        for shard, database in self._all_others():
            news = _trial_sums(database, release, since.get(shard, 0))
            if len(news):
                found[shard] = news
        return found

    def settled_until(self, release: str) -> float | None:
        """Return until when expired decisions count in the trial sums; None before any was."""
        with self._database.reading() as connection:
            found: float | None = connection.execute(
                _select_settlement, {"release": release}
            ).scalar()
        return found

    def state(self, key: str) -> str | None:
        """Return what `Transaction.put_state` kept under a key."""
        return read_meta(self._database, ledger_meta).get(key)

    def export(
        self, user_id: str, sequence: int, event_id: str
    ) -> tuple[Sequence[UserDecision], list[StoredInteraction], int]:
        """Return a user's decisions after an id, interactions after a number, and their last."""
        with self._database.reading() as connection:
            rows, last = interactions_of(connection, user_id, sequence)
            return decisions_of(connection, user_id, event_id), rows, last

    def receipt(self, erasure_id: str) -> Receipt | None:
        """Return the receipt of an erasure, if there is one of that id."""
        with self._database.reading() as connection:
            return rights.receipt_of(connection, erasure_id)

    def all_interactions(self) -> Iterator[pa.RecordBatch]:
        """Yield every shard's interactions; see `rove.ledger.scan`."""
        return all_interactions(self._section)

    def close(self) -> None:
        """Close everything and let another writer in."""
        if self._to_scrub:
            self._scrub()
        for database in self._others.values():
            database.close()
        self._others.clear()
        if self._lease is not None:
            self._lease.release()
        self._database.close()
        self._store.close()

    def _prepare(self, read_only: bool, user_ids: str | None) -> None:
        found = read_meta(self._database, ledger_meta)
        expected = {
            "schema_version": str(SCHEMA_VERSION),
            "shard": str(self.shard),
            "num_shards": str(self.num_shards),
        }
        if user_ids is not None:
            expected[_USER_IDS] = user_ids
        if not found and not read_only:
            prepare(self._database, ledger_metadata, ledger_meta, expected, add_lease)
            found = read_meta(self._database, ledger_meta)
        name = self._database.name
        check_schema(name, found)
        _check_num_shards(name, found, self.num_shards)
        if found["shard"] != str(self.shard):
            raise StoreUnavailable(
                f"{name} holds shard {found['shard']}, not {self.shard}; give it its name back"
            )
        if user_ids is not None and _USER_IDS in found:
            check_user_ids(name, found[_USER_IDS], user_ids)
        if not read_only:
            section = self._section
            self._lease = Lease(self._database, section.lease_s, section.busy_timeout_s)
            self._scrub()  # a process that erased may have ended before it could
            if user_ids is not None and _USER_IDS not in found:
                self._name_users(user_ids)

    def _name_users(self, user_ids: str) -> None:
        """Note how users are named in a ledger that does not say yet; with rows: as they are."""
        with self._database.reading() as connection:
            tables = (interactions, decisions)
            is_empty = all(
                connection.execute(select(one.c.user_id).limit(1)).first() is None for one in tables
            )
        if not is_empty:
            check_user_ids(self._database.name, PLAIN, user_ids)
        with self.transaction() as transaction:
            transaction.put_state(_USER_IDS, user_ids)

    def _all_others(self) -> Iterator[tuple[int, Database]]:
        """Yield the other shards that there are."""
        missing = set(range(self.num_shards)) - {self.shard} - set(self._others)
        if missing:
            self._look_for(missing.intersection(self._store.shards()))
        yield from sorted(self._others.items())

    def _look_for(self, shards: set[int]) -> None:
        """Open those that have got their tables."""
        for shard in sorted(shards):
            database = self._store.open(shard_part(shard), "read")
            if read_meta(database, ledger_meta):
                self._others[shard] = database
            else:
                database.close()

    def _scrub(self) -> None:
        """Remove what was erased from the write-ahead log too; later if a reader prevents it."""
        self._scrubbed_at = time.monotonic()
        self._to_scrub = not self._database.scrub()


def _statistics(database: Database, release: str, since: int) -> Statistics:
    parameters = {"release": release, "since": since}
    with database.reading() as connection:
        rows = connection.execute(_select_statistics, parameters).all()
    item_ids, weight, total, as_of, revisions = zip(*rows, strict=True) if rows else ((),) * 5
    return Statistics(
        item_ids=list(item_ids),
        weight=_floats(weight),
        total=_floats(total),
        as_of=_floats(as_of),
        revision=max(revisions, default=since),
    )


def _trial_sums(database: Database, release: str, since: int) -> TrialSums:
    parameters = {"release": release, "since": since}
    with database.reading() as connection:
        rows = connection.execute(_select_trials, parameters).all()
    return TrialSums(
        item_ids=[row.item_id for row in rows],
        sums_nV=np.array([np.frombuffer(row.sums, "<f8") for row in rows], np.float64),
        revision=max((row.revision for row in rows), default=since),
    )


def _floats(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


def _check_num_shards(name: str, found: Mapping[str, str], num_shards: int) -> None:
    if found["num_shards"] != str(num_shards):
        raise ConfigError(
            f"{name} was written with {found['num_shards']} shards, not {num_shards}; "
            f"set serving.shards to {found['num_shards']} or store.url to a new folder"
        )


def _check_neighbour(store: Store, shard: int, num_shards: int) -> None:
    """Refuse a number of shards other than the one the store was written with.

    All shards agree, so any other one will do.
    """
    neighbour = next((other for other in store.shards() if other != shard), None)
    if neighbour is not None:
        with closing(store.open(shard_part(neighbour), "read")) as database:
            found = read_meta(database, ledger_meta)
        if found:
            check_schema(database.name, found)
            _check_num_shards(database.name, found, num_shards)
