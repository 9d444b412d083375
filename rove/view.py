"""Everything an engine keeps in memory about one release: all of it can be built again.

item_index   the release's items with the catalogue's changes since
item_means   the release's sums, this shard's since, the other shards' since
users        posteriors of the users seen lately
decider      scores and slates

Where a slot that earns nothing in time has a reward other than 0 (`rewards.default_reward`), it is
learnt when its decision expires: `sync` settles what has, in order of expiry, in the transaction
that notes how far it got. An answer that comes later takes it back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from rove.answering import Answering
from rove.config import Config
from rove.deciding import Deciders
from rove.item_index import ItemIndex
from rove.item_means import ItemMeans
from rove.ledger.items import ItemStore
from rove.ledger.ledger import History, Ledger, Statistics, StoredInteraction, Transaction
from rove.profiles import profile_of
from rove.records import ItemTaste, UserProfile
from rove.release import Release
from rove.rewards import RewardMap
from rove.scoring import Part, Scorer
from rove.shared_sums import SharedSums
from rove.shortlisting import shortlister_of
from rove.unanswered import defaults_of, replaced_by, replaced_since
from rove.users import Observation, Taste, User, UserCache, is_observation

COUNTED = "counted"
"""Key of a shard's state: the release for which its statistics count all that it has seen."""
COUNTED_AFTER = "counted_after"
"""Key of the number of the latest interaction there was when that counting began."""
_MEGABYTE = 1_000_000
_NOTHING = Statistics(item_ids=[], weight=np.zeros(0), total=np.zeros(0), as_of=np.zeros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What interactions add: to the item statistics, as of the means' reference time, and users."""

    stored: Sequence[StoredInteraction]
    item_ids: list[str]
    amounts: npt.NDArray[np.float64]
    latest_s: float
    corrected: set[str] = field(default_factory=set)
    """Users of whom something is taken back: they are built anew."""


class View(Answering[User, Taste, Part]):
    """The views of one release over one shard's ledger."""

    def __init__(self, config: Config, release: Release, ledger: Ledger, store: ItemStore) -> None:
        model = release.model
        self.release = release
        self._ledger = ledger
        self._store = store
        self._sequence = 0
        self._rewards = RewardMap.from_config(config.rewards)
        self.index = ItemIndex(release)
        self.means = ItemMeans(
            sums_J=release.sums_J,
            promise_J=release.items.promise_J,
            as_of_s=release.as_of_s,
            half_life_s=model.item_half_life_s,
            pseudo_count=model.pseudo_count,
        )
        self.scorer = Scorer(model, release.items, self.index, self.means)
        retriever = shortlister_of(self.index, self.scorer)
        self.deciders = Deciders(self.index, self.scorer, retriever)
        self.decider = self.deciders.of(config.policy)
        max_bytes = int(config.serving.user_cache_mb * _MEGABYTE)
        self.users = UserCache(max_bytes, self.build_user)
        own = ledger.statistics(release.id)
        is_whole = ledger.state(COUNTED) == release.id
        self.sums = SharedSums(self.means, self.index, own if is_whole else _NOTHING)
        settled_s = ledger.settled_until(release.id) if is_whole else None
        self.settled_s = release.settled_s if settled_s is None else settled_s
        self._take_catalogue_changes()
        if not is_whole:
            self._catch_up(own.item_ids)
        self._follow_others()

    @property
    def now_s(self) -> float:
        """Event time: when the latest event happened."""
        return self.means.latest_s

    def sync(self, now_s: float) -> None:
        """Follow the catalogue and the other shards, and settle what has expired."""
        self._take_catalogue_changes()
        self._follow_others()
        self._settle(now_s)

    def _follow_others(self) -> None:
        news = self._ledger.statistics_of_others(self.release.id, self.sums.revisions)
        self.sums.merge(news)

    def prepare(
        self,
        transaction: Transaction,
        stored: Sequence[StoredInteraction],
    ) -> Callable[[], None]:
        """Write what interactions add to the item statistics; return what to call after."""
        taken_back = replaced_by(stored, transaction, self._rewards, self.settled_s)
        return partial(self._commit, self._written(transaction, stored, taken_back))

    def activated(self, transaction: Transaction, event_id: str) -> Callable[[], None]:
        """Nothing: what users do is learnt as they do it, the rest when the decision expires."""
        return lambda: None

    def erase(self, transaction: Transaction, user_id: str) -> Callable[[], None]:
        """Take a user's share out of the item statistics, before the rows are deleted.

        What was added is added again with the other sign; default rewards that the user's answers
        took out of the release's sums are given back. Return what to call after.
        """
        counted, given_back = self._share_of(transaction, user_id)
        change = self._written(transaction, given_back, counted)
        return partial(self._forget, user_id, change)

    def _forget(self, user_id: str, change: _Change) -> None:
        self.users.forget(user_id)
        self._commit(change)

    def _share_of(
        self, transaction: Transaction, user_id: str
    ) -> tuple[list[StoredInteraction], list[StoredInteraction]]:
        """Return what counts of a user in this shard's statistics, and what was taken back."""
        mark, time_s = self._mark, sys.float_info.max
        if mark is None:
            mark, time_s = int(self._ledger.state(COUNTED_AFTER) or 0), self.release.as_of_s
        counted = transaction.rewards_of(user_id, mark, time_s)
        if self._rewards.default <= 0.0:
            return counted, []
        settled = [o for o in transaction.shown_to(user_id) if o.expires_at <= self.settled_s]
        before = [one for one in settled if one.expires_at <= self.release.settled_s]
        since = [one for one in settled if one.expires_at > self.release.settled_s]
        counted += defaults_of(since, self._rewards)
        return counted, replaced_since(before, self._rewards, mark)

    @property
    def _mark(self) -> int | None:
        """The latest of this shard's rows that the release saw; None: it did not read ledgers."""
        watermark = self.release.watermark
        return watermark.get(self._ledger.shard, 0 if watermark else None)

    def _written(
        self,
        transaction: Transaction,
        stored: Sequence[StoredInteraction],
        taken_back: Sequence[StoredInteraction] = (),
    ) -> _Change:
        """Write what interactions add to the item statistics, and what is taken back of them."""
        positive = [one for one in stored if one.reward > 0.0]
        lost = [one for one in taken_back if one.reward > 0.0]
        item_ids = [one.interaction.item_id for one in (*positive, *lost)]
        timestamps = np.array([one.interaction.timestamp for one in (*positive, *lost)], np.float64)
        gained, given_up = [one.reward for one in positive], [-one.reward for one in lost]
        rewards = np.array([*gained, *given_up], np.float64)
        amounts = self.means.decayed(rewards, timestamps)
        # Only what is written with the statistics moves the time, so that it can be rebuilt.
        latest_s = float(timestamps.max(initial=self.now_s))
        statistics = self.sums.prepare(item_ids, amounts, latest_s)
        transaction.add_statistics(self.release.id, statistics)
        return _Change(
            stored=stored,
            item_ids=item_ids,
            amounts=amounts,
            latest_s=latest_s,
            corrected={one.interaction.user_id for one in taken_back},
        )

    def _commit(self, change: _Change) -> None:
        """Learn what was written: the items, and the cached users; others are built when needed."""
        self.sums.commit(change.item_ids, change.amounts, change.latest_s)
        for user_id in change.corrected:
            self.users.forget(user_id)
        by_user: dict[str, list[Observation]] = {}
        for one in change.stored:
            interaction = one.interaction
            seen = self.observation(
                interaction.item_id, interaction.type, one.reward, interaction.timestamp or 0.0
            )
            if seen is not None:
                by_user.setdefault(interaction.user_id, []).append(seen)
        for user_id, observations in by_user.items():
            # Looked up one by one: learning of one user may push another out of the cache.
            if user_id not in self.users:
                continue
            self.learn(self.users.get(user_id), observations)
            self.users.resized(user_id)

    def profile(self, user_id: str, history: History) -> UserProfile:
        """Return the profile of a user with at least one stored interaction."""
        user, half_life_s = self.users.get(user_id), self.release.model.taste_half_life_s
        scale = user.decay(self.now_s, half_life_s)
        items = [
            ItemTaste(
                item_id=self.index.ids[row],
                reward=pair[0],
                timestamp=pair[1],
                weight=scale * user.weight(pair, half_life_s),
            )
            for row, pair in user.standing.items()
        ]
        taste = self.scorer.taste(user, self.now_s)
        return profile_of(user_id, history, self.release.id, items, taste.mean_D)

    def build_user(self, user_id: str) -> User:
        """Build a user's view from the ledger."""
        history = self._ledger.history(user_id)
        columns = (history.item_ids, history.types, history.rewards, history.timestamps)
        observations = [
            seen
            for item_id, kind, reward, timestamp in zip(*columns, strict=True)
            if (seen := self.observation(item_id, kind, float(reward), float(timestamp)))
        ]
        if self._rewards.default:
            decided = self._ledger.shown_to(user_id)
            settled = [one for one in decided if one.expires_at <= self.settled_s]
            observations += [
                Observation(row=row, reward=one.reward, timestamp=one.interaction.timestamp or 0.0)
                for one in defaults_of(settled, self._rewards)
                if (row := self.index.row(one.interaction.item_id)) is not None
            ]
        user = User(self.release.model.num_factors)
        self.learn(user, observations)
        return user

    def observation(
        self, item_id: str, kind: str, reward: float, timestamp: float
    ) -> Observation | None:
        """Return what an interaction tells about its user's taste, if anything."""
        row = self.index.row(item_id)
        if row is None or not is_observation(kind, reward):
            return None
        return Observation(row=row, reward=reward, timestamp=timestamp)

    def learn(self, user: User, observations: Sequence[Observation]) -> None:
        """Fold observations into a user's view."""
        user.learn(observations, self.index.features, self.release.model.taste_half_life_s)

    def _take_catalogue_changes(self) -> None:
        changes, self._sequence = self._store.changes_since(self._sequence)
        if not changes:
            return
        added = self.index.apply(changes)
        self.means.grow(added.features.promise_J)
        self.scorer.grow(added.features)
        replaced = added.replaced >= 0
        rows = np.arange(len(self.means) - len(replaced), len(self.means))
        self.means.move(added.replaced[replaced], rows[replaced])
        new = rows[~replaced]
        self.sums.place([self.index.ids[row] for row in new.tolist()], new)
        # Views hold row numbers: those of changed and removed items are out of date.
        self.users.clear()

    def _settle(self, now_s: float) -> None:
        """Learn the default reward of what has expired unanswered; a part of it at a time."""
        if not self._rewards.default:
            return
        part = self._ledger.expired(self.settled_s, now_s)
        until_s = part[-1].expires_at if part else now_s
        if part:
            with self._ledger.transaction() as transaction:
                change = self._written(transaction, defaults_of(part, self._rewards))
                transaction.settle(self.release.id, until_s)
            self._commit(change)
        self.settled_s = max(self.settled_s, until_s)

    def _catch_up(self, counted: Sequence[str]) -> None:
        """Count what this shard saw after the release's watermark, also while another served.

        `counted`: items that were counted for it before.
        """
        mark = self._mark
        since = (
            self._ledger.rewards_since(time_s=self.release.as_of_s)
            if mark is None
            else self._ledger.rewards_since(sequence=mark)
        )
        latest_s = float(since.timestamps.max(initial=self.release.as_of_s))
        with self._ledger.transaction() as transaction:
            lost = [] if mark is None else self._corrected(transaction, mark)
            gone = sorted(set(counted).difference(since.item_ids))
            item_ids = [*since.item_ids, *(one.interaction.item_id for one in lost), *gone]
            rewards = np.concatenate([since.rewards, [-one.reward for one in lost]])
            lost_at = [one.interaction.timestamp or 0.0 for one in lost]
            amounts = self.means.decayed(rewards, np.concatenate([since.timestamps, lost_at]))
            amounts = np.concatenate([amounts, np.zeros(len(gone))])
            statistics = self.sums.prepare(item_ids, amounts, latest_s)
            transaction.add_statistics(self.release.id, statistics)
            transaction.settle(self.release.id, self.settled_s)
            transaction.put_state(COUNTED, self.release.id)
            transaction.put_state(COUNTED_AFTER, str(transaction.last_sequence()))
        self.sums.commit(item_ids, amounts, latest_s)

    def _corrected(self, transaction: Transaction, mark: int) -> list[StoredInteraction]:
        """Return the default rewards in the release's sums that were answered after its mark."""
        if self._rewards.default <= 0.0:
            return []
        late = transaction.shown(self._ledger.answered_since(mark))
        settled = [one for one in late if one.expires_at <= self.settled_s]
        return replaced_since(settled, self._rewards, mark)
