"""The engine: decisions, what is learnt from their outcomes, and whom it forgets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rove.engine import Engine
from rove.errors import NotFound
from rove.events import Decision, InteractionType
from tests.worlds import (
    DAY_S,
    END_S,
    NUM_ITEMS,
    Shop,
    did,
    observe,
    outcome_of,
    purchases,
    rank,
    request,
    shares,
    taste,
    unit_vectors,
    view_of,
)

KINDS = ["greedy", "epsilon_greedy", "softmax", "ucb", "thompson", "top_two", "igw"]
HIDE, IMPRESSION = InteractionType.HIDE, InteractionType.IMPRESSION


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def shown(decision: Decision) -> list[str]:
    return [slot.item_id for slot in decision.slots]


def scores(engine: Engine, user_id: str) -> dict[str, float]:
    """Return what every item is worth to a user, by the slots of one whole ranking."""
    decision = rank(engine, request(user_id, k=engine.num_items))
    return {slot.item_id: slot.score for slot in decision.slots}


def test_a_decision_says_everything_it_was_made_with(shop: Shop) -> None:
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1", context={"device": "phone"}))
    assert (decision.event_id, decision.user_id, decision.policy) == ("e1", "ann", "shop")
    assert decision.release == engine.release_id
    assert decision.created_at == decision.activated_at == shop.clock.now
    assert decision.expires_at == shop.clock.now + DAY_S
    assert decision.num_candidates == NUM_ITEMS and decision.context == {"device": "phone"}
    assert [slot.slot for slot in decision.slots] == [0, 1, 2]
    assert len(set(shown(decision))) == 3


def test_the_same_event_answers_the_same(shop: Shop) -> None:
    engine = shop.engine()
    first = rank(engine, request("ann", "e1"))
    observe(engine, did("i1"))
    assert rank(engine, request("ann", "e1")) == first
    engine.close()
    assert rank(shop.engine(), request("ann", "e1")) == first


def test_one_event_twice_in_a_call_is_one_decision(shop: Shop) -> None:
    engine = shop.engine()
    first, second = engine.rank([request("ann", "e1"), request("ann", "e1")])
    assert first == second and isinstance(first, Decision)


def test_without_an_id_every_decision_is_one_of_its_own(shop: Shop) -> None:
    first, second = shop.engine().rank([request("ann"), request("ann")])
    assert isinstance(first, Decision) and isinstance(second, Decision)
    assert first.event_id != second.event_id


@pytest.mark.parametrize("kind", KINDS)
def test_a_slate_does_not_depend_on_its_batch(tmp_path: Path, kind: str) -> None:
    """Requests with other candidates, other numbers of them and other slots beside it."""
    requests = [
        request("u1", "e1", k=2, item_ids=[f"item-{n}" for n in range(5)]),
        request("u2", "e2", k=2, item_ids=[f"item-{n}" for n in range(40)]),
        request("u3", "e3", k=4),
        request("u4", "e4", k=2, category="c1", excluded_items=["item-1"]),
        request("u5", "e5", k=2, exclude_seen=True),
    ]
    together = Shop(tmp_path / "together").engine(kind=kind).rank(requests)
    engine = Shop(tmp_path / "alone").engine(kind=kind)
    for wanted, beside in zip(requests, together, strict=True):
        alone = rank(engine, wanted)
        assert isinstance(beside, Decision) and shown(beside) == shown(alone)
        assert [slot.propensity for slot in beside.slots] == [s.propensity for s in alone.slots]


@pytest.mark.parametrize("kind", KINDS)
def test_every_policy_explores_no_more_than_allowed(shop: Shop, kind: str) -> None:
    engine = shop.engine(kind=kind, floor=0.5, max_explore_slots=1)
    for decision in engine.rank([request(f"u{n}", k=5) for n in range(50)]):
        assert isinstance(decision, Decision)
        reasons = [slot.reason for slot in decision.slots]
        assert reasons.count("explore") <= 1
        if "explore" in reasons:
            after = decision.slots[reasons.index("explore") + 1 :]
            assert all(slot.propensity == 1.0 for slot in after)


def test_the_next_rank_reflects_an_acknowledged_event(shop: Shop) -> None:
    """ann's scores move towards what resembles item-7, and everybody's item mean of item-7."""
    engine = shop.engine()
    before, others = scores(engine, "ann"), scores(engine, "bob")
    assert observe(engine, did("i1")) == ["accepted"]
    after, others_after = scores(engine, "ann"), scores(engine, "bob")
    assert after["item-7"] - before["item-7"] > others_after["item-7"] - others["item-7"] > 0


def test_dislikes_lower_the_score_of_that_user_only(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, did("i0"), did("i1", "bob"))
    before, others = scores(engine, "ann"), scores(engine, "bob")
    observe(engine, did("i2", kind=HIDE))
    assert scores(engine, "ann")["item-7"] < before["item-7"]
    assert scores(engine, "bob") == others


def test_what_says_nothing_changes_nothing(shop: Shop) -> None:
    engine = shop.engine()
    before = scores(engine, "ann")
    assert observe(engine, did("i1", kind=IMPRESSION)) == ["accepted"]
    assert scores(engine, "ann") == before


def test_an_interaction_counts_once(shop: Shop) -> None:
    engine = shop.engine()
    once = did("i1")
    assert observe(engine, once, once, did("i2", "bob")) == ["accepted", "duplicate", "accepted"]
    before, means = taste(engine), shares(engine)
    assert observe(engine, once) == ["duplicate"]
    assert np.array_equal(taste(engine), before) and np.array_equal(shares(engine), means)
    assert engine.user("ann").num_interactions == 1


def test_what_answers_a_decision_is_its_reward(shop: Shop) -> None:
    engine = shop.engine()
    item_id = rank(engine, request("ann", "e1")).slots[1].item_id
    assert engine.decision("e1").outcome == "pending"
    click = did("i1", item_id=item_id, kind=InteractionType.CLICK, event_id="e1", slot=1)
    assert observe(engine, click, did("i2", item_id=item_id, event_id="e1")) == ["accepted"] * 2
    record = engine.decision("e1")
    assert (record.outcome, record.rewards) == ("rewarded", {1: 1.0})


def test_a_look_leaves_a_decision_pending_until_it_expires(shop: Shop) -> None:
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1"))
    item_id = decision.slots[0].item_id
    observe(engine, did("i1", item_id=item_id, kind=IMPRESSION, event_id="e1"))
    assert (engine.decision("e1").outcome, engine.decision("e1").rewards) == ("pending", {})
    shop.clock.now = decision.expires_at + 1
    assert engine.decision("e1").outcome == "expired"


def test_a_late_answer_is_marked_and_still_learnt_from(shop: Shop) -> None:
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1"))
    shop.clock.now = decision.expires_at + 1
    late = outcome_of(engine, did("i1", item_id=decision.slots[0].item_id, event_id="e1"))
    assert (late.status, late.reason) == ("late", "the decision had expired")
    assert engine.decision("e1").rewards == {0: 1.0}
    assert [one.item_id for one in engine.user("ann").items] == [decision.slots[0].item_id]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_id": "unknown"}, "there is no decision 'unknown'"),
        ({"event_id": "e1", "user_id": "bob"}, "the decision was made for another user"),
        ({"event_id": "e1", "item_id": "item-9"}, "the decision did not show 'item-9'"),
        ({"event_id": "e1", "slot": 9}, "slot 9 showed another item"),
    ],
)
def test_an_answer_to_something_else_is_unattributed_and_still_learnt_from(
    shop: Shop, fields: dict[str, Any], reason: str
) -> None:
    engine = shop.engine()
    rank(engine, request("ann", "e1", k=2, item_ids=["item-7", "item-8"]))
    outcome = outcome_of(engine, did("i1", **fields))
    assert (outcome.status, outcome.reason) == ("unattributed", reason)
    assert engine.decision("e1").rewards == {}
    assert engine.user(fields.get("user_id", "ann")).num_interactions == 1


def test_a_deferred_decision_is_activated_once(shop: Shop) -> None:
    engine = shop.engine()
    assert rank(engine, request("ann", "e1", defer_activation=True)).activated_at is None
    assert engine.decision("e1").decision.activated_at is None
    shop.clock.now += 5
    first = engine.activate("e1")
    shop.clock.now += 5
    assert engine.activate("e1") == first == engine.decision("e1").decision
    assert first.activated_at == shop.clock.now - 5


def test_erasure_forgets_the_user_and_only_the_user(shop: Shop) -> None:
    engine = shop.engine()
    nobody = scores(engine, "nobody")
    rank(engine, request("ann", "e1"))
    observe(engine, did("i1"), did("i2", item_id="item-9"), did("i3", "bob"))
    receipt = engine.erase("ann")
    assert (receipt.num_decisions, receipt.num_interactions) == (1, 2)
    assert receipt.erased_at == shop.clock.now
    for lookup in (lambda: engine.user("ann"), lambda: engine.decision("e1")):
        with pytest.raises(NotFound, match=re.escape("'ann'") + "|" + re.escape("'e1'")):
            lookup()
    assert scores(engine, "ann") == scores(engine, "nobody") != nobody
    assert engine.user("bob").num_interactions == 1
    assert engine.erase("ann").num_interactions == 0


def test_seen_items_can_be_left_out(shop: Shop) -> None:
    """Bought means seen; hidden or only looked at does not."""
    engine = shop.engine()
    observe(engine, did("i1"), did("i2", item_id="item-9", kind=IMPRESSION))
    observe(engine, did("i3", item_id="item-8", kind=HIDE))
    left = shown(rank(engine, request("ann", k=NUM_ITEMS - 1, exclude_seen=True)))
    assert set(left) == {f"item-{number}" for number in range(NUM_ITEMS)} - {"item-7"}
    assert "item-7" in shown(rank(engine, request("ann", k=NUM_ITEMS)))


def test_excluded_items_are_not_shown(shop: Shop) -> None:
    excluded = [f"item-{number}" for number in range(1, NUM_ITEMS)]
    wanted = request("ann", k=1, excluded_items=[*excluded, *excluded, "unknown"])
    assert shown(rank(shop.engine(), wanted)) == ["item-0"]


def test_candidates_may_be_listed(shop: Shop) -> None:
    item_ids = ["item-3", "item-30", "item-3", "item-33"]
    decision = rank(shop.engine(), request("ann", item_ids=item_ids))
    assert sorted(shown(decision)) == ["item-3", "item-30", "item-33"]
    assert decision.num_candidates == 3


def test_candidates_may_be_a_category(shop: Shop) -> None:
    decision = rank(shop.engine(), request("ann", k=15, category="c2"))
    assert {int(item_id.removeprefix("item-")) % 4 for item_id in shown(decision)} == {2}


def test_candidates_may_be_what_is_nearest_to_a_query(shop: Shop) -> None:
    engine = shop.engine()
    (query,) = unit_vectors(1, np.random.default_rng(4))
    nearest = [view_of(engine).index.ids[row] for row in view_of(engine).index.nearest(query, 200)]
    decision = rank(engine, request("ann", query="warm socks"), **{"warm socks": query})
    assert decision.num_candidates == len(nearest) == NUM_ITEMS
    assert set(shown(decision)) <= set(nearest)


def test_a_large_catalogue_is_cut_to_the_most_promising(shop: Shop) -> None:
    """Of 60 items 8 are looked at: with little exploration the best is among them."""
    engine = shop.engine(kind="softmax", temperature=10.0, shortlist=8)
    best = sorted(scores(engine, "ann").items(), key=lambda pair: -pair[1])[:8]
    for decision in engine.rank([request("ann", k=4, exclude_seen=True) for _ in range(30)]):
        assert isinstance(decision, Decision)
        assert set(shown(decision)) <= {item_id for item_id, _ in best}
        assert decision.num_candidates == NUM_ITEMS


def test_many_listed_candidates_are_cut_to_the_most_promising(shop: Shop) -> None:
    engine = shop.engine(kind="softmax", temperature=10.0, shortlist=8)
    listed = [f"item-{number}" for number in range(0, NUM_ITEMS, 2)]
    value = {item_id: x for item_id, x in scores(engine, "ann").items() if item_id in listed}
    best = sorted(value, key=lambda item_id: -value[item_id])[:8]
    for decision in engine.rank([request("ann", k=4, item_ids=listed) for _ in range(30)]):
        assert isinstance(decision, Decision)
        assert set(shown(decision)) <= set(best) and decision.num_candidates == len(listed)


def test_optimism_keeps_uncertain_items_in_the_shortlist(shop: Shop) -> None:
    """Strong confidence bounds show one of the most uncertain items, not the best mean."""
    engine = shop.engine(kind="ucb", strength=1000.0, shortlist=4, max_explore_slots=1)
    part = view_of(engine).scorer.item_part()
    deviation_J = part.deviation_J[False]
    first = rank(engine, request("nobody", k=1)).slots[0]
    row = view_of(engine).index.row(first.item_id)
    assert row in np.argsort(-deviation_J)[:4] and first.reason == "explore"


def test_baseline_items_fill_up(shop: Shop) -> None:
    """Two candidates for five slots: then the baseline's, in order, without repeats."""
    decision = rank(
        shop.engine(),
        request(
            "ann",
            k=5,
            item_ids=["item-1", "item-2"],
            baseline_items=["item-9", "item-1", "item-8", "item-9", "item-7", "item-6"],
            excluded_items=["item-8"],
        ),
    )
    assert shown(decision)[2:] == ["item-9", "item-7", "item-6"]
    assert [slot.reason for slot in decision.slots[2:]] == ["baseline"] * 3
    assert [slot.slot for slot in decision.slots] == [0, 1, 2, 3, 4]


