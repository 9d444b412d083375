"""What the engine tells of decisions and users."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from rove.events import Decision, Interaction, Slot

StoredStatus = Literal["accepted", "unattributed", "late"]


class Beside(Struct, frozen=True, kw_only=True):
    """What a policy that was asked beside the deciding one would have chosen; never shown."""

    policy: str
    policy_version: str
    mode: Literal["apprentice", "shadow"]
    slots: list[Slot]
    """With the decision's own random numbers, so that equal policies choose the same."""
    shown: list[float]
    """Per slot that was shown, the probability with which this policy would have chosen its item,
    given the slots before; 0 from the first on that it would not have looked at."""


class Agreement(Struct, frozen=True, kw_only=True):
    """How often a policy that was asked beside decisions would have chosen what was shown."""

    num_decisions: int
    num_slots: int
    num_same_first: int
    """Decisions whose first slot would have been the same."""
    num_same_slots: int
    """Slots that would have had the same item."""
    expected_first: float
    """Sum of the probabilities with which it would have chosen what the first slots showed."""


class PolicyState(Struct, frozen=True, kw_only=True):
    """A policy as it is in force."""

    name: str
    version: str
    """A number for what was put; a hash of the settings for what the configuration describes."""
    policy: dict[str, Any]
    """Settings, as in the `policy:` section of the configuration."""
    mode: Literal["online", "apprentice", "shadow", "logging_only"]
    share: float
    """Of the users: those it decides for, or of a shadow those it is asked for."""
    default: bool
    """Whether it has the users that the others' shares leave."""
    changed_at: float | None = None
    """null: it is as it was configured."""
    num_changes: int = 0
    """How often it can be rolled back."""
    agreement: Agreement | None = None
    """Of the decisions that this version was asked beside; null in the answer to a change."""


class DecisionRecord(Struct, frozen=True, kw_only=True):
    """A decision and what came of it.

    `pending`: its rewards may still come. `rewarded`: at least one slot earned something.
    `expired`: nothing came in time.
    """

    decision: Decision
    outcome: Literal["pending", "rewarded", "expired"]
    rewards: dict[int, float]
    """Slot -> reward of those that earned one."""
    default_reward: float | None = None
    """What the other slots count with, once the decision has expired; null before, and for a
    decision that was never activated, which counts for nothing."""
    beside: list[Beside] = []
    """What apprentices and shadows would have chosen."""


class ItemTaste(Struct, frozen=True, kw_only=True):
    """A past item of a user and how much it still counts."""

    item_id: str
    reward: float
    timestamp: float
    weight: float
    """The reward after decay."""


class UserProfile(Struct, frozen=True, kw_only=True):
    """What is stored of a user and what was learnt from it."""

    user_id: str
    num_interactions: int
    first_at: float
    last_at: float
    release: str
    items: list[ItemTaste]
    """The past items that count most, at most 100."""
    taste_mean: list[float]
    """Mean of the posterior over the release's factors, (D,)."""


class StoredInteraction(Struct, frozen=True, kw_only=True):
    """An interaction as the ledger keeps it; `interaction.timestamp` is filled in."""

    interaction: Interaction
    reward: float
    status: StoredStatus
    received_at: float
    session: str | None = None
    """What happened together (an invoice, a visit), where a file says so."""


class UserDecision(Struct, frozen=True, kw_only=True):
    """A decision of a user, with all that is kept of it."""

    decision: Decision
    beside: list[Beside]
    context_vector: bytes | None = None
    """What the encoder made of the context's text: float16, little endian (base64 in JSON)."""


class UserExport(Struct, frozen=True, kw_only=True):
    """What is held of a user: all of it, or a page of at most 500 rows of each kind."""

    user_id: str
    profile: UserProfile | None = None
    """What was learnt; null for a user who did nothing yet, and in pages after the first."""
    decisions: list[UserDecision]
    """In order of their ids."""
    interactions: list[StoredInteraction]
    """In order of arrival."""
    next: str | None = None
    """Ask again with this as `after`; null: that was all."""


class Erasure(Struct, frozen=True, kw_only=True):
    """Receipt of a user's erasure; it can be read again by its id."""

    erasure_id: str
    user_id: str | None = None
    """null unless the question named the user: the receipt is kept without."""
    erased_at: float
    num_decisions: int
    num_interactions: int
    num_trials: int
    """What single slots had added to the item statistics (`feedback: shown`)."""
    release: str
    """In service then."""
    remains: str
    """What is left of the person, and until when."""
