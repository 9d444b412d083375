"""What one transaction of a shard's ledger can do, and how records become rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlalchemy import (
    ARRAY,
    BindParameter,
    Connection,
    String,
    any_,
    bindparam,
    func,
    select,
    update,
)

from rove.errors import NotFound
from rove.events import Context, Decision, Regulated, Slot
from rove.ledger import aging, rights
from rove.ledger.database import Insertion, parts_of
from rove.ledger.records import (
    Erased,
    Receipt,
    Statistics,
    StoredInteraction,
    TrialParts,
    TrialSums,
)
from rove.ledger.schema import (
    decisions,
    interactions,
    item_statistics,
    ledger_meta,
    settlements,
    trial_sums,
)
from rove.ledger.shown import Shown, shown_by_id, shown_to, shown_until
from rove.records import Beside

_encode = msgspec.json.Encoder().encode
_decode_slots = msgspec.json.Decoder(list[Slot]).decode
_decode_regulated = msgspec.json.Decoder(Regulated).decode
_decode_context = msgspec.json.Decoder(Context).decode

_ids: BindParameter[Sequence[str]] = bindparam("ids", expanding=True)
_select_decisions = select(decisions).where(decisions.c.event_id.in_(_ids))
_select_known = select(interactions.c.interaction_id).where(interactions.c.interaction_id.in_(_ids))
# One parameter instead of one an id: of a hundred, a third of the time of this process.
_select_known_of_array = select(interactions.c.interaction_id).where(
    interactions.c.interaction_id == any_(bindparam("ids", type_=ARRAY(String)))
)
_select_revision = select(func.max(item_statistics.c.revision)).where(
    item_statistics.c.release == bindparam("release")
)
_insert_decisions = Insertion(decisions, "refuse")
_insert_interactions = Insertion(interactions, "refuse")
_import_interactions = Insertion(interactions, "keep")
_put_statistics = Insertion(item_statistics, "replace")
_select_trials = select(func.max(trial_sums.c.revision)).where(
    trial_sums.c.release == bindparam("release")
)
_put_trials = Insertion(trial_sums, "replace")
_put_state = Insertion(ledger_meta, "replace")
_put_settlement = Insertion(settlements, "replace")
_NOTHING: Mapping[str, bytes] = MappingProxyType({})
_NOBODY: Mapping[str, Sequence[Beside]] = MappingProxyType({})
_activate = (
    update(decisions)
    .where(decisions.c.event_id == bindparam("event"))
    .values(activated_at=bindparam("at"))
)


class Transaction:
    """What can be done within one transaction; it sees its own writes."""

    erased: bool

    def __init__(self, connection: Connection, revisions: dict[str, int]) -> None:
        self._connection = connection
        self._revisions = revisions  # latest per release; one writer, so memory knows it
        self.erased = False

    def known_interactions(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are stored."""
        if self._connection.dialect.name == "postgresql":
            found = self._connection.execute(_select_known_of_array, {"ids": list(ids)})
            return set(found.scalars())
        known: set[str] = set()
        for part in parts_of(ids):
            known.update(self._connection.execute(_select_known, {"ids": part}).scalars())
        return known

    def decisions(self, event_ids: Sequence[str]) -> dict[str, Decision]:
        """Return those of the decisions that are stored, by event id."""
        return read_decisions(self._connection, event_ids)

    def shown(self, event_ids: Sequence[str]) -> list[Shown]:
        """Return those of the decisions that are stored, with what answered them."""
        return shown_by_id(self._connection, event_ids)

    def shown_until(self, after_s: float, until_s: float) -> Iterator[list[Shown]]:
        """Yield what expired in (after, until]; see `rove.ledger.shown`."""
        return shown_until(self._connection, after_s, until_s)

    def add_decisions(
        self,
        new: Sequence[Decision],
        context_vectors: Mapping[str, bytes] = _NOTHING,
        beside: Mapping[str, Sequence[Beside]] = _NOBODY,
    ) -> None:
        """Store decisions, with vectors and what is beside by id; `Conflict` if an id is stored."""
        rows = [
            _decision_row(one, context_vectors.get(one.event_id), beside.get(one.event_id, ()))
            for one in new
        ]
        _insert_decisions.run(self._connection, rows)

    def add_interactions(self, new: Sequence[StoredInteraction]) -> None:
        """Store interactions; `Conflict` if an id is stored."""
        _insert_interactions.run(self._connection, [_interaction_row(one) for one in new])

    def import_interactions(self, rows: pa.Table, received_at: float) -> int:
        """Store rows of a history, leaving out the ids that are stored; return how many were new.

        Columns: those of the table that `rove.ledger.load` makes.
        """
        if len(rows) == 0:
            return 0
        # Binding costs more than storing: leave out the columns that say nothing.
        names = [name for name in rows.column_names if rows[name].null_count < len(rows)]
        columns = [rows[name].to_pylist() for name in names]
        constants = {"status": "accepted", "received_at": received_at}
        parameters = [
            dict(zip(names, values, strict=True), **constants)
            for values in zip(*columns, strict=True)
        ]
        return _import_interactions.run(self._connection, parameters)

    def add_statistics(self, release: str, rows: Statistics) -> int:
        """Store the items' current statistics in place of older ones, and return the new revision.

        `rows.revision` is not looked at.
        """
        if release not in self._revisions:
            latest = self._connection.execute(_select_revision, {"release": release}).scalar()
            self._revisions[release] = latest or 0
        self._revisions[release] = revision = self._revisions[release] + 1
        columns = (rows.item_ids, rows.weight.tolist(), rows.total.tolist(), rows.as_of.tolist())
        new = [
            {
                "release": release,
                "item_id": item_id,
                "weight": weight,
                "total": total,
                "as_of": as_of,
                "revision": revision,
            }
            for item_id, weight, total, as_of in zip(*columns, strict=True)
        ]
        _put_statistics.run(self._connection, new)
        return revision

    def add_trial_sums(self, release: str, rows: TrialSums) -> int:
        """Store the items' current sums in place of older ones, and return the new revision."""
        key = f"trials/{release}"
        if key not in self._revisions:
            latest = self._connection.execute(_select_trials, {"release": release}).scalar()
            self._revisions[key] = latest or 0
        self._revisions[key] = revision = self._revisions[key] + 1
        if len(rows):
            sums = rows.sums_nV.astype("<f8", copy=False)
            new = [
                {
                    "release": release,
                    "item_id": item_id,
                    "sums": sums_V.tobytes(),
                    "revision": revision,
                }
                for item_id, sums_V in zip(rows.item_ids, sums, strict=True)
            ]
            _put_trials.run(self._connection, new)
        return revision

    def add_trial_parts(self, parts: TrialParts) -> None:
        """Store what trials added to the sums, so that it can be taken back."""
        rights.add_parts(self._connection, parts)

    def trial_parts_of(self, user_id: str) -> tuple[list[str], npt.NDArray[np.float64]]:
        """Return the items of a user's trials, and what each trial added, (n, W)."""
        return rights.parts_of(self._connection, user_id)

    def clear_trial_parts(self) -> None:
        """Delete all parts, before the sums of another release are counted."""
        rights.clear_parts(self._connection)

    def rewards_of(self, user_id: str, after: int, time_s: float) -> list[StoredInteraction]:
        """Return a user's positive rewards that came after a number, or happened after a time."""
        return rights.rewards_of(self._connection, user_id, after, time_s)

    def last_sequence(self) -> int:
        """Return the number of the latest interaction, 0 if there is none."""
        return rights.last_sequence(self._connection)

    def shown_to(self, user_id: str) -> list[Shown]:
        """Return all decisions of a user with what answered them, oldest first."""
        return shown_to(self._connection, user_id)

    def settle(self, release: str, until_s: float) -> None:
        """Note that what expired by `until_s` counts in the trial sums."""
        _put_settlement.run(self._connection, [{"release": release, "until": until_s}])

    def put_state(self, key: str, value: str) -> None:
        """Keep a small state of this shard under a key, in place of an older one."""
        _put_state.run(self._connection, [{"key": key, "value": value}])

    def activate(self, event_id: str, at: float) -> None:
        """Note when a deferred decision was shown."""
        if self._connection.execute(_activate, {"event": event_id, "at": at}).rowcount == 0:
            raise NotFound(f"no decision {event_id!r}; rank first")

    def erase_user(self, user_id: str) -> Erased:
        """Delete the user's rows; after the commit no copy of them is left in the shard's files."""
        self.erased = True
        return rights.delete_user(self._connection, user_id)

    def delete_interactions(self, after: int, before_s: float) -> tuple[set[str], int, int | None]:
        """Delete the next old interactions; see `rove.ledger.aging`."""
        return aging.delete_interactions(self._connection, after, before_s)

    def delete_decisions(self, before_s: float, wait_s: float) -> set[str]:
        """Delete the next old decisions; see `rove.ledger.aging`."""
        return aging.delete_decisions(self._connection, before_s, wait_s)

    def empty_sums(self, release: str) -> None:
        """Set the sums of releases other than this one to nothing."""
        rights.empty_sums(self._connection, release)

    def put_receipt(self, erasure_id: str, user_id: str, receipt: Receipt) -> None:
        """Keep the receipt of an erasure; see `rove.ledger.rights`."""
        rights.put_receipt(self._connection, erasure_id, user_id, receipt)