def test_a_baseline_leaves_out_what_the_user_has(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, did("a-1", "ann", "item-9"))
    wanted = request(
        "ann", k=3, item_ids=["item-1"], baseline_items=["item-9", "item-8"], exclude_seen=True
    )
    shown = [slot.item_id for slot in rank(engine, wanted).slots]
    assert shown == ["item-1", "item-8"]


def test_a_short_baseline_gives_a_short_slate(shop: Shop) -> None:
    wanted = request("ann", k=5, item_ids=["item-1"], baseline_items=["item-2"])
    assert shown(rank(shop.engine(), wanted)) == ["item-1", "item-2"]


def test_alternatives_are_what_the_first_slot_was_chosen_from(shop: Shop) -> None:
    engine, asked = shop.engine(), request("u0", event_id="e", k=2, alternatives=True)
    decision = rank(engine, asked)
    first, second = decision.slots
    assert first.alternatives is not None and second.alternatives is None
    told = {one.item_id: one for one in first.alternatives}
    assert told[first.item_id].propensity == first.propensity
    assert told[first.item_id].score == first.score
    assert sum(one.propensity for one in told.values()) == pytest.approx(1.0)
    propensities = [one.propensity for one in first.alternatives]
    assert propensities == sorted(propensities, reverse=True)
    assert rank(engine, asked) == decision == engine.decision("e").decision


