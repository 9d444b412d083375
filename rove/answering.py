"""What every view of a release answers requests with: its users, and deciders over its items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from rove.config import PolicySection
from rove.deciding import Choice, Decider, Deciders
from rove.errors import RoveError
from rove.events import RankRequest
from rove.opinions import Opinion, Shown
from rove.scores import Part, Person, Taste, TextVectors
from rove.users import Sized, UserCache


class Kept(Person, Sized, Protocol):
    """A user's view, in a cache."""


User = TypeVar("User", bound=Kept)


class Answering(Generic[User, Taste, Part]):
    """Decides for the users of one view."""

    users: UserCache[User]
    deciders: Deciders[User, Taste, Part]
    decider: Decider[User, Taste, Part]
    """Of the configured policy."""

    @property
    def now_s(self) -> float:
        """The time that decisions are made for."""
        raise NotImplementedError

    def decide(
        self,
        requests: Sequence[RankRequest],
        seeds: Sequence[int],
        vectors: TextVectors,
        strengths: Sequence[float] | None,
        policy: PolicySection,
    ) -> list[Choice | RoveError]:
        """Return a policy's choice, or what is wrong with it, for each request."""
        users = self._users(requests)
        decider = self.deciders.of(policy)
        return decider.decide(requests, users, seeds, self.now_s, vectors, strengths)

    def given(
        self, requests: Sequence[RankRequest], seeds: Sequence[int], vectors: TextVectors
    ) -> list[Choice | RoveError]:
        """Return the baseline items of each request as they are."""
        return self.decider.given(requests, self._users(requests), seeds, self.now_s, vectors)

    def opinions(
        self,
        requests: Sequence[RankRequest],
        seeds: Sequence[int],
        vectors: TextVectors,
        policy: PolicySection,
        shown: Sequence[Shown],
    ) -> list[Opinion | None]:
        """Return what a policy would have chosen where others did."""
        users = self._users(requests)
        decider = self.deciders.of(policy)
        return decider.opinions(requests, users, seeds, self.now_s, vectors, shown)

    def _users(self, requests: Sequence[RankRequest]) -> list[User]:
        return [self.users.get(request.user_id) for request in requests]
