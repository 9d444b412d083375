"""Azure Personalizer's bodies, and what they mean here.

The schema is that of versions 1.0 to 1.1-preview.3 and 2022-09-01-preview (Microsoft's
azure-rest-api-specs, data-plane/Personalizer); fields that are not known are passed over, as there.

- An **action** is an item. Its features, flattened and sorted, are the item's text; an action
  without features is the catalogue's item as it is, or one with its id as text.
- **Context features** become key-values: `{"user": {"age": 3}}` is `user.age = 3`, a list of words
  `{"likes": ["tea"]}` is `likes.tea = true`, a list of numbers is counted through (`x.0`, `x.1`).
  Later dictionaries win.
- The **user** is the context feature `userId` or `user_id`, in any namespace; it is taken out of
  the context. Without one, every event has a user of its own: then items and contexts are learnt
  about, but nothing about any one person, and a person cannot be erased.
- An **event** is a decision of one slot: only what is shown is learnt from. A multi-slot event is a
  decision per slot, in order, without what the slots before have (a conditional contextual bandit),
  with the slot's id and features in its context (`slot.id`, `slot.size`). The first one has the
  event's id, the others follow by number; keys `slots.ID` without a value, which nothing is learnt
  from, tell which slots there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from hashlib import blake2b
from typing import Annotated, Any

from msgspec import Meta, Struct

from rove.catalogue import Item, check_item
from rove.errors import InvalidInput, PayloadTooLarge, shown
from rove.events import MAX_ID_LENGTH, MAX_TEXT_LENGTH, Decision, Id

Features = list[dict[str, Any]]
Scalars = dict[str, str | float | bool | None]
_USER_KEYS = frozenset({"userid", "user_id"})
_SLOTS = "slots."


class Action(Struct, frozen=True, rename="camel"):
    """Something to choose from."""

    id: Id
    features: Features | None = None


class RankBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`POST rank`."""

    actions: list[Action]
    context_features: Features | None = None
    excluded_actions: list[str] | None = None
    event_id: Annotated[str, Meta(max_length=MAX_ID_LENGTH)] | None = None
    defer_activation: bool | None = None


class SlotBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """One slot of a multi-slot event."""

    id: Id
    baseline_action: Id
    features: Features | None = None
    excluded_actions: list[str] | None = None


class MultiSlotRankBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`POST multislot/rank`."""

    actions: list[Action]
    slots: list[SlotBody]
    context_features: Features | None = None
    event_id: Annotated[str, Meta(max_length=MAX_ID_LENGTH)] | None = None
    defer_activation: bool | None = None


class RewardBody(Struct, frozen=True):
    """`POST events/{eventId}/reward`."""

    value: float


class SlotReward(Struct, frozen=True, rename="camel"):
    """The reward of one slot."""

    slot_id: Id
    value: float


class MultiSlotRewardBody(Struct, frozen=True):
    """`POST multislot/events/{eventId}/reward`."""

    reward: list[SlotReward]


class RankedAction(Struct, frozen=True):
    """An action, and the probability with which it was chosen."""

    id: str
    probability: float


class RankAnswer(Struct, frozen=True, kw_only=True, rename="camel"):
    """What `rank` answers."""

    ranking: list[RankedAction]
    event_id: str
    reward_action_id: str


class SlotAnswer(Struct, frozen=True, rename="camel"):
    """What a slot has."""

    id: str
    reward_action_id: str


class MultiSlotAnswer(Struct, frozen=True, kw_only=True, rename="camel"):
    """What `multislot/rank` answers."""

    slots: list[SlotAnswer]
    event_id: str


class Failure(Struct, frozen=True):
    """What is wrong."""

    code: str
    message: str


class FailureAnswer(Struct, frozen=True):
    """What a request that failed is answered."""

    error: Failure


def items_of(actions: Sequence[Action]) -> list[Item]:
    """Return the item of each action."""
    ids = [action.id for action in actions]
    if not ids:
        raise InvalidInput("actions is empty; give at least one", field="actions")
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise InvalidInput(f"action {shown(twice)} is there twice", field="actions")
    return [_item(action) for action in actions]


def context_of(features: Features | None) -> tuple[Scalars, str | None]:
    """Return the context of an event, and its user if it names one."""
    context: Scalars = dict(_scalars(features))
    user_id: str | None = None
    for key in [key for key in context if key.rpartition(".")[2].lower() in _USER_KEYS]:
        value = context.pop(key)
        if user_id is None and not isinstance(value, bool) and value not in (None, ""):
            user_id = str(value)
    return context, user_id


def slot_context(context: Scalars, slot: SlotBody, all_slots: Sequence[SlotBody] = ()) -> Scalars:
    """Return the context of one slot's decision; `all_slots`: for the first slot to tell of."""
    of_slot: Scalars = {f"slot.{key}": value for key, value in _scalars(slot.features)}
    told: Scalars = {f"{_SLOTS}{one.id}": None for one in all_slots}
    return {**context, **of_slot, "slot.id": slot.id, **told}


