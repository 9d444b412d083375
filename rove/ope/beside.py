"""What a shadow or an apprentice would have earned: the ledger keeps its probabilities.

A policy that is asked beside decisions says how probable each slot that was shown would have been
(`records.Beside.shown`), by the models that decided. So its value needs no model, no release and no
settings: the estimators of `rove.ope.slates` take the log as it is.

    log = asked_beside(store, rewards, "candidate", now=now)
    reward_interaction_ips(log).value

- Where the baseline was shown for certain (an apprentice), the log holds one action a slot, and no
  weighting can say what others earn: only the agreement is worth looking at.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from sqlalchemy import bindparam, select

from rove.config import StoreSection
from rove.errors import DataError
from rove.ledger.database import Database
from rove.ledger.scan import all_shards
from rove.ledger.schema import decisions
from rove.ope.ledger_log import read_ledger
from rove.ope.log import SlateLog
from rove.records import Beside
from rove.rewards import RewardMap

_NUM_ROWS = 4096
_decode = msgspec.json.Decoder(list[Beside]).decode
_select = (
    select(decisions.c.event_id, decisions.c.beside)
    .where(decisions.c.beside.is_not(None), decisions.c.event_id > bindparam("after"))
    .order_by(decisions.c.event_id)
    .limit(_NUM_ROWS)
)


def asked_beside(
    store: StoreSection,
    rewards: RewardMap,
    policy: str,
    *,
    now: float,
    version: str | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
) -> SlateLog:
    """Return the decisions due by `now` that a policy was asked beside, with its probabilities."""
    slates, _ = read_ledger(store, rewards, now=now, reward_range=reward_range)
    shown = {
        event_id: one.shown
        for _, database in all_shards(store)
        for event_id, one in _asked(database)
        if one.policy == policy and version in (None, one.policy_version)
    }
    rows = [row for row, event_id in enumerate(slates.event_ids) if event_id in shown]
    if not rows:
        raise DataError(
            f"policy {policy} was asked beside none of the {len(slates.event_ids)} decisions that "
            "are due; put it with mode shadow and wait"
        )
    evaluation_NK = np.ones((len(rows), slates.propensity_NK.shape[1]))
    for number, row in enumerate(rows):
        of_slots = shown[slates.event_ids[row]]
        evaluation_NK[number, : len(of_slots)] = of_slots
    return SlateLog(
        reward_NK=slates.reward_NK[rows],
        propensity_NK=slates.propensity_NK[rows],
        evaluation_NK=evaluation_NK,
        reward_range=reward_range,
    )


def _asked(database: Database) -> Iterator[tuple[str, Beside]]:
    after = ""
    while True:
        with database.reading() as connection:
            rows = connection.execute(_select, {"after": after}).all()
        if not rows:
            return
        after = rows[-1].event_id
        for row in rows:
            for one in _decode(row.beside):
                yield row.event_id, one