@pytest.mark.parametrize("candidates", ["catalogue", "listed"])
def test_explanations_sum_to_the_score(shop: Shop, candidates: str) -> None:
    """With 30 past items, of which 20 are named, and hidden ones among them."""
    engine = shop.engine()
    past = [did(f"i{n}", item_id=f"item-{2 * n}") for n in range(28)]
    observe(engine, *past, did("x", kind=HIDE), did("y", item_id="item-4", kind=HIDE))
    item_ids = ["item-1", "item-4", "item-7"] if candidates == "listed" else None
    decision = rank(engine, request("ann", explain=True, item_ids=item_ids))
    for slot in decision.slots:
        why = slot.explanation
        assert why is not None and 19 <= len(why.history) <= 20
        total = why.item_mean + why.prior + sum(why.history.values()) + why.other
        assert total == pytest.approx(slot.score, abs=1e-5)
        terms = [abs(term) for term in why.history.values()]
        assert terms[0] == max(terms) > 0


def test_a_user_s_profile_tells_what_counts(shop: Shop) -> None:
    """A purchase of one taste half-life ago weighs half; a click a tenth of one."""
    engine = shop.engine()
    half_life_s = view_of(engine).release.model.taste_half_life_s
    shop.clock.now = now = END_S + half_life_s
    observe(engine, did("i1", timestamp=now - half_life_s))
    observe(engine, did("i2", item_id="item-9", kind=InteractionType.CLICK, timestamp=now))
    profile = engine.user("ann")
    assert (profile.first_at, profile.last_at) == (now - half_life_s, now)
    weights = {one.item_id: one.weight for one in profile.items}
    assert weights == pytest.approx({"item-7": 0.5, "item-9": 0.1})
    assert len(profile.taste_mean) == 10


def test_a_quiet_night_forgets_nothing(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, did("i1"))
    before = scores(engine, "ann")
    shop.clock.now += 100 * DAY_S
    assert scores(engine, "ann") == before


def test_replaying_history_finds_the_planted_popularity(shop: Shop) -> None:
    """The purchases of the planted world again, as events: popular items rank higher."""
    engine, history = shop.engine(), purchases()
    bought = np.bincount(history.items, minlength=NUM_ITEMS)
    found = scores(engine, "nobody")
    values = [found[f"item-{number}"] for number in range(NUM_ITEMS)]
    assert np.corrcoef(bought, values)[0, 1] > 0.9
