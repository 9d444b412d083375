"""Azure Personalizer's bodies: contexts, items, users, and which action a slot may have."""

from __future__ import annotations

import re
from itertools import permutations
from random import Random
from typing import Any

import msgspec
import pytest

from rove.catalogue import Item
from rove.errors import InvalidInput, PayloadTooLarge
from rove.events import Decision
from rove.personalizer import (
    Action,
    RankAnswer,
    RankBody,
    RankedAction,
    SlotBody,
    assignable,
    check_slots,
    context_of,
    items_of,
    ranking_of,
    slot_context,
    slot_event_id,
    slots_of,
    user_of_event,
)

PUBLISHED_CONTEXT: list[dict[str, Any]] = [
    {"user": {"profileType": "AnonymousUser", "latLong": "47.6,-122.1"}},
    {"environment": {"dayOfMonth": "28", "monthOfYear": "8", "weather": "Sunny"}},
    {"device": {"mobile": True, "windows": True}},
    {"recentActivity": {"itemsInCart": 3}},
]


def decided(**fields: Any) -> Decision:
    tree = {
        "event_id": "e", "user_id": "u", "policy": "p", "policy_version": "1", "release": "r",
        "seed": 1, "request_digest": "d", "candidates_digest": "c", "num_candidates": 2,
        "slots": [], "created_at": 0.0, "expires_at": 1.0, "activated_at": None, **fields,
    }  # fmt: skip
    return msgspec.convert(tree, Decision)


def slot(name: str, baseline: str = "a", **fields: Any) -> SlotBody:
    return SlotBody(id=name, baseline_action=baseline, **fields)


def test_namespaces_are_prefixes() -> None:
    context, user_id = context_of(PUBLISHED_CONTEXT)
    assert context == {
        "user.profileType": "AnonymousUser",
        "user.latLong": "47.6,-122.1",
        "environment.dayOfMonth": "28",
        "environment.monthOfYear": "8",
        "environment.weather": "Sunny",
        "device.mobile": True,
        "device.windows": True,
        "recentActivity.itemsInCart": 3,
    }
    assert user_id is None


def test_words_in_lists_are_switches_numbers_are_counted_and_nothing_is_nothing() -> None:
    features = [{"likes": ["tea", "mugs"], "x": [0.5, 2], "none": None, "deep": [{"a": {"b": 1}}]}]
    assert context_of(features)[0] == {
        "likes.tea": True, "likes.mugs": True, "x.0": 0.5, "x.1": 2, "deep.0.a.b": 1,
    }  # fmt: skip


def test_later_dictionaries_win_and_depth_is_no_problem() -> None:
    assert context_of([{"time": "day"}, {"time": "night"}])[0] == {"time": "night"}
    deep: Any = 1
    for _ in range(50_000):
        deep = {"a": deep}
    assert list(context_of([{"x": deep}])[0].values()) == [1]


@pytest.mark.parametrize(
    ("features", "user_id"),
    [
        ([{"userId": "ann", "time": 1}], "ann"),
        ([{"user": {"user_id": 7}}, {"time": 1}], "7"),
        ([{"user": {"userID": "ann"}}, {"userId": "bob"}, {"time": 1}], "ann"),
        ([{"userId": True, "time": 1}], None),
        ([{"userId": "", "time": 1}], None),
    ],
)
def test_the_user_is_taken_out_of_the_context(
    features: list[dict[str, Any]], user_id: str | None
) -> None:
    assert context_of(features) == ({"time": 1}, user_id)


