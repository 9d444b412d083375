"""Everything an engine keeps in memory about one release: all of it can be built again.

item_index   the release's items with the catalogue's changes since
item_means   the release's sums, this shard's since, the other shards' since
users        posteriors of the users seen lately
decider      scores and slates
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from rove.config import Config
from rove.deciding import Choice, Decider
from rove.errors import RoveError
from rove.events import RankRequest
from rove.item_index import ItemIndex
from rove.item_means import ItemMeans
from rove.ledger.items import ItemStore
from rove.ledger.ledger import History, Ledger, StoredInteraction, Transaction
from rove.profiles import profile_of
from rove.records import ItemTaste, UserProfile
from rove.release import Release
from rove.scores import TextVectors
from rove.scoring import Part, Scorer
from rove.shared_sums import SharedSums
from rove.shortlisting import shortlister_of
from rove.users import Observation, Taste, User, UserCache, is_observation

_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What interactions add: to the item statistics, as of the means' reference time, and users."""

    stored: Sequence[StoredInteraction]
    item_ids: list[str]
    amounts: npt.NDArray[np.float64]
    latest_s: float


class View:
    """The views of one release over one shard's ledger."""

    def __init__(self, config: Config, release: Release, ledger: Ledger, store: ItemStore) -> None:
        model = release.model
        self.release = release
        self._ledger = ledger
        self._store = store
        self._sequence = 0
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
        self.decider: Decider[User, Taste, Part] = Decider(
            config.policy, self.index, self.scorer, retriever
        )
        max_bytes = int(config.serving.user_cache_mb * _MEGABYTE)
        self.users: UserCache[User] = UserCache(max_bytes, self.build_user)
        self.sums = SharedSums(self.means, self.index, ledger.statistics(release.id))
        self._take_catalogue_changes()
        self._catch_up()
        self.sync(self.now_s)

    @property
    def now_s(self) -> float:
        """Event time: when the latest event happened."""
        return self.means.latest_s

    def sync(self, now_s: float) -> None:
        """Take in the catalogue's changes and what other shards learnt of the items."""
        self._take_catalogue_changes()
        news = self._ledger.statistics_of_others(self.release.id, self.sums.revisions)
        self.sums.merge(news)

    def decide(
        self,
        requests: Sequence[RankRequest],
        seeds: Sequence[int],
        vectors: TextVectors,
        strengths: Sequence[float] | None = None,
    ) -> list[Choice | RoveError]:
        """Return a choice, or what is wrong with it, for each request."""
        users = [self.users.get(request.user_id) for request in requests]
        return self.decider.decide(requests, users, seeds, self.now_s, vectors, strengths)

    def prepare(
        self,
        transaction: Transaction,
        stored: Sequence[StoredInteraction],
    ) -> Callable[[], None]:
        """Write what interactions add to the item statistics; return what to call after."""
        positive = [one for one in stored if one.reward > 0.0]
        item_ids = [one.interaction.item_id for one in positive]
        timestamps = np.array([one.interaction.timestamp for one in positive], np.float64)
        rewards = np.array([one.reward for one in positive], np.float64)
        amounts = self.means.decayed(rewards, timestamps)
        # Only what is written with the statistics moves the time, so that it can be rebuilt.
        latest_s = float(timestamps.max(initial=self.now_s))
        statistics = self.sums.prepare(item_ids, amounts, latest_s)
        transaction.add_statistics(self.release.id, statistics)
        change = _Change(stored=stored, item_ids=item_ids, amounts=amounts, latest_s=latest_s)
        return partial(self._commit, change)

    def _commit(self, change: _Change) -> None:
        """Learn what was written: the items, and the cached users; others are built when needed."""
        self.sums.commit(change.item_ids, change.amounts, change.latest_s)
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

    def _catch_up(self) -> None:
        """Count what this shard saw between the release's watermark and its coming into service."""
        if self.sums.has_own:
            return
        watermark = self.release.watermark
        mark = watermark.get(self._ledger.shard, 0 if watermark else None)
        since = (
            self._ledger.rewards_since(time_s=self.release.as_of_s)
            if mark is None
            else self._ledger.rewards_since(sequence=mark)
        )
        latest_s = float(since.timestamps.max(initial=self.release.as_of_s))
        amounts = self.means.decayed(since.rewards, since.timestamps)
        statistics = self.sums.prepare(since.item_ids, amounts, latest_s)
        with self._ledger.transaction() as transaction:
            transaction.add_statistics(self.release.id, statistics)
        self.sums.commit(since.item_ids, amounts, latest_s)
