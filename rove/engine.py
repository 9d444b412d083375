"""The engine: rank, observe, refit. What a shard wraps; it runs without Ray.

    rove.view      what is kept in memory: items, users' posteriors, the policy
    rove.ledger    the truth; the view can be built again from it at any time
    rove.release   the model in service

- What a call returns has been committed; if the commit fails, no view has changed. If its outcome
  is not known, the next call builds the views again from what the ledger then has.
- `rank` sees every interaction that `observe` has returned for.
- Learning follows event time: the time of a decision is that of the latest reward seen, so history
  can be replayed and a quiet night forgets nothing. Deadlines follow the clock.
- Single-threaded: one caller at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Self
from uuid import uuid4

from msgspec import structs

from rove import rights
from rove.attribution import attribution
from rove.catalogue import Item
from rove.config import Config
from rove.errors import Conflict, InvalidInput, NotFound, ReleaseError, RoveError, shown
from rove.events import (
    Context,
    Decision,
    Interaction,
    Outcome,
    RankRequest,
    Status,
    check_id,
    check_interaction,
)
from rove.ledger.items import ItemStore
from rove.ledger.ledger import Ledger, StoredInteraction
from rove.modes import Agreements, decide
from rove.policy_store import PolicyStore
from rove.pseudonyms import Pseudonyms
from rove.records import Beside, DecisionRecord, Erasure, PolicyState, UserExport, UserProfile
from rove.refit import refit
from rove.regulating import Regulation
from rove.release import Release, current, latest
from rove.repeats import answer_again, digest_of, seed_of
from rove.retention import Retention
from rove.rewards import RewardMap
from rove.scores import TextVectors
from rove.shown.contexts import check_context, text_of
from rove.shown.view import ShownView
from rove.traffic import Play
from rove.users import is_observation
from rove.view import View

MAX_CLOCK_SKEW_S = 86_400.0
"""An interaction further in the future than this is refused: it would age everything else."""
logger = logging.getLogger(__name__)


class Engine:
    """One shard's recommender."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        store: ItemStore,
        clock: Callable[[], float],
        names: Pseudonyms,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._names = names
        self._rewards = RewardMap.from_config(config.rewards)
        self.policies = PolicyStore(config, store)
        self._agreements = Agreements(ledger)
        self._regulation: Regulation | None = None
        if config.policy.kind == "regulated":
            self._regulation = Regulation(config.policy.regulation, self._rewards, ledger)
            self._regulation.catch_up(clock())
        self._retention: Retention | None = None
        if config.privacy.retention_days is not None:
            days = config.privacy.retention_days
            self._retention = Retention(days, self._rewards.wait_s, ledger)
        self._num_doubts = 0
        self.view = self._view(latest(config.releases.path))

    @classmethod
    def open(
        cls,
        config: Config,
        shard: int = 0,
        num_shards: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open the release in service and one shard's ledger."""
        num_shards = config.serving.shards if num_shards is None else num_shards
        with ExitStack() as opened:
            names = Pseudonyms.of_config(config.privacy)
            ledger = Ledger.open(config.store, shard, num_shards, user_ids=names.mark)
            opened.callback(ledger.close)
            store = ItemStore.open(config.store)
            opened.callback(store.close)
            engine = cls(config, ledger, store, clock, names)
            opened.pop_all()
        return engine

    @property
    def release_id(self) -> str:
        """The release in service here."""
        return self.view.release.id

    @property
    def num_items(self) -> int:
        """How many items can be shown."""
        return self.view.index.num_active

    def close(self) -> None:
        """Close the ledger and the catalogue."""
        self._store.close()
        self._ledger.close()

    def rank(
        self,
        requests: Sequence[RankRequest],
        vectors: TextVectors | None = None,
    ) -> list[Decision | RoveError]:
        """Decide a slate for each request, or say what is wrong with it.

        A request whose id was decided before gets that decision again, or a `Conflict` if it asks
        for something else. `vectors` has the encoder's vector of every text in `texts_to_read`.
        """
        self._settle_doubts()
        asked, requests = requests, list(requests)
        results: list[Decision | RoveError | None] = [None] * len(requests)
        digests: dict[int, str] = {}
        for number, request in enumerate(asked):
            try:
                self._check(request)
                requests[number] = named = self._named(request)
                digests[number] = digest_of(named)
            except RoveError as error:
                results[number] = error
        fresh: dict[str, int] = {}
        repeated: list[tuple[int, str]] = []
        for number in digests:
            event_id = requests[number].event_id or uuid4().hex
            if event_id in fresh:
                repeated.append((number, event_id))
            else:
                fresh[event_id] = number
        decisions, beside = self._decide(requests, digests, fresh, vectors or {}, results)
        before = self._store_new(decisions, beside, vectors or {})
        # What cannot be decided any more may have been decided before.
        before |= self._ledger.decisions([e for e in fresh if e not in decisions])
        repeated += [(fresh[event_id], event_id) for event_id in before]
        for number, event_id in repeated:
            decision = before.get(event_id) or decisions.get(event_id)
            results[number] = answer_again(decision, digests[number], event_id)
        return [
            _told(result, request.user_id) if isinstance(result, Decision) else result
            for request, result in zip(asked, results, strict=True)
            if result is not None
        ]

    def observe(self, interactions: Sequence[Interaction]) -> list[Outcome]:
        """Store interactions, learn from them, and say what became of each."""
        self._settle_doubts()
        outcomes: list[Outcome | None] = [None] * len(interactions)
        checked: dict[str, tuple[int, Interaction]] = {}
        for number, interaction in enumerate(interactions):
            try:
                complete = self._complete(interaction)
            except InvalidInput as error:
                outcomes[number] = _outcome(interaction, "rejected", error.detail)
                continue
            if interaction.interaction_id in checked:
                outcomes[number] = _outcome(interaction, "duplicate")
            else:
                checked[interaction.interaction_id] = number, complete
        if checked:
            self._store_and_learn(checked, outcomes)
        return [outcome for outcome in outcomes if outcome is not None]

    def activate(self, event_id: str, user_id: str | None = None) -> Decision:
        """Activate a deferred decision, in time; an active one stays as it is.

        With a user, only if it is that user's.
        """
        self._settle_doubts()
        decision = self._decision(event_id, user_id)
        if decision.activated_at is not None:
            return decision
        now = self._clock()
        if now >= decision.expires_at:
            raise Conflict(
                f"decision {shown(event_id)} expired before it was activated, so that it counts "
                "for nothing; rank again"
            )
        with self._ledger.transaction() as transaction:
            transaction.activate(event_id, now)
            learn = self.view.activated(transaction, event_id)
        learn()
        return structs.replace(decision, activated_at=now)

    def decision(self, event_id: str, user_id: str | None = None) -> DecisionRecord:
        """Return the record of a decision and what came of it; with a user, only if it is theirs.

        The decision names the user as the caller does, or else as the ledger does.
        """
        decision = self._decision(event_id, user_id)
        by_slot: dict[int, list[StoredInteraction]] = {}
        slot_of = {slot.item_id: slot.slot for slot in decision.slots}
        for stored in self._ledger.interactions_of(event_id):
            kind, worth = stored.interaction.type, stored.reward
            if stored.status != "unattributed" and is_observation(kind, worth):
                by_slot.setdefault(slot_of[stored.interaction.item_id], []).append(stored)
        rewards = {
            slot: self._rewards.aggregate(
                [stored.reward for stored in answers],
                [stored.interaction.timestamp or 0.0 for stored in answers],
            )
            for slot, answers in sorted(by_slot.items())
        }
        expired = self._clock() >= decision.expires_at
        counts = expired and decision.activated_at is not None
        return DecisionRecord(
            decision=decision,
            outcome="rewarded" if rewards else "expired" if expired else "pending",
            rewards=rewards,
            default_reward=self._rewards.default if counts else None,
            beside=self._ledger.beside(event_id),
        )

    def policy_states(self) -> list[PolicyState]:
        """Return all policies, with how this shard's decisions agree with those beside them."""
        return self.policies.states(self._agreements.of)

    def item(self, item_id: str) -> Item:
        """Return an item that can be shown."""
        return self.view.index.item(item_id)

    def user(self, user_id: str) -> UserProfile:
        """Return what is stored of a user and what was learnt from it."""
        self._settle_doubts()
        named = self._names.of(user_id)
        history = self._ledger.history(named)
        if len(history) == 0:
            raise NotFound(f"nothing is stored of user {shown(user_id)}")
        return structs.replace(self.view.profile(named, history), user_id=user_id)

    def export(self, user_id: str, after: str | None = None) -> UserExport:
        """Return a page of what is held of a user; `after` is the `next` of the page before."""
        self._settle_doubts()
        page = rights.export(self._ledger, self.view, self._names.of(user_id), after)
        return rights.told(page, user_id)

    def erase(self, user_id: str) -> Erasure:
        """Delete all rows of a user and take back what was learnt from them; see `rove.rights`."""
        check_id(user_id, "user_id")
        self._settle_doubts()
        named = self._names.of(user_id)
        receipt = rights.erase(self._ledger, self.view, named, self._clock())
        return structs.replace(receipt, user_id=user_id)

    def erasure(self, erasure_id: str, user_id: str | None = None) -> Erasure:
        """Return the receipt of an erasure; with a user, only if it is of that user."""
        named = None if user_id is None else self._names.of(user_id)
        return structs.replace(rights.erasure(self._ledger, erasure_id, named), user_id=user_id)

    def sync(self) -> None:
        """Follow the catalogue, the policies, the other shards, and the release in service."""
        self._ledger.renew()
        self._settle_doubts()
        self.policies.follow()
        self.view.sync(self._clock())
        if self._retention is not None:
            for user_id in self._retention.sync(self._clock()):
                self.view.users.forget(user_id)
        if self._regulation is not None:
            self._regulation.sync(self._clock())
        try:
            folder = current(self._config.releases.path)
            if folder.name == self.release_id:
                return
            release = Release.open(folder)
        except (NotFound, ReleaseError) as error:
            logger.error("release %s stays in service: %s", self.release_id, error.detail)
            return
        self.view = self._view(release)

    def refit(self) -> str:
        """Learn a release from the ledger of all shards, put it into service, return its id.

        See `rove.refit`.
        """
        folder = refit(self._config, self._store, self._clock())
        self.view = self._view(Release.open(folder))
        return self.release_id

    def _view(self, release: Release) -> View | ShownView:
        made = ShownView if self._config.feedback == "shown" else View
        return made(self._config, release, self._ledger, self._store)

    def _settle_doubts(self) -> None:
        """Build the view again if a transaction may have been stored that it does not know of."""
        num_doubts = self._ledger.num_doubts
        if num_doubts != self._num_doubts:
            self.view = self._view(self.view.release)
            self._num_doubts = num_doubts

    def _text_of(self, context: Context | None) -> str | None:
        return text_of(context) if self._config.feedback == "shown" else None

    def _named(self, request: RankRequest) -> RankRequest:
        """Return the request with the user's id as the ledger has it."""
        user_id = self._names.of(request.user_id)
        return request if user_id == request.user_id else structs.replace(request, user_id=user_id)

    def _check(self, request: RankRequest) -> None:
        check_context(request.context)
        for name in ("user_id", "event_id"):
            value = getattr(request, name)
            if value is not None:
                check_id(value, name)
        if request.k < 1:
            raise InvalidInput(f"k must be at least 1, got {request.k}", field="k")

    def _decide(
        self,
        requests: Sequence[RankRequest],
        digests: Mapping[int, str],
        fresh: Mapping[str, int],
        vectors: TextVectors,
        results: list[Decision | RoveError | None],
    ) -> tuple[dict[str, Decision], dict[str, list[Beside]]]:
        """Decide the requests of `fresh` (event id -> number) and fill in their results.

        Return the decisions, and what others would have chosen, by event id.
        """
        now = self._clock()
        plays: dict[str, Play] = {}
        for event_id, number in fresh.items():
            try:
                plays[event_id] = self.policies.traffic.play(requests[number])
            except RoveError as error:
                results[number] = error
        wanted = [requests[fresh[event_id]] for event_id in plays]
        seeds = [seed_of(event_id) for event_id in plays]
        regulated = self._regulation.choose(wanted, now) if self._regulation else None
        strengths = [one.strength for one in regulated] if regulated else None
        made = decide(self.view, list(plays.values()), wanted, seeds, vectors, strengths)
        decisions: dict[str, Decision] = {}
        beside: dict[str, list[Beside]] = {}
        for place, ((event_id, play), decided) in enumerate(zip(plays.items(), made, strict=True)):
            number = fresh[event_id]
            if isinstance(decided, RoveError):
                results[number] = decided
                continue
            request, choice = requests[number], decided.choice
            is_regulated = play.section is not None and play.section.kind == "regulated"
            decisions[event_id] = results[number] = Decision(
                event_id=event_id,
                user_id=request.user_id,
                policy=play.name,
                policy_version=play.version,
                release=self.release_id,
                seed=choice.seed,
                request_digest=digests[number],
                candidates_digest=choice.candidates_digest,
                num_candidates=choice.num_candidates,
                slots=choice.slots,
                context=request.context,
                regulated=regulated[place] if regulated and is_regulated else None,
                created_at=now,
                expires_at=now + self._rewards.wait_s,
                activated_at=None if request.defer_activation else now,
            )
            if decided.beside:
                beside[event_id] = decided.beside
        return decisions, beside

    def _store_new(
        self,
        decisions: Mapping[str, Decision],
        beside: Mapping[str, list[Beside]],
        vectors: TextVectors,
    ) -> dict[str, Decision]:
        """Store decisions; return those whose ids are stored already, as they were stored.

        Nearly every id is new, so it is stored first and looked up only if that fails.
        """
        if not decisions:
            return {}
        read = {
            event_id: vectors[text].astype("<f2").tobytes()
            for event_id, decision in decisions.items()
            if (text := self._text_of(decision.context)) in vectors and text is not None
        }
        try:
            self._add(decisions, read, beside)
        except Conflict:
            before = self._ledger.decisions(list(decisions))
            self._add(
                {event_id: one for event_id, one in decisions.items() if event_id not in before},
                read,
                {event_id: one for event_id, one in beside.items() if event_id not in before},
            )
            return before
        return {}

    def _add(
        self,
        decisions: Mapping[str, Decision],
        read: Mapping[str, bytes],
        beside: Mapping[str, list[Beside]],
    ) -> None:
        slots = {event_id: decisions[event_id].slots for event_id in beside}
        with self._ledger.transaction() as transaction:
            transaction.add_decisions(list(decisions.values()), read, beside)
            counted = self._agreements.prepare(transaction, slots, beside)
        self._agreements.commit(counted)

    def _complete(self, interaction: Interaction) -> Interaction:
        """Return the interaction with its time filled in, or say why it cannot be stored."""
        check_interaction(interaction)
        now = self._clock()
        timestamp = now if interaction.timestamp is None else interaction.timestamp
        if timestamp > now + MAX_CLOCK_SKEW_S:
            raise InvalidInput(
                f"timestamp {timestamp} is more than a day in the future; give unix seconds (UTC)",
                field="timestamp",
            )
        if self.view.index.row(interaction.item_id) is None:
            raise InvalidInput(
                f"item {shown(interaction.item_id)} is not in the catalogue; "
                "add it with PUT /v1/items/{id} and send the interaction again",
                field="item_id",
            )
        # A clock that runs ahead must not age what others did.
        user_id = self._names.of(interaction.user_id)
        return structs.replace(interaction, user_id=user_id, timestamp=min(timestamp, now))

    def _store_and_learn(
        self,
        checked: Mapping[str, tuple[int, Interaction]],
        outcomes: list[Outcome | None],
    ) -> None:
        event_ids = [i.event_id for _, i in checked.values() if i.event_id is not None]
        stored: list[StoredInteraction] = []
        received_at = self._clock()
        with self._ledger.transaction() as transaction:
            known = transaction.known_interactions(list(checked))
            decisions = transaction.decisions(event_ids) if event_ids else {}
            for interaction_id, (number, interaction) in checked.items():
                if interaction_id in known:
                    outcomes[number] = _outcome(interaction, "duplicate")
                    continue
                status, reason = attribution(interaction, decisions)
                outcomes[number] = _outcome(interaction, status, reason)
                stored.append(
                    StoredInteraction(
                        interaction=interaction,
                        reward=self._rewards.reward(interaction),
                        status=status,
                        received_at=received_at,
                    )
                )
            # Before they are written: what answered a decision earlier is read from the ledger.
            learn = self.view.prepare(transaction, stored)
            transaction.add_interactions(stored)
        learn()

    def _decision(self, event_id: str, user_id: str | None = None) -> Decision:
        decision = self._ledger.decisions([event_id]).get(event_id)
        if decision is None:
            raise NotFound(f"there is no decision {shown(event_id)}")
        if user_id is None:
            return decision
        if self._names.of(user_id) != decision.user_id:
            raise NotFound(f"this user has no decision {shown(event_id)}; check user_id")
        return _told(decision, user_id)


def _told(decision: Decision, user_id: str) -> Decision:
    """Return a decision that names its user as the caller does."""
    if decision.user_id == user_id:
        return decision
    return structs.replace(decision, user_id=user_id)


def _outcome(interaction: Interaction, status: Status, reason: str | None = None) -> Outcome:
    return Outcome(interaction_id=interaction.interaction_id, status=status, reason=reason)
