"""What happens: requests to rank, the decisions that answer them, and what users then do.

These records are the vocabulary of the whole system: the HTTP API decodes into them, the ledger
stores them, the engine takes and returns them.

- Ids are strings of 1 to 256 characters and are idempotency keys.
- Times are unix seconds (UTC), floats.
- Records are frozen; a change is a new record.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from rove.errors import InvalidInput, shown

MAX_ID_LENGTH = 256
MAX_TEXT_LENGTH = 100_000
MAX_SLATE = 1_000
MAX_REWARD = 1e6
"""Bound of an explicit reward: one number must not drown all others."""

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
SlotNumber = Annotated[int, Meta(ge=0, lt=MAX_SLATE)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
Context = str | dict[str, str | float | bool | None]
Reason = Literal["exploit", "explore", "baseline"]
Status = Literal["accepted", "duplicate", "unattributed", "late", "rejected"]


class InteractionType(StrEnum):
    """What a user can do with an item; `reward` is the explicit reward of the reward endpoint."""

    IMPRESSION = "impression"
    CLICK = "click"
    VIEW = "view"
    DWELL = "dwell"
    RATING = "rating"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    LIKE = "like"
    DISLIKE = "dislike"
    COMMENT = "comment"
    SHARE = "share"
    FAVORITE = "favorite"
    FOLLOW = "follow"
    WATCH = "watch"
    HIDE = "hide"
    REPORT = "report"
    REWARD = "reward"


_TYPES = tuple(str(one) for one in InteractionType)


class Interaction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing a user did with one item, in answer to a decision (`event_id`) or by itself."""

    interaction_id: Id
    user_id: Id
    item_id: Id
    type: InteractionType
    value: float | None = None
    """Meaning depends on the type: rating, price, reward."""
    duration_s: Annotated[float, Meta(ge=0)] | None = None
    watch_ratio: Annotated[float, Meta(ge=0)] | None = None
    text: Text | None = None
    timestamp: float | None = None
    """When it happened; the time of arrival when absent."""
    event_id: Id | None = None
    slot: SlotNumber | None = None


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one interaction.

    `accepted`: stored and learnt from. `duplicate`: this id was stored before, nothing changed.
    `unattributed`: stored and learnt from, but its `event_id` names no decision that showed the
    item. `late`: stored and learnt from after the decision expired. `rejected`: not stored.
    """

    interaction_id: str
    status: Status
    reason: str | None = None


class Candidates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the items of a slate may come from: exactly one of the three is given."""

    item_ids: list[Id] | None = None
    category: Id | None = None
    query: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_LENGTH)] | None = None


class RankRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for `k` items for one user."""

    user_id: Id
    event_id: Id | None = None
    context: Context | None = None
    """Free text, or numbers and words by key; kept with the decision, and learnt from where
    `feedback` is `shown`."""
    candidates: Candidates | None = None
    """The whole catalogue when absent."""
    excluded_items: list[Id] = []
    exclude_seen: bool = False
    """Leave out what the user has already earned a positive reward with (bought, watched, ...)."""
    k: Annotated[int, Meta(ge=1, le=MAX_SLATE)] = 10
    baseline_items: list[Id] = []
    """Items to show, in this order, where the policy may not choose."""
    defer_activation: bool = False
    explain: bool = False
    alternatives: bool = False
    """Tell what the first slot was chosen from, and with which probabilities."""
    policy: Id | None = None


class Explanation(Struct, frozen=True, kw_only=True):
    """Why an item has its score: the terms sum to the score.

    Where `feedback` is `shown` and rewards are in [0, 1] or counts, they sum to its log odds or
    logarithm.
    """

    item_mean: float
    """The item's own mean, from its text and everybody's interactions, in the request's context."""
    prior: float
    """What the population's taste says before the user did anything."""
    history: dict[str, float]
    """One term per item the user interacted with, the most telling first."""
    other: float
    """The sum of the terms that are not listed."""


class Alternative(Struct, frozen=True, kw_only=True):
    """An item that a slot could have had."""

    item_id: str
    score: float
    propensity: float


class Slot(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place of a slate: the item, its expected reward, the probability it was chosen with."""

    slot: int
    item_id: str
    score: float
    propensity: float
    """Probability of this item in this slot given the slots before it, under the logged policy."""
    reason: Reason
    explanation: Explanation | None = None
    alternatives: list[Alternative] | None = None
    """Of the first slot, if asked for: what it was chosen from, the most probable first and this
    item among them. Their propensities sum to one; what is not listed could not be chosen."""


class Regulated(Struct, frozen=True, kw_only=True):
    """The strength that a regulated policy decided with."""

    segment: str
    index: int
    """Its place among the configured strengths."""
    strength: float
    probability: float
    """With which the segment's block drew it."""


class Decision(Struct, frozen=True, kw_only=True):
    """A slate that was decided, with everything that is needed to evaluate another policy on it."""

    event_id: str
    user_id: str
    policy: str
    policy_version: str
    release: str
    seed: int
    request_digest: str
    """Hash of the request's content: the same id with another digest is a conflict."""
    candidates_digest: str
    num_candidates: int
    slots: list[Slot]
    context: Context | None = None
    regulated: Regulated | None = None
    created_at: float
    expires_at: float
    activated_at: float | None
    """None while a deferred decision has not been activated."""


def check_interaction(interaction: Interaction) -> None:
    """Raise `InvalidInput` for what the types cannot exclude: NaN, infinities, control codes."""
    for name in ("interaction_id", "user_id", "item_id", "event_id"):
        value = getattr(interaction, name)
        if value is not None:
            check_id(value, name)
    if interaction.type not in _TYPES:
        raise InvalidInput(
            f"type must be one of {', '.join(_TYPES)}, got {shown(interaction.type)}", field="type"
        )
    for name in ("value", "duration_s", "watch_ratio", "timestamp"):
        number = getattr(interaction, name)
        if number is not None and not math.isfinite(number):
            raise InvalidInput(
                f"{name} must be a finite number, got {number}; leave it out if it is not known",
                field=name,
            )
    for name in ("duration_s", "watch_ratio"):
        number = getattr(interaction, name)
        if number is not None and number < 0:
            raise InvalidInput(f"{name} must be at least 0, got {number}", field=name)
    value = interaction.value
    if interaction.type == InteractionType.REWARD and value is not None and abs(value) > MAX_REWARD:
        raise InvalidInput(
            f"a reward must be between -{MAX_REWARD:g} and {MAX_REWARD:g}, got {value}; "
            "scale your rewards, best to about one",
            field="value",
        )
    if interaction.text is not None:
        check_text(interaction.text, "text")


def check_text(value: str, name: str) -> None:
    """Raise `InvalidInput` unless `value` can be stored: UTF-8 without NUL."""
    if "\0" in value:
        raise InvalidInput(f"{name} must not contain NUL characters; leave them out", field=name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name} must be valid Unicode, got a lone surrogate at character {error.start}",
            field=name,
        ) from None


def check_id(value: str, name: str) -> None:
    """Raise `InvalidInput` unless `value` is a usable id."""
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise InvalidInput(
            f"{name} must have 1 to {MAX_ID_LENGTH} characters, got {len(value)}", field=name
        )
    if not value.isprintable():
        raise InvalidInput(
            f"{name} must not contain control or unassigned characters, got {shown(value)}",
            field=name,
        )
