"""A regulated policy in an engine: strengths by block and segment, credited from the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rove.engine import Engine
from rove.events import Decision, InteractionType
from rove.regulating import MAX_SEGMENTS
from tests.worlds import Shop, did, observe, rank, request

HOUR_S = 3600.0


def shop_in(folder: Path, feedback: str = "implicit") -> Shop:
    return Shop(folder, feedback=feedback, preset="news")


def opened(shop: Shop, **regulation: Any) -> Engine:
    return shop.engine(kind="regulated", regulation=regulation)


def strength(decision: Decision) -> float:
    assert decision.regulated is not None
    return decision.regulated.strength


def known(engine: Engine) -> str:
    assert engine._regulation is not None
    return engine._regulation._regulator.dump()


def play(engine: Engine, shop: Shop, num: int, reward: float = 0.5) -> list[Decision]:
    """Decide every ten minutes; half of the decisions are rewarded."""
    made: list[Decision] = []
    for number in range(num):
        event_id = f"e{len(made)}-{shop.clock.now}"
        decision = rank(engine, request(f"u{number % 7}", event_id, k=1))
        if number % 2:
            done = did(
                f"i{event_id}",
                decision.user_id,
                decision.slots[0].item_id,
                InteractionType.REWARD,
                value=reward,
                event_id=event_id,
            )
            observe(engine, done)
        made.append(decision)
        shop.clock.now += 600.0
        engine.sync()
    return made


@pytest.mark.parametrize("feedback", ["implicit", "shown"])
def test_a_block_keeps_its_strength_and_blocks_differ(tmp_path: Path, feedback: str) -> None:
    shop = shop_in(tmp_path, feedback)
    engine = opened(shop, trial_share=0.8, budget=1.0)
    made = play(engine, shop, 120)
    blocks: dict[int, set[float]] = {}
    for decision in made:
        blocks.setdefault(int(decision.created_at // HOUR_S), set()).add(strength(decision))
    assert all(len(strengths) == 1 for strengths in blocks.values())
    assert len(set().union(*blocks.values())) >= 3
    record = engine.decision(made[0].event_id).decision
    assert record.regulated == made[0].regulated


def test_strength_zero_is_greedy_and_says_so(tmp_path: Path) -> None:
    engine = opened(shop_in(tmp_path), strengths=[0.0], baseline=0.0)
    decision = rank(engine, request("ann", k=3))
    assert [slot.propensity for slot in decision.slots] == [1.0] * 3
    assert {slot.reason for slot in decision.slots} == {"exploit"}
    other = shop_in(tmp_path / "greedy").engine(kind="greedy")
    greedy = rank(other, request("ann", k=3))
    assert [s.item_id for s in greedy.slots] == [s.item_id for s in decision.slots]


def test_propensities_are_those_of_the_strength(tmp_path: Path) -> None:
    """As Thompson sampling with that strength: the same seed gives the same slate."""
    shop = shop_in(tmp_path)
    engine = opened(shop, strengths=[0.0, 0.5], baseline=0.5, trial_share=0.0)
    regulated = [rank(engine, request("ann", f"e{n}", k=3)) for n in range(20)]
    engine.close()
    again = shop_in(tmp_path / "again").engine(kind="thompson", strength=0.5)
    for n, decision in enumerate(regulated):
        straight = rank(again, request("ann", f"e{n}", k=3))
        assert [s.item_id for s in straight.slots] == [s.item_id for s in decision.slots]
        assert [s.propensity for s in straight.slots] == pytest.approx(
            [s.propensity for s in decision.slots]
        )
    assert any(slot.propensity < 1.0 for decision in regulated for slot in decision.slots)


def test_what_has_expired_is_credited_once_and_survives_a_restart(tmp_path: Path) -> None:
    shop = shop_in(tmp_path)
    engine = opened(shop)
    before = known(engine)
    play(engine, shop, 60)
    after = known(engine)
    assert after != before
    engine.sync()
    assert known(engine) == after
    strength_now = strength(rank(engine, request("ann", "now")))
    engine.close()
    again = opened(shop)
    assert known(again) == after
    again.sync()
    assert strength(rank(again, request("ann", "then"))) == strength_now


def test_what_expired_while_nobody_served_is_credited(tmp_path: Path) -> None:
    """Blocks close by the clock: a restart credits what was open before it decides anything."""
    shops = [shop_in(tmp_path / name) for name in ("always", "down")]
    engines = [opened(shop) for shop in shops]
    for engine, shop in zip(engines, shops, strict=True):
        play(engine, shop, 12)
    engines[1].close()
    for _ in range(40):
        shops[0].clock.now += 600.0
        engines[0].sync()
    shops[1].clock.now = shops[0].clock.now
    again = opened(shops[1])
    rank(again, request("ann", "late"))
    rank(engines[0], request("ann", "late"))
    assert known(again) == known(engines[0])


def test_segments_are_values_of_the_context(tmp_path: Path) -> None:
    engine = opened(shop_in(tmp_path), segment="device", trial_share=1.0, budget=1.0)
    names = [f"d{n}" for n in range(MAX_SEGMENTS + 5)]
    made = [rank(engine, request("ann", context={"device": name})) for name in names]
    segments = [one.regulated.segment for one in made if one.regulated is not None]
    assert segments[:MAX_SEGMENTS] == names[:MAX_SEGMENTS]
    assert set(segments[MAX_SEGMENTS:]) == {"others"}
    assert len({strength(one) for one in made}) > 1
    bare = rank(engine, request("bob", context="a text"))
    assert bare.regulated is not None and bare.regulated.segment == "others"


def test_a_decision_under_other_strengths_is_not_credited(tmp_path: Path) -> None:
    shop = shop_in(tmp_path)
    engine = opened(shop)
    rank(engine, request("ann", "e1"))
    engine.sync()
    engine.close()
    other = opened(shop, strengths=[0.0, 2.0], baseline=2.0)
    shop.clock.now += HOUR_S
    before = known(other)
    other.sync()
    assert known(other) == before
