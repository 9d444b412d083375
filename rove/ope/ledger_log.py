"""Rove's own ledger as a log: every shard's decisions, slot by slot, with what they earned.

- A slot's reward aggregates the accepted interactions that answer it, by `rewards.RewardMap`; a
  slot that earned nothing until the decision expired has the default.
- Left out and counted: decisions that were never activated, those still waiting for rewards, and
  those with a slot of another number than its place.
- Shards are read one after the other while they are being written; a decision is whole or absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from rove.config import StoreSection
from rove.errors import DataError
from rove.events import Slot
from rove.ledger.database import Database
from rove.ledger.scan import all_shards
from rove.ledger.schema import decisions, interactions
from rove.ledger.store import open_store
from rove.ope.cleaning import Tally
from rove.ope.log import Floats, Logged, SlateLog, check_propensities, check_rewards
from rove.readers import ReadReport
from rove.rewards import RewardMap

_NUM_ROWS = 4096  # decisions of one read

Earned = dict[tuple[str, int], tuple[list[float], list[float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedSlates:
    """N decisions of at most K slots; shorter ones end with "", propensity 1 and reward 0."""

    event_ids: tuple[str, ...]
    policies: tuple[str, ...]
    item_ids_NK: npt.NDArray[np.object_]
    reward_NK: Floats
    propensity_NK: Floats
    created_at_N: Floats
    reward_range: tuple[float, float]

    def under(
        self, evaluation_NK: Floats, q_NK: Floats | None = None, v_NK: Floats | None = None
    ) -> SlateLog:
        """Return the log beside another policy's probabilities of the same slots.

        They are conditional on the slots before, and 1 where the item id is "".
        """
        return SlateLog(
            reward_NK=self.reward_NK,
            propensity_NK=self.propensity_NK,
            evaluation_NK=evaluation_NK,
            q_NK=q_NK,
            v_NK=v_NK,
            reward_range=self.reward_range,
        )

    def slot(self, slot: int, item_ids: list[str]) -> Logged:
        """Return one slot as single decisions, actions numbered as in `item_ids`."""
        number = {item_id: place for place, item_id in enumerate(item_ids)}
        shown_N = self.item_ids_NK[:, slot]
        filled_N = shown_N != ""
        unknown = sorted({one for one in shown_N[filled_N] if one not in number})
        if unknown:
            raise DataError(
                f"slot {slot} showed {len(unknown)} items that are not in item_ids, got "
                f"{unknown[0]!r}; add them"
            )
        return Logged(
            action_N=np.array([number[one] for one in shown_N[filled_N]], dtype=np.int64),
            reward_N=self.reward_NK[filled_N, slot],
            propensity_N=self.propensity_NK[filled_N, slot],
            num_actions=len(item_ids),
            reward_range=self.reward_range,
        )


@dataclass(slots=True)
class _Columns:
    event_ids: list[str] = field(default_factory=list)
    policies: list[str] = field(default_factory=list)
    created_at: list[float] = field(default_factory=list)
    slots: list[list[Slot]] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)


def read_ledger(
    store: StoreSection,
    rewards: RewardMap,
    *,
    now: float,
    policy: str | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[LoggedSlates, ReadReport]:
    """Return the decisions of all shards that were due by `now`, of one policy if it is named."""
    tally = Tally(path=open_store(store).name)
    columns = _Columns()
    for _, database in all_shards(store):
        _add_shard(database, rewards, now, policy, columns, tally)
    report = tally.report(len(columns.slots))
    return _slates(columns, reward_range), report


def _add_shard(
    database: Database,
    rewards: RewardMap,
    now: float,
    policy: str | None,
    columns: _Columns,
    tally: Tally,
) -> None:
    for rows in _batches(database, policy):
        shown = {row.event_id: msgspec.json.decode(row.slots, type=list[Slot]) for row in rows}
        earned = _earned(database, shown)
        for row in rows:
            tally.num_read += 1
            slots = shown[row.event_id]
            reason = _unusable(row.activated_at, row.expires_at, now, slots)
            if reason is not None:
                tally.add(reason, f"decision {row.event_id}")
                continue
            columns.event_ids.append(row.event_id)
            columns.policies.append(row.policy)
            columns.created_at.append(row.created_at)
            columns.slots.append(slots)
            columns.rewards.append(
                [rewards.aggregate(*earned.get((row.event_id, s.slot), ([], []))) for s in slots]
            )


def _unusable(
    activated_at: float | None, expires_at: float, now: float, slots: list[Slot]
) -> str | None:
    if activated_at is None:
        return "never activated"
    if expires_at > now:
        return "still waiting for rewards"
    if not slots:
        return "an empty slate"
    return None if [s.slot for s in slots] == list(range(len(slots))) else "slots out of order"


def _batches(database: Database, policy: str | None) -> Iterator[list[_DecisionRow]]:
    after = ""
    while True:
        query = (
            select(*(decisions.c[name] for name in _DecisionRow.__struct_fields__))
            .where(decisions.c.event_id > after)
            .order_by(decisions.c.event_id)
            .limit(_NUM_ROWS)
        )
        if policy is not None:
            query = query.where(decisions.c.policy == policy)
        with database.reading() as connection:
            rows = [_DecisionRow(*row) for row in connection.execute(query)]
        if not rows:
            return
        after = rows[-1].event_id
        yield rows


class _DecisionRow(msgspec.Struct, frozen=True):
    event_id: str
    policy: str
    slots: str
    created_at: float
    expires_at: float
    activated_at: float | None


def _earned(database: Database, shown: dict[str, list[Slot]]) -> Earned:
    """Return rewards and times of the accepted interactions that answer each slot."""
    ids = sorted(shown)
    names = ("event_id", "slot", "item_id", "reward", "timestamp")
    query = (
        select(*(interactions.c[name] for name in names))
        .where(interactions.c.event_id.is_not(None))
        .where(interactions.c.event_id.between(ids[0], ids[-1]))
        .where(interactions.c.status == "accepted")
        .order_by(interactions.c.sequence)
    )
    earned: Earned = {}
    with database.reading() as connection:
        rows = connection.execute(query).all()
    for event_id, slot, item_id, reward, timestamp in rows:
        if event_id not in shown:
            continue
        if slot is None:
            slot = next((s.slot for s in shown[event_id] if s.item_id == item_id), -1)
        values, times = earned.setdefault((event_id, slot), ([], []))
        values.append(reward)
        times.append(timestamp)
    return earned


def _slates(columns: _Columns, reward_range: tuple[float, float]) -> LoggedSlates:
    n, k = len(columns.slots), max(map(len, columns.slots))
    item_ids_NK = np.full((n, k), "", dtype=object)
    reward_NK, propensity_NK = np.zeros((n, k)), np.ones((n, k))
    for row, (slots, rewards) in enumerate(zip(columns.slots, columns.rewards, strict=True)):
        for slot, reward in zip(slots, rewards, strict=True):
            item_ids_NK[row, slot.slot] = slot.item_id
            reward_NK[row, slot.slot] = reward
            propensity_NK[row, slot.slot] = slot.propensity
    check_rewards(reward_NK, reward_range)
    check_propensities(propensity_NK)
    order = np.argsort(columns.created_at, kind="stable")
    return LoggedSlates(
        event_ids=tuple(columns.event_ids[row] for row in order),
        policies=tuple(columns.policies[row] for row in order),
        item_ids_NK=item_ids_NK[order],
        reward_NK=reward_NK[order],
        propensity_NK=propensity_NK[order],
        created_at_N=np.array(columns.created_at)[order],
        reward_range=reward_range,
    )