def test_an_actions_features_are_its_text_whatever_their_order() -> None:
    one = Action("shirt", [{"onSale": True, "price": 20}, {"category": "Clothing"}])
    other = Action("shirt", [{"category": "Clothing", "price": 20, "onSale": True}])
    assert items_of([one]) == items_of([other])
    assert items_of([one])[0] == Item(
        item_id="shirt", description="category: Clothing\nonSale: true\nprice: 20"
    )
    assert items_of([Action("shirt"), Action("mug", [{}])])[0].title == "shirt"


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([], "actions is empty"),
        ([Action("a"), Action("a")], "action 'a' is there twice"),
        ([Action("a\n")], "item_id must not contain control"),
    ],
)
def test_actions_that_cannot_be_told_apart_are_refused(actions: list[Action], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        items_of(actions)
    with pytest.raises(PayloadTooLarge, match=re.escape("send those that tell most")):
        items_of([Action("long", [{"text": "x" * 200_000}])])


def test_all_actions_are_ranked_excluded_ones_last_with_nothing() -> None:
    alternatives = [
        {"item_id": "b", "score": 0.1, "propensity": 0.75},
        {"item_id": "a", "score": 0.2, "propensity": 0.25},
    ]
    slot = {
        "slot": 0, "item_id": "a", "score": 0.2, "propensity": 0.25, "reason": "explore",
        "alternatives": alternatives,
    }  # fmt: skip
    ranking = ranking_of(decided(slots=[slot]), [Action(one) for one in "xab"])
    assert ranking == [RankedAction("b", 0.75), RankedAction("a", 0.25), RankedAction("x", 0.0)]
    certain = decided(slots=[{**slot, "propensity": 1.0, "alternatives": None}])
    assert ranking_of(certain, [Action(one) for one in "ba"]) == [
        RankedAction("a", 1.0), RankedAction("b", 0.0),
    ]  # fmt: skip
    answer = RankAnswer(ranking=ranking[:1], event_id="e", reward_action_id="a")
    assert msgspec.json.decode(msgspec.json.encode(answer)) == {
        "ranking": [{"id": "b", "probability": 0.75}], "eventId": "e", "rewardActionId": "a",
    }  # fmt: skip


def test_a_body_may_have_nulls_and_what_is_not_known() -> None:
    body = b'{"actions": [{"id": "a", "features": []}], "contextFeatures": null, "eventId": null, '
    read = msgspec.json.decode(body + b'"excludedActions": null, "new": 1}', type=RankBody)
    assert read == RankBody(actions=[Action("a", [])])


def test_a_multi_slot_event_is_found_again_by_its_first_decision() -> None:
    slots = [slot("Main Article", features=[{"size": "Large"}]), slot("Side Bar", "b")]
    context = slot_context({"time": 1}, slots[0], slots)
    assert context == {
        "time": 1, "slot.size": "Large", "slot.id": "Main Article",
        "slots.Main Article": None, "slots.Side Bar": None,
    }  # fmt: skip
    assert slots_of(decided(context=context)) == ["Main Article", "Side Bar"]
    with pytest.raises(InvalidInput, match=re.escape("leave multislot out of the path")):
        slots_of(decided(context=slot_context({"time": 1}, slots[1])))


def test_made_ids_are_short_enough_and_differ() -> None:
    for event_id in ("e", "e" * 256):
        made = {slot_event_id(event_id, number) for number in range(3)} | {user_of_event(event_id)}
        assert len(made) == 4 and all(len(one) <= 256 for one in made)
    assert slot_event_id("e", 0) == "e"


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([], "slots is empty"),
        ([slot("s"), slot("s", "b")], "two slots have the same id"),
        ([slot("s"), slot("t")], "two slots have the same baselineAction"),
        ([slot("s", "z")], "baselineAction 'z' of slot 's' is not among the actions"),
    ],
)
def test_slots_that_cannot_be_are_refused(slots: list[SlotBody], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        check_slots(slots, {"a", "b"})


def is_fillable(slots: list[set[str]]) -> bool:
    """Try everything."""
    return any(
        all(action in slot for action, slot in zip(order, slots, strict=True))
        for order in permutations("abcde", len(slots))
    )


def test_an_action_is_assignable_if_every_later_slot_can_still_be_filled() -> None:
    """Against trying everything, over random exclusions."""
    rng = Random(0)
    num_refused = 0
    for _ in range(300):
        slots = [{one for one in "abcde" if rng.random() < 0.5} for _ in range(rng.randint(1, 4))]
        expected = [
            one for one in sorted(slots[0]) if is_fillable([later - {one} for later in slots[1:]])
        ]
        if expected:
            assert assignable(sorted(slots[0]), slots[1:]) == expected
        else:
            num_refused += 1
            with pytest.raises(InvalidInput, match=re.escape("give more actions")):
                assignable(sorted(slots[0]), slots[1:])
    assert 10 < num_refused < 290
