"""Everything an engine keeps in memory about one release that learns from what was shown.

An interaction that answers a decision makes its slot a trial, or corrects one; what stays
unanswered is one with the default reward once its decision has expired (`sync`). Both are written
with the same transaction as what they were learnt from. Interactions that answer no decision are
kept, and count for `exclude_seen`, but teach nothing: it is not known what else was shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from rove.answering import Answering
from rove.config import Config
from rove.deciding import Deciders
from rove.item_index import ItemIndex
from rove.ledger.items import ItemStore
from rove.ledger.ledger import (
    History,
    Ledger,
    StoredInteraction,
    Transaction,
    TrialParts,
    TrialSums,
)
from rove.ledger.shown import Answer, Shown
from rove.mixed.past import NUM_PAST
from rove.profiles import profile_of
from rove.records import ItemTaste, UserProfile
from rove.release import Release, prior_of
from rove.rewards import RewardMap
from rove.shown.learning import unlearnt
from rove.shown.likelihood import expanded
from rove.shown.posterior import ItemPosterior
from rove.shown.scoring import ShownScorer, ShownTaste
from rove.shown.trials import Trial, reward_of, trials_of
from rove.shown.users import ShownUser
from rove.users import UserCache
from rove.view import COUNTED

Array = npt.NDArray[np.float64]

_MEGABYTE = 1_000_000
_EVER = sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True)
class _UserUpdate:
    """What one trial teaches of its user; `weight` is None for a correction."""

    user_id: str
    h_D: Array
    weight: float | None
    error: float
    dispersion: float
    row: int
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What trials add to the items and to the users."""

    sums: TrialSums
    updates: list[_UserUpdate]
    standing: list[tuple[str, int]]


