"""Propensities as the engine logged them."""

from __future__ import annotations

from pathlib import Path

from tests.worlds import Shop, rank, request
from training.adapt_propensities import all_propensities


def test_propensities_are_those_that_were_logged(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.release()
    engine = shop.engine()
    decisions = [rank(engine, request(event_id=f"e{number}")) for number in range(3)]
    engine.close()
    found = all_propensities(shop.config().store)
    assert found == {
        (decision.event_id, slot.item_id): slot.propensity
        for decision in decisions
        for slot in decision.slots
    }