def slots_of(decision: Decision) -> list[str]:
    """Return the ids of a multi-slot event's slots, in order, from its first decision."""
    context = decision.context if isinstance(decision.context, dict) else {}
    ids = [key.removeprefix(_SLOTS) for key in context if key.startswith(_SLOTS)]
    if not ids:
        raise InvalidInput(
            f"event {shown(decision.event_id)} has one slot; leave multislot out of the path"
        )
    return ids


def slot_event_id(event_id: str, number: int) -> str:
    """Return the id of the decision of a multi-slot event's slot."""
    if number == 0:
        return event_id
    made = f"{event_id}/{number}"
    if len(made) <= MAX_ID_LENGTH:
        return made
    return f"{blake2b(event_id.encode(), digest_size=16).hexdigest()}/{number}"


def user_of_event(event_id: str) -> str:
    """Return the user of an event that names none."""
    made = f"event-{event_id}"
    if len(made) <= MAX_ID_LENGTH:
        return made
    return f"event-{blake2b(event_id.encode(), digest_size=16).hexdigest()}"


def ranking_of(decision: Decision, actions: Sequence[Action]) -> list[RankedAction]:
    """Return all actions with the probability that each had of being chosen, the largest first.

    Where nothing was chosen (an apprentice shows the first action), what is shown was certain.
    """
    (slot,) = decision.slots
    ranking = [RankedAction(one.item_id, one.propensity) for one in slot.alternatives or (slot,)]
    ranked = {one.id for one in ranking}
    return ranking + [RankedAction(one.id, 0.0) for one in actions if one.id not in ranked]


def check_slots(slots: Sequence[SlotBody], action_ids: Set[str]) -> None:
    """Raise `InvalidInput` for slots that cannot be filled as they say."""
    if not slots:
        raise InvalidInput("slots is empty; give at least one", field="slots")
    if len({slot.id for slot in slots}) < len(slots):
        raise InvalidInput("two slots have the same id", field="slots")
    if len({slot.baseline_action for slot in slots}) < len(slots):
        raise InvalidInput("two slots have the same baselineAction", field="slots")
    for slot in slots:
        if slot.baseline_action not in action_ids:
            raise InvalidInput(
                f"baselineAction {shown(slot.baseline_action)} of slot {shown(slot.id)} is not "
                "among the actions",
                field="slots",
            )


def assignable(slot: Sequence[str], later: Sequence[Set[str]]) -> list[str]:
    """Return those of a slot's actions that leave each later slot an action of its own.

    By a matching of the later slots (Kuhn 1955): an action it does not use is free; one it uses is,
    if its slot finds another along an augmenting path.
    """
    owner: dict[str, int] = {}

    def place(number: int, tried: set[str]) -> bool:
        for action in sorted(later[number] - tried):
            if action in tried:
                continue
            tried.add(action)
            if action not in owner or place(owner[action], tried):
                owner[action] = number
                return True
        return False

    def is_free(action: str) -> bool:
        number = owner.pop(action, None)
        if number is None or place(number, {action}):
            return True
        owner[action] = number
        return False

    if not all(place(number, set()) for number in range(len(later))):
        raise _no_way()
    free = [action for action in slot if is_free(action)]
    if not free:
        raise _no_way()
    return free


def _no_way() -> InvalidInput:
    return InvalidInput(
        "the slots cannot all have an action of their own; give more actions or exclude fewer",
        field="slots",
    )


def _item(action: Action) -> Item:
    text = "\n".join(sorted(f"{key}: {_word(value)}" for key, value in _scalars(action.features)))
    if len(text) > MAX_TEXT_LENGTH:
        raise PayloadTooLarge(
            f"the features of action {shown(action.id)} have {len(text)} characters, the limit is "
            f"{MAX_TEXT_LENGTH}; send those that tell most"
        )
    item = Item(item_id=action.id, description=text, title="" if text else action.id)
    check_item(item)
    return item


def _word(value: str | float | bool | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _scalars(features: Features | None) -> Iterator[tuple[str, str | float | bool]]:
    """Yield the flattened features in order; without recursion, whatever their depth."""
    stack: list[tuple[str, Any]] = [("", one) for one in reversed(features or [])]
    while stack:
        key, value = stack.pop()
        if isinstance(value, Mapping):
            parts = [(f"{key}.{name}" if key else name, part) for name, part in value.items()]
            stack += reversed(parts)
        elif isinstance(value, list):
            listed = [
                (f"{key}.{part}", True) if isinstance(part, str) else (f"{key}.{number}", part)
                for number, part in enumerate(value)
            ]
            stack += reversed(listed)
        elif value is not None:
            yield key, value