class ShownView(Answering[ShownUser, ShownTaste, None]):
    """The views of one release over one shard's ledger."""

    def __init__(self, config: Config, release: Release, ledger: Ledger, store: ItemStore) -> None:
        self.release = release
        self._ledger = ledger
        self._store = store
        self._sequence = 0
        self._rewards = RewardMap.from_config(config.rewards)
        self.index = ItemIndex(release)
        # One that was learnt before there were decisions has none; then all of them are to come.
        model = release.shown or unlearnt(
            self._rewards, release.embeddings_JE, prior_of(config.training.prior)
        )
        own = ledger.trial_sums(release.id)
        is_whole = ledger.state(COUNTED) == release.id
        counted = TrialSums(item_ids=[], sums_nV=own.sums_nV[:0])
        self.items = ItemPosterior(model, self.index, own if is_whole else counted)
        self.scorer = ShownScorer(model, self.items, self.index, ledger, self._rewards)
        self.deciders = Deciders(self.index, self.scorer)
        self.decider = self.deciders.of(config.policy)
        max_bytes = int(config.serving.user_cache_mb * _MEGABYTE)
        self.users = UserCache(max_bytes, self.build_user)
        settled_s = ledger.settled_until(release.id) if is_whole else None
        self.scorer.settled_s = model.settled_s if settled_s is None else settled_s
        self._take_catalogue_changes()
        if not is_whole:
            self._catch_up(own.item_ids)
        self.items.merge(ledger.trial_sums_of_others(release.id, self.items.revisions))

    @property
    def now_s(self) -> float:
        """Time does not matter to this model."""
        return self.release.as_of_s

    def sync(self, now_s: float) -> None:
        """Follow the catalogue and the other shards, and settle what has expired."""
        self._take_catalogue_changes()
        self.items.merge(self._ledger.trial_sums_of_others(self.release.id, self.items.revisions))
        self._settle(now_s)

    def build_user(self, user_id: str) -> ShownUser:
        """Build a user's view from the ledger."""
        _, posterior, pairs = self.scorer.past_of(user_id)
        history = self._ledger.history(user_id)
        rewarded = zip(history.item_ids, history.rewards.tolist(), strict=True)
        rows = {self.index.row(item_id) for item_id, reward in rewarded if reward > 0.0}
        standing = {row for row in rows if row is not None}
        return ShownUser(posterior.mean_D, posterior.covariance_DD, standing, pairs)

    def prepare(
        self,
        transaction: Transaction,
        stored: Sequence[StoredInteraction],
    ) -> Callable[[], None]:
        """Write what interactions add to the trial sums; return what to call after."""
        new: dict[tuple[str, str], list[Answer]] = {}
        for one in stored:
            interaction = one.interaction
            if interaction.event_id is not None and one.status != "unattributed":
                answer = Answer(
                    item_id=interaction.item_id,
                    type=interaction.type,
                    reward=one.reward,
                    timestamp=interaction.timestamp or 0.0,
                    sequence=0,
                )
                new.setdefault((interaction.event_id, interaction.item_id), []).append(answer)
        shown = {one.event_id: one for one in transaction.shown([event for event, _ in new])}
        trials = [
            trial
            for (event_id, item_id), answers in new.items()
            if (trial := self._answered(shown[event_id], item_id, answers)) is not None
        ]
        standing = [
            (one.interaction.user_id, row)
            for one in stored
            if one.reward > 0.0 and (row := self.index.row(one.interaction.item_id)) is not None
        ]
        return partial(self._commit, self._written(transaction, trials, standing))

    def activated(self, transaction: Transaction, event_id: str) -> Callable[[], None]:
        """Write what the answers to a decision that was activated just now add; as `prepare`."""
        trials = trials_of(transaction.shown([event_id]), self._rewards, unanswered=False)
        return partial(self._commit, self._written(transaction, trials, []))

    def erase(self, transaction: Transaction, user_id: str) -> Callable[[], None]:
        """Take what a user's trials added out of the items' sums, before the rows are deleted.

        Return what to call after.
        """
        item_ids, parts_nW = transaction.trial_parts_of(user_id)
        sums = self.items.without(item_ids, parts_nW)
        transaction.add_trial_sums(self.release.id, sums)
        return partial(self._forget, sums)

    def _forget(self, sums: TrialSums) -> None:
        self.items.commit(sums)
        # Of all users: what they learnt depends on what the items were worth then.
        self.users.clear()

    def _commit(self, change: _Change) -> None:
        """Learn what was written: the items, and the users that are cached."""
        self.items.commit(change.sums)
        for update in change.updates:
            if update.user_id in self.users:
                user = self.users.get(update.user_id)
                if update.weight is None:
                    user.correct(update.h_D, update.error, update.dispersion)
                    user.pairs.correct(update.row, update.error)
                else:
                    user.learn(update.h_D, update.weight, update.error)
                    mean = self.scorer.mean_reward(update.row)
                    user.pairs.add(update.row, update.reward, mean)
                self.users.resized(update.user_id)
        for user_id, row in change.standing:
            if user_id in self.users:
                self.users.get(user_id).standing.add(row)
                self.users.resized(user_id)

    def profile(self, user_id: str, history: History) -> UserProfile:
        """Return the profile of a user with at least one stored interaction."""
        user = self.users.get(user_id)
        columns = (history.item_ids, history.rewards.tolist(), history.timestamps.tolist())
        latest = {
            item_id: ItemTaste(item_id=item_id, reward=reward, timestamp=time_s, weight=reward)
            for item_id, reward, time_s in zip(*columns, strict=True)
            if reward > 0.0
        }
        taste_D = user.mean_D.astype(np.float64)
        return profile_of(user_id, history, self.release.id, list(latest.values()), taste_D)

    def _answered(self, shown: Shown, item_id: str, answers: list[Answer]) -> Trial | None:
        """Return the trial that new answers make of a slot, with what it counted with before."""
        after = reward_of([*shown.answers, *answers], item_id, self._rewards)
        if after is None or not shown.is_active:
            return None
        before = reward_of(shown.answers, item_id, self._rewards)
        if before is None and shown.expires_at <= self.scorer.settled_s:
            before = self._rewards.default
        if before == after:
            return None
        slot = shown.item_ids.index(item_id)
        return Trial(shown=shown, slot=slot, reward=after, before=before)

    def _written(
        self,
        transaction: Transaction,
        trials: Sequence[Trial],
        standing: list[tuple[str, int]],
    ) -> _Change:
        """Write what trials add to their items' sums, and return it with what users learn."""
        pairs = [(row, t) for t in trials if (row := self.index.row(t.item_id)) is not None]
        trials = [trial for _, trial in pairs]
        rows = np.array([row for row, _ in pairs], np.intp)
        model = self.scorer.model
        self.items.refresh()
        thetas, pair_n3 = [], np.zeros((len(trials), NUM_PAST))
        for n, (row, trial) in enumerate(pairs):
            user = self.users.get(trial.shown.user_id)
            thetas.append(user.mean_D)
            pair_n3[n] = user.pairs.of_row.get(row, 0.0)
        features = self.scorer.features(trials, rows, pair_n3)
        theta_nD = np.array(thetas, np.float64).reshape(len(trials), len(model.population_DD))
        h_nD, z_nP = features.user_nD, features.item_nP(theta_nD)
        taste_n = np.einsum("nh,nh->n", features.text_nH, theta_nD[:, : model.num_taste])
        taste_n += features.known_n
        eta_n = np.einsum("np,np->n", z_nP, features.beta_nP) + taste_n
        reward_n = np.array([trial.reward for trial in trials])
        dispersion_n = features.dispersion_n
        weight_n, error_n = expanded(model.kind, eta_n, model.centre, reward_n, dispersion_n)
        first_n = np.array([trial.before is None for trial in trials], bool)
        change_n = reward_n - np.array([trial.before or 0.0 for trial in trials])
        pull_n = np.where(first_n, weight_n * (eta_n + error_n - taste_n), change_n / dispersion_n)
        parts_nW = np.column_stack([z_nP, weight_n * first_n, pull_n])
        item_ids = [trial.item_id for trial in trials]
        sums = self.items.prepare(item_ids, self.items.added(parts_nW))
        transaction.add_trial_sums(self.release.id, sums)
        parts = TrialParts(
            event_ids=[trial.shown.event_id for trial in trials],
            user_ids=[trial.shown.user_id for trial in trials],
            item_ids=item_ids,
            parts_nW=parts_nW,
        )
        transaction.add_trial_parts(parts)
        updates = [
            _UserUpdate(
                user_id=trial.shown.user_id,
                h_D=h_nD[n],
                weight=float(weight_n[n]) if first_n[n] else None,
                error=float(error_n[n] if first_n[n] else change_n[n]),
                dispersion=float(dispersion_n[n]),
                row=int(rows[n]),
                reward=trial.reward,
            )
            for n, trial in enumerate(trials)
        ]
        return _Change(sums=sums, updates=updates, standing=standing)

    def _settle(self, now_s: float) -> None:
        """Learn the unanswered slots of what has expired since; a part of it at a time."""
        after_s = self.scorer.settled_s
        part = self._ledger.expired(after_s, now_s)
        until_s = now_s
        if part:
            until_s = part[-1].expires_at
            with self._ledger.transaction() as transaction:
                trials = trials_of(part, self._rewards, answered=False)
                change = self._written(transaction, trials, [])
                transaction.settle(self.release.id, until_s)
            self._commit(change)
        self.scorer.settled_s = max(after_s, until_s)

    def _catch_up(self, counted: Sequence[str]) -> None:
        """Learn what this shard saw after the release's watermark, also while another served.

        `counted`: items that were counted for it before.
        """
        model, shard = self.scorer.model, self._ledger.shard
        mark = self.release.watermark.get(shard, 0)
        late = self._ledger.answered_since(mark)
        with self._ledger.transaction() as transaction:
            transaction.clear_trial_parts()
            trials = [
                trial
                for part in transaction.shown_until(model.settled_s, _EVER)
                for trial in trials_of(part, self._rewards, unanswered=False)
            ]
            for one in transaction.shown(late):
                if one.is_active and one.expires_at <= model.settled_s:
                    trials += self._corrected(one, mark)
            # No user is cached yet, so that nothing is learnt twice of them.
            change = self._written(transaction, trials, [])
            gone = sorted(set(counted).difference(change.sums.item_ids))
            none = TrialSums(item_ids=gone, sums_nV=np.zeros((len(gone), self.items.size)))
            transaction.add_trial_sums(self.release.id, none)
            transaction.settle(self.release.id, model.settled_s)
            transaction.put_state(COUNTED, self.release.id)
        self.items.commit(change.sums)
        self.users.clear()

    def _corrected(self, shown: Shown, mark: int) -> list[Trial]:
        """Return the slots of a settled decision that were answered after the watermark."""
        before = [answer for answer in shown.answers if answer.sequence <= mark]
        trials = []
        for slot, item_id in enumerate(shown.item_ids):
            then = reward_of(before, item_id, self._rewards)
            if then is None:
                then = self._rewards.default
            now = reward_of(shown.answers, item_id, self._rewards)
            if now is not None and now != then:
                trials.append(Trial(shown=shown, slot=slot, reward=now, before=then))
        return trials

    def _take_catalogue_changes(self) -> None:
        changes, self._sequence = self._store.changes_since(self._sequence)
        if not changes:
            return
        added = self.index.apply(changes)
        rows = np.arange(len(self.index) - len(added.replaced), len(self.index))
        self.items.grow(self.index.embeddings(rows), added.replaced)
        # Views hold row numbers: those of changed and removed items are out of date.
        self.users.clear()
