"""Apprentices, shadows and logging: what is shown, what is kept beside it, what is learnt."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rove.config import PolicyFile
from rove.engine import Engine
from rove.errors import DataError, InvalidInput, NotFound
from rove.events import Decision, Interaction, InteractionType
from rove.ope.beside import asked_beside
from rove.ope.slates import reward_interaction_ips
from rove.records import Agreement, Beside
from rove.rewards import RewardMap
from tests.worlds import DAY_S, Shop, did, observe, rank, refusal, request, shares, view_of

KINDS = ["greedy", "epsilon_greedy", "softmax", "ucb", "thompson", "top_two", "igw"]
OWN = {"strength": 1.0, "num_draws": 16}
"""The settings of the shop's own policy."""


@pytest.fixture(params=["implicit", "shown"])
def shop(tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
    return Shop(tmp_path, feedback=request.param)


def put(
    engine: Engine, name: str, mode: str = "online", share: float | None = None, **policy: object
) -> None:
    tree = {"policy": policy or OWN, "mode": mode, "share": share}
    engine.policies.put(name, PolicyFile.model_validate(tree), 1.0)


def items_of(decision: Decision) -> list[str]:
    return [slot.item_id for slot in decision.slots]


def beside(engine: Engine, event_id: str) -> list[Beside]:
    return engine.decision(event_id).beside


def agreement(engine: Engine, name: str) -> Agreement:
    (found,) = [one.agreement for one in engine.policy_states() if one.name == name]
    assert found is not None
    return found


def test_a_share_of_the_users_is_decided_by_another_policy(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "greedy", share=0.5, kind="greedy")
    users = [f"u{n}" for n in range(60)]
    decided = engine.rank([request(user, f"e-{user}") for user in users])
    names = [one.policy for one in decided if isinstance(one, Decision)]
    assert 15 < names.count("greedy") < 45 and set(names) == {"greedy", "shop"}
    for one in decided:
        assert isinstance(one, Decision)
        if one.policy == "greedy":
            assert one.policy_version == "1"
            assert all(slot.propensity == 1.0 for slot in one.slots)
    again = engine.rank([request(user, f"f-{user}") for user in users])
    assert [one.policy for one in again if isinstance(one, Decision)] == names


def test_a_request_names_its_policy(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "greedy", kind="greedy")
    assert rank(engine, request("ann", policy="greedy")).policy == "greedy"
    assert rank(engine, request("ann")).policy == "shop"
    assert isinstance(refusal(engine, request("ann", policy="other")), NotFound)


def test_a_decision_is_answered_again_whatever_has_become_of_its_policy(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "a", kind="greedy")
    first = rank(engine, request("ann", "e1", policy="a"))
    put(engine, "a", "shadow")
    assert rank(engine, request("ann", "e1", policy="a")) == first
    assert isinstance(refusal(engine, request("ann", "e2", policy="a")), InvalidInput)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shadow_that_is_the_deciding_policy_says_the_same(tmp_path: Path, kind: str) -> None:
    """Its slots and propensities are the decision's, and what was shown has the same ones."""
    engine = Shop(tmp_path).engine(kind=kind, floor=0.1, max_explore_slots=2)
    put(engine, "s", "shadow", kind=kind, floor=0.1, max_explore_slots=2, **OWN)
    requests = [request(f"u{n}", f"e{n}", k=4) for n in range(10)]
    requests += [
        request("few", "few", k=5, item_ids=["item-1", "item-2"], baseline_items=["item-9"])
    ]
    for decision in engine.rank(requests):
        assert isinstance(decision, Decision)
        (asked,) = beside(engine, decision.event_id)
        assert (asked.policy, asked.policy_version, asked.mode) == ("s", "1", "shadow")
        chosen = [slot for slot in decision.slots if slot.reason != "baseline"]
        assert asked.slots == chosen
        expected = [slot.propensity for slot in decision.slots]
        assert asked.shown == pytest.approx(expected, rel=1e-9)
    counted = agreement(engine, "s")
    assert counted.num_decisions == counted.num_same_first == 11


def test_a_shadow_is_never_shown_and_changes_no_decision(tmp_path: Path) -> None:
    alone, watched = Shop(tmp_path / "alone"), Shop(tmp_path / "watched")
    one, other = alone.engine(), watched.engine()
    put(other, "s", "shadow", kind="greedy")
    for n in range(20):
        first, second = rank(one, request("ann", f"e{n}")), rank(other, request("ann", f"e{n}"))
        assert first.slots == second.slots and second.policy == "shop"
        (asked,) = beside(other, f"e{n}")
        greedy = [
            float(item == slot.item_id)
            for item, slot in zip(items_of(second), asked.slots, strict=True)
        ]
        assert asked.shown[0] == greedy[0]


def test_a_shadow_s_logged_probabilities_are_its_true_ones(tmp_path: Path) -> None:
    """The shown items' mean probability over 3,000 decisions is how often it would choose them."""
    engine = Shop(tmp_path).engine(kind="softmax", temperature=0.05)
    put(engine, "s", "shadow", kind="epsilon_greedy", epsilon=0.5)
    candidates = ["item-1", "item-2", "item-3"]
    wanted = [request("ann", f"e{n}", k=1, item_ids=candidates) for n in range(3000)]
    engine.rank(wanted)
    asked = [beside(engine, f"e{n}")[0] for n in range(3000)]
    chosen = np.array([one.slots[0].item_id for one in asked])
    shown = np.array([items_of(engine.decision(f"e{n}").decision)[0] for n in range(3000)])
    probability = np.array([one.shown[0] for one in asked])
    for item_id in candidates:
        (value,) = {round(p, 9) for p in probability[shown == item_id].tolist()} or {None}
        if value is not None:
            assert (chosen == item_id).mean() == pytest.approx(value, abs=0.04)


def test_an_apprentice_shows_the_baseline_items_and_keeps_what_it_would_have(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "a", "apprentice", 1.0, kind="greedy")
    given = ["item-5", "item-3", "item-9"]
    decision = rank(engine, request("ann", "e1", k=2, baseline_items=given))
    assert items_of(decision) == given[:2]
    assert (decision.policy, decision.policy_version) == ("baseline", "given")
    assert [slot.propensity for slot in decision.slots] == [1.0, 1.0]
    assert {slot.reason for slot in decision.slots} == {"baseline"}
    (asked,) = beside(engine, "e1")
    assert (asked.policy, asked.mode) == ("a", "apprentice") and len(asked.slots) == 2
    best = [slot.item_id for slot in asked.slots]
    assert asked.shown[0] == float(best[0] == given[0])
    # Shown what it would have: it agrees.
    rank(engine, request("ann", "e2", k=2, baseline_items=best))
    assert beside(engine, "e2")[0].shown == [1.0, 1.0]
    counted = agreement(engine, "a")
    assert counted.num_decisions == 2 and counted.num_slots == 4
    assert counted.num_same_slots == 2 + sum(a == b for a, b in zip(best, given, strict=False))
    engine.close()
    assert agreement(shop.engine(), "a") == counted


def test_without_baseline_items_an_apprentice_watches_the_default(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "a", "apprentice", 1.0, kind="greedy")
    decision = rank(engine, request("ann", "e1"))
    assert decision.policy == "shop" and decision.slots[0].reason != "baseline"
    assert [one.policy for one in beside(engine, "e1")] == ["a"]


def test_a_default_that_is_an_apprentice_needs_the_baseline_items(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "shop", "apprentice")
    with pytest.raises(InvalidInput, match=re.escape("baseline_items, got none")):
        rank(engine, request("ann"))
    rank(engine, request("ann", "e1", baseline_items=["item-2"]))
    assert [one.policy for one in beside(engine, "e1")] == ["shop"]


def test_logging_shows_the_items_as_given_and_learns_from_them(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "log", "logging_only", 1.0)
    given = ["item-5", "item-3", "item-9"]
    decision = rank(engine, request("ann", "e1", k=5, baseline_items=given))
    assert items_of(decision) == given and decision.policy == "log"
    assert [slot.propensity for slot in decision.slots] == [1.0] * 3
    assert decision.num_candidates == 3 and beside(engine, "e1") == []
    before = engine.view.scorer if shop.feedback == "shown" else shares(engine)
    assert observe(engine, did("i1", "ann", "item-3", event_id="e1")) == ["accepted"]
    if shop.feedback == "implicit":
        row = view_of(engine).index.row("item-3")
        assert row is not None and shares(engine)[row] > np.asarray(before)[row]
    assert engine.decision("e1").rewards == {1: 1.0}
    assert isinstance(refusal(engine, request("ann")), InvalidInput)
    with pytest.raises(InvalidInput, match=re.escape("'item-999'")):
        rank(engine, request("ann", baseline_items=["item-1", "item-999"]))


def test_policies_are_followed_with_the_next_sync_and_kept(tmp_path: Path) -> None:
    shop = Shop(tmp_path, shards=2)
    shop.release()
    first, second = shop.engine(0), shop.engine(1)
    put(first, "greedy", kind="greedy")
    first.policies.promote("greedy", 2.0)
    assert rank(first, request("ann")).policy == "greedy"
    assert rank(second, request("ann")).policy == "shop"
    second.sync()
    assert rank(second, request("ann")).policy == "greedy"
    second.close()
    assert rank(shop.engine(1), request("ann")).policy == "greedy"


def test_a_repeated_request_counts_once(shop: Shop) -> None:
    engine = shop.engine()
    put(engine, "s", "shadow", kind="greedy")
    for _ in range(3):
        engine.rank([request("ann", "e1"), request("ann", "e1")])
    assert agreement(engine, "s").num_decisions == 1
    put(engine, "s", "shadow", kind="greedy", floor=0.1)
    assert agreement(engine, "s").num_decisions == 0  # of another version


def test_a_shadow_s_value_is_estimated_from_the_ledger(tmp_path: Path) -> None:
    """What it would have earned of three items that earn 1, 0.5 and 0, in its own two slots."""
    shop = Shop(tmp_path)
    engine = shop.engine(kind="softmax", temperature=0.05, floor=0.3)
    put(engine, "s", "shadow", kind="epsilon_greedy", epsilon=0.4, max_explore_slots=2)
    worth = {"item-1": 0.0, "item-2": 0.5, "item-3": 1.0}

    def answer(decision: Decision, slot: int, item_id: str) -> Interaction:
        value, event_id = worth[item_id], decision.event_id
        kind = InteractionType.REWARD
        return did(f"{event_id}-{slot}", "ann", item_id, kind, value=value, event_id=event_id)

    wanted = [request("ann", f"e{n}", k=2, item_ids=list(worth)) for n in range(2000)]
    earned = 0.0
    for start in range(0, len(wanted), 500):
        for decision in engine.rank(wanted[start : start + 500]):
            assert isinstance(decision, Decision)
            (asked,) = beside(engine, decision.event_id)
            earned += sum(worth[slot.item_id] for slot in asked.slots)
            observe(engine, *(answer(decision, one.slot, one.item_id) for one in decision.slots))
    shop.clock.now += 2 * DAY_S
    store, rewards = shop.config().store, RewardMap.from_config(shop.config().rewards)
    log = asked_beside(store, rewards, "s", now=shop.clock.now)
    estimate = reward_interaction_ips(log)
    assert len(log.reward_NK) == 2000
    assert estimate.value == pytest.approx(earned / 2000, abs=4 * estimate.standard_error)
    assert estimate.standard_error < 0.05
    with pytest.raises(DataError, match=re.escape("policy other was asked beside none of the")):
        asked_beside(store, rewards, "other", now=shop.clock.now)
