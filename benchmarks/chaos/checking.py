"""What was acknowledged against the ledger, and what was served against what is rebuilt from it.

Runs when the service has ended, on its ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from sqlalchemy import select

from benchmarks.chaos.load import Acknowledged
from rove.config import Config
from rove.engine import Engine
from rove.ledger.ledger import Ledger
from rove.ledger.scan import all_shards
from rove.ledger.schema import interactions
from rove.records import UserProfile
from rove.release import latest
from rove.sharding import shard_of

TOLERANCE = 1e-6
_OURS = "chaos-"


class Findings(Struct, frozen=True, kw_only=True):
    """Everything but the first three and `num_profiles` has to be zero."""

    num_acknowledged: int
    num_stored: int
    num_decisions: int
    num_missing: int
    """Acknowledged and not in the ledger."""
    num_twice: int
    """In the ledger more than once."""
    num_unasked: int
    """In the ledger, never acknowledged."""
    num_misplaced: int
    """In another user's name."""
    num_other_decisions: int
    """Acknowledged decisions that are not there, or are others."""
    num_profiles: int
    num_differing: int
    """Users whose served posterior is not the rebuilt one."""
    max_difference: float
    """Of an element of a mean."""
    max_miscount: float
    """Of an item's sum of rewards, beside the ledger's."""

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        wrong = (
            self.num_missing,
            self.num_twice,
            self.num_unasked,
            self.num_misplaced,
            self.num_other_decisions,
            self.num_differing,
        )
        return not any(wrong) and self.max_miscount <= TOLERANCE


def check(config: Config, heard: Acknowledged, served: Mapping[str, UserProfile]) -> Findings:
    """Compare."""
    stored: list[tuple[str, str]] = []
    slates: dict[str, tuple[str, ...]] = {}
    num_shards = config.serving.shards
    for shard, database in all_shards(config.store):
        with database.reading() as connection:
            query = select(interactions.c.interaction_id, interactions.c.user_id)
            ours = interactions.c.interaction_id.startswith(_OURS)
            stored += [(row[0], row[1]) for row in connection.execute(query.where(ours))]
        with_id = [
            e for e, d in heard.decisions.items() if shard_of(d.user_id, num_shards) == shard
        ]
        slates |= _slates(config, shard, with_id)
    times = Counter(one for one, _ in stored)
    differences = _differences(config, served)
    return Findings(
        num_acknowledged=len(heard.events),
        num_stored=len(stored),
        num_decisions=len(heard.decisions),
        num_missing=len(heard.events.keys() - times.keys()),
        num_twice=sum(number > 1 for number in times.values()),
        num_unasked=len(times.keys() - heard.events.keys()),
        num_misplaced=sum(heard.events.get(one, user) != user for one, user in stored),
        num_other_decisions=sum(
            slates.get(event_id) != tuple(slot.item_id for slot in decision.slots)
            for event_id, decision in heard.decisions.items()
        ),
        num_profiles=len(served),
        num_differing=sum(not one <= TOLERANCE for one in differences.values()),
        max_difference=max(differences.values(), default=0.0),
        max_miscount=max(_miscount(config, shard) for shard in range(num_shards)),
    )


def _slates(config: Config, shard: int, event_ids: list[str]) -> dict[str, tuple[str, ...]]:
    ledger = Ledger.open(config.store, shard, config.serving.shards, read_only=True)
    try:
        found = ledger.decisions(event_ids) if event_ids else {}
    finally:
        ledger.close()
    return {one: tuple(slot.item_id for slot in made.slots) for one, made in found.items()}


def _differences(config: Config, served: Mapping[str, UserProfile]) -> dict[str, float]:
    """Return by user the largest difference of the served mean to the rebuilt one."""
    differences = {}
    num_shards = config.serving.shards
    for shard in range(num_shards):
        engine = Engine.open(config, shard)
        try:
            for user_id, profile in served.items():
                if shard_of(user_id, num_shards) == shard:
                    differences[user_id] = _difference(profile, engine.user(user_id))
        finally:
            engine.close()
    return differences


def _difference(served: UserProfile, rebuilt: UserProfile) -> float:
    counts = served.num_interactions, rebuilt.num_interactions
    if served.release != rebuilt.release or len(set(counts)) > 1:
        return np.inf
    means = np.array(served.taste_mean), np.array(rebuilt.taste_mean)
    return float(np.abs(means[0] - means[1]).max())


def _miscount(config: Config, shard: int) -> float:
    """Return how far an item's stored sum of rewards is off the one over the ledger's rows.

    Both are as of the stored sum's time: a reward at t counts r 2^((t - as_of) / half_life).
    """
    release = latest(config.releases.path)
    ledger = Ledger.open(config.store, shard, config.serving.shards, read_only=True)
    try:
        rewards = ledger.rewards_since(time_s=release.as_of_s)
        stored = ledger.statistics(release.id)
    finally:
        ledger.close()
    sums = dict(zip(stored.item_ids, stored.total.tolist(), strict=True))
    as_of = dict(zip(stored.item_ids, stored.as_of.tolist(), strict=True))
    half_life_s = release.model.item_half_life_s
    rows = zip(rewards.item_ids, rewards.rewards.tolist(), rewards.timestamps.tolist(), strict=True)
    for item_id, reward, timestamp in rows:
        age_s = as_of.get(item_id, timestamp) - timestamp
        sums[item_id] = sums.get(item_id, 0.0) - reward * 2.0 ** (-age_s / half_life_s)
    return max(map(abs, sums.values()), default=0.0)
