"""Changing the release and back: nothing that happened meanwhile is lost or counted twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rove.engine import Engine
from rove.errors import Conflict, NotFound, StoreUnavailable
from rove.events import InteractionType
from rove.release import current, described, promote
from rove.release_pointer import roll_back
from tests.worlds import Shop, did, observe, rank, request, shares, taste, view_of

CLICK = InteractionType.CLICK


def events(engine: Engine, first: int, num: int) -> None:
    observe(engine, *(did(f"i{n}", "ann", f"item-{n % 7}") for n in range(first, first + num)))


@pytest.mark.parametrize("restarted", [False, True])
def test_what_another_release_saw_counts_when_the_old_one_is_back(
    tmp_path: Path, restarted: bool
) -> None:
    """As if the old one had served all the time; the shard may be away while it comes back."""
    shop, always = Shop(tmp_path / "shop"), Shop(tmp_path / "always")
    engine, expected = shop.engine(), always.engine()
    old = engine.release_id
    events(engine, 0, 10)
    new, releases = shop.release(), shop.config().releases.path
    engine.sync()
    assert engine.release_id == new
    events(engine, 10, 10)
    if restarted:
        engine.close()
    assert roll_back(releases, new) == old
    engine = shop.engine() if restarted else engine
    engine.sync()
    assert engine.release_id == old
    events(engine, 20, 10)
    events(expected, 0, 30)
    for again in (engine, engine):
        assert shares(again) == pytest.approx(shares(expected), rel=1e-9)
        assert taste(again) == pytest.approx(taste(expected), abs=1e-9)
        view_of(again).users.clear()
    engine.close()
    assert shares(shop.engine()) == pytest.approx(shares(expected), rel=1e-9)


def test_what_was_erased_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    shop, never = Shop(tmp_path / "shop"), Shop(tmp_path / "never")
    engine = shop.engine()
    old = engine.release_id
    observe(engine, did("i1", "bob", "item-9"))
    shop.release()
    engine.sync()
    engine.erase("bob")
    promote(shop.config().releases.path, old)
    engine.sync()
    assert shares(engine) == pytest.approx(shares(never.engine()), rel=1e-9)


def test_trials_that_another_release_saw_count_when_the_old_one_is_back(tmp_path: Path) -> None:
    shop = Shop(tmp_path, feedback="shown", preset="news")
    engine = shop.engine()
    old = engine.release_id
    decisions = [rank(engine, request("ann", f"e{n}", k=2)) for n in range(3)]

    def answer(n: int) -> None:
        slot = decisions[n].slots[0]
        observe(engine, did(f"a{n}", "ann", slot.item_id, CLICK, event_id=f"e{n}"))

    def num_trials() -> float:
        items = engine.view.items  # type: ignore[union-attr]
        return sum(1.0 for sums_V in items._sums[None].values() if sums_V.any())

    answer(0)
    assert num_trials() == 1.0
    new = shop.release()
    engine.sync()
    answer(1)
    assert roll_back(shop.config().releases.path, new) == old
    engine.sync()
    assert num_trials() == 2.0
    shop.clock.now = decisions[0].expires_at
    engine.sync()
    shown = {slot.item_id for decision in decisions for slot in decision.slots}
    assert num_trials() == len(shown)


def test_a_reward_for_a_decision_of_an_old_release_counts_in_the_new_one(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1", k=1))
    new = shop.release()
    engine.sync()
    before = shares(engine)
    item_id = decision.slots[0].item_id
    assert observe(engine, did("i1", "ann", item_id, event_id="e1")) == ["accepted"]
    row = view_of(engine).index.row(item_id)
    assert row is not None and shares(engine)[row] > before[row]
    assert engine.decision("e1").decision.release != engine.release_id == new
    assert engine.decision("e1").outcome == "rewarded"


def test_roll_backs_go_back_one_release_after_the_other(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    releases = shop.config().releases.path
    first, second, third = shop.release(), shop.release(), shop.release()
    promote(releases, third)  # already there: nothing to go back to
    assert roll_back(releases, third) == second == current(releases).name
    assert roll_back(releases, second) == first == current(releases).name
    with pytest.raises(Conflict, match=re.escape("no release that was in service before")):
        roll_back(releases, first)
    promote(releases, third)
    assert roll_back(releases, third) == first
    assert [one["id"] for one in described(releases)] == [third, second, first]


def test_only_what_is_in_service_can_be_rolled_back(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    first, second = shop.release(), shop.release()
    with pytest.raises(Conflict, match=re.escape(f"'{first}' is not in service, '{second}' is")):
        roll_back(shop.config().releases.path, first)


def test_a_release_that_is_gone_is_not_gone_back_to(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    releases = shop.config().releases.path
    first, second, third = shop.release(), shop.release(), shop.release()
    (releases / second / "release.yaml").unlink()
    assert roll_back(releases, third) == first


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../releases", "/etc", "a\x00b", "current", "x" * 300]
)
def test_no_path_can_be_put_into_service(tmp_path: Path, name: str) -> None:
    shop = Shop(tmp_path)
    first = shop.release()
    for change in (promote, roll_back):
        with pytest.raises(NotFound, match=re.escape("there is no release ")):
            change(shop.config().releases.path, name)
    assert current(shop.config().releases.path).name == first


def test_a_folder_that_is_away_is_the_store_s_fault(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    first = shop.release()
    releases = shop.config().releases.path
    (releases / "current").unlink()
    (releases / "current").mkdir()
    with pytest.raises(StoreUnavailable, match=re.escape("cannot promote a release: ")):
        roll_back(releases, first)