def read_decisions(connection: Connection, event_ids: Sequence[str]) -> dict[str, Decision]:
    """Return those of the decisions that are stored, by event id."""
    found: dict[str, Decision] = {}
    for part in parts_of(event_ids):
        for row in connection.execute(_select_decisions, {"ids": part}).mappings():
            values: dict[str, Any] = dict(row)
            del values["beside"]  # for those who evaluate: `Ledger.beside`
            del values["context_vector"]  # for learning alone: `rove.ledger.shown`
            values["seed"] = int(values["seed"])
            values["slots"] = _decode_slots(values["slots"])
            if values["regulated"] is not None:
                values["regulated"] = _decode_regulated(values["regulated"])
            if values["context"] is not None:
                values["context"] = _decode_context(values["context"])
            found[values["event_id"]] = Decision(**values)
    return found


def _decision_row(
    decision: Decision, context_vector: bytes | None, beside: Sequence[Beside]
) -> dict[str, Any]:
    row = msgspec.structs.asdict(decision)
    row["beside"] = _encode(beside).decode() if beside else None
    row["context_vector"] = context_vector
    row["seed"] = str(decision.seed)
    row["slots"] = _encode(decision.slots).decode()
    if decision.regulated is not None:
        row["regulated"] = _encode(decision.regulated).decode()
    if decision.context is not None:
        row["context"] = _encode(decision.context).decode()
    return row


def _interaction_row(stored: StoredInteraction) -> dict[str, Any]:
    interaction = stored.interaction
    assert interaction.timestamp is not None, "the engine fills the timestamp in"
    row = msgspec.structs.asdict(interaction)
    row["type"] = str(interaction.type)
    row["session"] = stored.session
    row["reward"] = stored.reward
    row["status"] = stored.status
    row["received_at"] = stored.received_at
    return row
