"""What the ledger has of one person: to give out, to take back, to delete.

Every function takes an open connection. A receipt of an erasure is stored by a hash of its id, and
the person in it as an HMAC whose key is that id: with the receipt and a user's id at hand anyone
can check that the one is of the other; with the ledger alone nobody can go through a list of users.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.sql import ColumnElement

from rove.ledger.database import Insertion
from rove.ledger.records import Erased, Receipt, StoredInteraction, TrialParts
from rove.ledger.rows import stored_interaction
from rove.ledger.schema import (
    decisions,
    erasures,
    interactions,
    item_statistics,
    trial_parts,
    trial_sums,
)

Array = npt.NDArray[np.float64]

_rewards_of = (
    select(interactions)
    .where(
        interactions.c.user_id == bindparam("user"),
        interactions.c.reward > 0.0,
        or_(
            interactions.c.sequence > bindparam("after"),
            interactions.c.timestamp > bindparam("time_s"),
        ),
    )
    .order_by(interactions.c.sequence)
)
_last = select(func.max(interactions.c.sequence))
_insert_parts = Insertion(trial_parts, "refuse")
_parts_of = select(trial_parts.c.item_id, trial_parts.c.part).where(
    trial_parts.c.user_id == bindparam("user")
)
_delete = [
    delete(table).where(table.c.user_id == bindparam("user"))
    for table in (decisions, interactions, trial_parts)
]
_empty_statistics = (
    update(item_statistics)
    .where(
        item_statistics.c.release != bindparam("served"),
        or_(item_statistics.c.weight != 0.0, item_statistics.c.total != 0.0),
    )
    .values(weight=0.0, total=0.0)
)
_ZEROS: dict[str, ColumnElement[bytes]] = {
    "sqlite": func.zeroblob(func.length(trial_sums.c.sums)),
    "postgresql": func.decode(func.repeat("00", func.length(trial_sums.c.sums)), "hex"),
}
_empty_trials = {
    name: update(trial_sums)
    .where(trial_sums.c.release != bindparam("served"), trial_sums.c.sums != zeros)
    .values(sums=zeros)
    for name, zeros in _ZEROS.items()
}
_receipt = select(erasures).where(erasures.c.receipt == bindparam("hash"))


def rewards_of(
    connection: Connection, user_id: str, after: int, time_s: float
) -> list[StoredInteraction]:
    """Return a user's positive rewards that came after a number, or happened after a time."""
    parameters = {"user": user_id, "after": after, "time_s": time_s}
    return [stored_interaction(row) for row in connection.execute(_rewards_of, parameters)]


def last_sequence(connection: Connection) -> int:
    """Return the number of the latest interaction, 0 if there is none."""
    return connection.execute(_last).scalar() or 0


def add_parts(connection: Connection, parts: TrialParts) -> None:
    """Store what trials added to the sums."""
    columns = (parts.event_ids, parts.user_ids, parts.item_ids)
    rows = [
        {"event_id": event_id, "user_id": user_id, "item_id": item_id, "part": part.tobytes()}
        for event_id, user_id, item_id, part in zip(
            *columns, parts.parts_nW.astype("<f8", copy=False), strict=True
        )
    ]
    _insert_parts.run(connection, rows)


def parts_of(connection: Connection, user_id: str) -> tuple[list[str], Array]:
    """Return the items of a user's trials, and what each trial added, (n, W)."""
    rows = connection.execute(_parts_of, {"user": user_id}).all()
    parts = [np.frombuffer(row.part, "<f8") for row in rows]
    return [row.item_id for row in rows], np.array(parts, np.float64)


def clear_parts(connection: Connection) -> None:
    """Delete all parts: the sums of another release are counted from here on."""
    connection.execute(delete(trial_parts))


def delete_user(connection: Connection, user_id: str) -> Erased:
    """Delete all rows of a user."""
    counts = [connection.execute(one, {"user": user_id}).rowcount for one in _delete]
    return Erased(num_decisions=counts[0], num_interactions=counts[1], num_trials=counts[2])


def empty_sums(connection: Connection, release: str) -> None:
    """Set the sums of the releases that are not in service to nothing.

    They are never used as they are: a release that comes back is counted anew.
    """
    connection.execute(_empty_statistics, {"served": release})
    connection.execute(_empty_trials[connection.dialect.name], {"served": release})


def put_receipt(connection: Connection, erasure_id: str, user_id: str, receipt: Receipt) -> None:
    """Keep a receipt."""
    row = {
        "receipt": _hash(erasure_id),
        "person": _person(erasure_id, user_id),
        "erased_at": receipt.erased_at,
        "release": receipt.release,
        "num_decisions": receipt.erased.num_decisions,
        "num_interactions": receipt.erased.num_interactions,
        "num_trials": receipt.erased.num_trials,
    }
    connection.execute(insert(erasures), row)


def receipt_of(connection: Connection, erasure_id: str) -> Receipt | None:
    """Return a receipt, if there is one of that id."""
    row = connection.execute(_receipt, {"hash": _hash(erasure_id)}).one_or_none()
    if row is None:
        return None
    return Receipt(
        erased=Erased(
            num_decisions=row.num_decisions,
            num_interactions=row.num_interactions,
            num_trials=row.num_trials,
        ),
        erased_at=row.erased_at,
        release=row.release,
        person=row.person,
    )


def is_of(receipt: Receipt, erasure_id: str, user_id: str) -> bool:
    """Say whether a receipt is of that user."""
    return hmac.compare_digest(receipt.person, _person(erasure_id, user_id))


def _hash(erasure_id: str) -> str:
    return hashlib.sha256(erasure_id.encode("utf-8", "surrogatepass")).hexdigest()


def _person(erasure_id: str, user_id: str) -> str:
    key, message = (one.encode("utf-8", "surrogatepass") for one in (erasure_id, user_id))
    return hmac.digest(key, message, "sha256").hex()
