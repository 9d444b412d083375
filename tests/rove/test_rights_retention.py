"""What is too old is deleted a part at a time; what was counted stays, and refits go on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rove.config import StoreSection
from rove.errors import ConfigError, NotFound
from rove.events import Interaction
from tests.worlds import DAY_S, NUM_ITEMS, Shop, did, observe, rank, request, shares, taste


@pytest.fixture
def shop(tmp_path: Path, store: StoreSection) -> Shop:
    return Shop(tmp_path, store=store, privacy={"retention_days": 30})


def bought(shop: Shop, user_id: str, num: int) -> list[Interaction]:
    now_s = shop.clock.now
    return [
        did(f"{user_id}-{n}", user_id, f"item-{n % NUM_ITEMS}", timestamp=now_s - n)
        for n in range(num)
    ]


def test_old_rows_go_and_what_was_counted_stays(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, *bought(shop, "ann", 40))
    rank(engine, request("ann", "e1"))
    nothing = taste(engine, "ann")
    shop.clock.now += 20 * DAY_S
    observe(engine, *bought(shop, "bob", 5))
    engine.sync()
    assert engine.user("ann").num_interactions == 40
    before = shares(engine)
    shop.clock.now += 11 * DAY_S
    engine.sync()
    for gone in (lambda: engine.user("ann"), lambda: engine.decision("e1")):
        with pytest.raises(NotFound, match=re.escape("'ann'") + "|" + re.escape("'e1'")):
            gone()
    assert engine.user("bob").num_interactions == 5
    assert shares(engine) == pytest.approx(before, rel=1e-9)
    observe(engine, *[did("new", "ann", timestamp=shop.clock.now)])
    assert engine.user("ann").num_interactions == 1
    assert taste(engine, "ann") != pytest.approx(nothing)


def test_a_long_ledger_is_gone_through_in_parts(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, *bought(shop, "ann", 6000))
    shop.clock.now += 31 * DAY_S
    engine.sync()
    assert engine.user("ann").num_interactions == 1000
    engine.sync()
    with pytest.raises(NotFound, match=re.escape("nothing is stored of user 'ann'")):
        engine.user("ann")


def test_a_refit_learns_from_what_is_left(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, *bought(shop, "ann", 300))
    engine.refit()
    shop.clock.now += 31 * DAY_S
    observe(engine, *bought(shop, "bob", 60))
    engine.sync()
    release = engine.release_id
    assert engine.refit() != release
    assert engine.view.release.metrics["num_interactions"] == 60


def test_trials_of_old_decisions_go_with_them(tmp_path: Path, store: StoreSection) -> None:
    privacy = {"retention_days": 30}
    shop = Shop(tmp_path, store=store, feedback="shown", preset="news", privacy=privacy)
    engine = shop.engine()
    rank(engine, request("ann", "e1"))
    shop.clock.now += DAY_S
    engine.sync()
    shop.clock.now += 30 * DAY_S
    engine.sync()
    with pytest.raises(NotFound, match=re.escape("there is no decision 'e1'")):
        engine.decision("e1")
    assert engine.erase("ann").num_trials == 0


def test_what_still_waits_for_its_reward_has_to_be_kept(shop: Shop) -> None:
    shop.privacy = {"retention_days": 0.1}
    with pytest.raises(ConfigError, match=re.escape("privacy.retention_days is 0.1, and a")):
        shop.engine()
