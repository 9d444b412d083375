"""What an engine knows follows from the store: reopening, other shards, the catalogue, refits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from rove.behaviour import Behaviour
from rove.config import StoreSection, TrainingSection
from rove.engine import Engine
from rove.errors import Conflict
from rove.events import Interaction, InteractionType
from rove.learning import learn
from rove.release import latest
from rove.sharding import shard_of
from tests.worlds import (
    DAY_S,
    ENCODER,
    NUM_ITEMS,
    START_S,
    TRAINING,
    Clock,
    Shop,
    did,
    embeddings,
    item,
    observe,
    rank,
    request,
    shares,
    taste,
    unit_vectors,
    view_of,
)

HIDE = InteractionType.HIDE
USERS = [f"u{number}" for number in range(12)]
NEW = unit_vectors(2, np.random.default_rng(8))


@pytest.fixture
def shop(tmp_path: Path, store: StoreSection) -> Shop:
    return Shop(tmp_path, store=store)


def events(num: int = 90) -> list[Interaction]:
    """Purchases and hides of twelve users over the days after the release."""
    rng = np.random.default_rng(7)
    return [
        did(
            f"i{number}",
            USERS[int(rng.integers(len(USERS)))],
            f"item-{rng.integers(NUM_ITEMS)}",
            HIDE if rng.random() < 0.3 else InteractionType.PURCHASE,
            float(Clock().now - rng.uniform(0, 5 * DAY_S)),
        )
        for number in range(num)
    ]


def tastes(engine: Engine, user_ids: list[str]) -> npt.NDArray[np.float64]:
    return np.array([taste(engine, user_id) for user_id in user_ids])


def known(user_ids: list[str], happened: list[Interaction]) -> list[str]:
    active = {event.user_id for event in happened}
    return [user_id for user_id in user_ids if user_id in active]


def test_reopening_rebuilds_the_same_posterior(shop: Shop) -> None:
    engine, happened = shop.engine(), events()
    for event in happened:
        observe(engine, event)
    users = known(USERS, happened)
    before, means = tastes(engine, users), shares(engine)
    engine.close()
    again = shop.engine()
    assert tastes(again, users) == pytest.approx(before, abs=1e-9)
    assert shares(again) == pytest.approx(means, abs=1e-9)


def test_reopening_after_a_hide_that_came_last_keeps_the_time(shop: Shop) -> None:
    """A hide is not what time is told by, so that the statistics alone can tell it again."""
    engine = shop.engine()
    observe(engine, did("i1", "bob", timestamp=shop.clock.now))
    shop.clock.now += 50 * DAY_S
    observe(engine, did("i2", kind=HIDE))
    before, now_s = taste(engine, "bob"), view_of(engine).now_s
    engine.close()
    again = shop.engine()
    assert again.view.now_s == now_s
    assert taste(again, "bob") == pytest.approx(before, abs=1e-9)


def test_forgetting_a_view_changes_nothing(shop: Shop) -> None:
    engine, happened = shop.engine(), events()
    observe(engine, *happened)
    users = known(USERS, happened)
    before = tastes(engine, users)
    view_of(engine).users.clear()
    assert tastes(engine, users) == pytest.approx(before, abs=1e-9)


def test_events_may_come_in_any_order_and_grouping(tmp_path: Path) -> None:
    happened = events(60)
    one, other = Shop(tmp_path / "one").engine(), Shop(tmp_path / "other").engine()
    observe(one, *happened)
    for part in parts(happened[::-1], 7):
        observe(other, *part)
    users = known(USERS, happened)
    assert tastes(other, users) == pytest.approx(tastes(one, users), abs=1e-9)
    assert shares(other) == pytest.approx(shares(one), abs=1e-9)


def parts(happened: list[Interaction], size: int) -> list[list[Interaction]]:
    return [happened[start : start + size] for start in range(0, len(happened), size)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_shards_together_know_what_one_engine_would(tmp_path: Path, seed: int) -> None:
    """Events in random order, syncs of either shard at random in between, and again at the end."""
    rng, happened = np.random.default_rng(seed), events()
    single = Shop(tmp_path / "single").engine()
    observe(single, *happened)
    shop = Shop(tmp_path / "two", shards=2)
    shards = [shop.engine(shard) for shard in range(2)]
    for number in rng.permutation(len(happened)).tolist():
        event = happened[number]
        observe(shards[shard_of(event.user_id, 2)], event)
        if rng.random() < 0.2:
            shards[int(rng.integers(2))].sync()
    for shard in (0, 1, 1, 0):
        shards[shard].sync()
    for engine in shards:
        assert shares(engine) == pytest.approx(shares(single), rel=1e-9)
        assert view_of(engine).now_s == single.view.now_s
    users = known(USERS, happened)
    for user_id in users:
        engine = shards[shard_of(user_id, 2)]
        assert taste(engine, user_id) == pytest.approx(taste(single, user_id), abs=1e-9)


def test_a_shard_that_opens_later_knows_what_the_others_counted(
    tmp_path: Path, store: StoreSection
) -> None:
    shop = Shop(tmp_path, shards=2, store=store)
    first = shop.engine(0)
    user_id = next(user_id for user_id in USERS if shard_of(user_id, 2) == 0)
    observe(first, did("i1", user_id), did("i2", user_id, "item-9"))
    second = shop.engine(1)
    assert shares(second) == pytest.approx(shares(first), rel=1e-9)


def test_a_new_item_is_rankable_after_sync_with_a_score_from_its_text(shop: Shop) -> None:
    """A twin of the most bought item promises more than one of the least bought."""
    engine = shop.engine()
    best, worst = int(shares(engine).argmax()), int(shares(engine).argmin())
    observe(engine, *(did(f"i{n}", item_id=f"item-{best}") for n in range(3)))
    twins = [item(100), item(101)]
    shop.catalogue().put(twins, embeddings()[[best, worst]], ENCODER)
    assert engine.num_items == NUM_ITEMS
    engine.sync()
    assert engine.num_items == NUM_ITEMS + 2 and engine.item("item-100") == twins[0]
    decision = rank(engine, request(k=2, item_ids=["item-100", "item-101"]))
    score = {slot.item_id: slot.score for slot in decision.slots}
    assert score["item-100"] > score["item-101"]
    assert observe(engine, did("new", item_id="item-100")) == ["accepted"]


def test_a_new_item_s_rewards_survive_reopening(shop: Shop) -> None:
    engine = shop.engine()
    shop.catalogue().put([item(100)], NEW[:1], ENCODER)
    engine.sync()
    observe(engine, *(did(f"i{n}", f"u{n}", "item-100") for n in range(5)))
    before, own = shares(engine, 101), taste(engine, "u1")
    engine.close()
    again = shop.engine()
    assert len(before) == NUM_ITEMS + 1
    assert shares(again, 101) == pytest.approx(before, abs=1e-9)
    assert taste(again, "u1") == pytest.approx(own, abs=1e-9)


def test_a_changed_item_keeps_what_was_learnt(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, *(did(f"i{n}", f"u{n}") for n in range(9)))
    before = view_of(engine).means.sums_J[7]
    for number in range(2):
        shop.catalogue().put([item(7, title=f"Changed {number}")], NEW[number][None], ENCODER)
        engine.sync()
        row = view_of(engine).index.row("item-7")
        assert row == NUM_ITEMS + number
        assert view_of(engine).means.sums_J[row] == pytest.approx(before)
        assert engine.item("item-7").title == f"Changed {number}"
    assert [one.item_id for one in engine.user("u1").items] == ["item-7"]


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_deletion_leaves_all_shards_of_one_mind(tmp_path: Path, comes_back: bool) -> None:
    """The one that was there, one that opens while the item is gone, and one that opens after."""
    shop = Shop(tmp_path, shards=3)
    store, there = shop.catalogue(), shop.engine(0)
    user_id = next(user_id for user_id in USERS if shard_of(user_id, 3) == 0)
    store.put([item(100)], NEW[:1], ENCODER)
    there.sync()
    observe(there, *(did(f"a{n}", user_id) for n in range(9)))
    observe(there, *(did(f"b{n}", user_id, "item-100") for n in range(9)))
    store.delete(["item-7", "item-100"])
    there.sync()
    opened = shop.engine(1)
    if comes_back:
        store.put([item(7), item(100)], np.vstack([embeddings()[7], NEW[0]]), ENCODER)
        there.sync()
        opened.sync()
    after = shop.engine(2)
    assert there.num_items == opened.num_items == NUM_ITEMS + (1 if comes_back else -1)
    for engine in (opened, after):
        assert shares(engine, 101) == pytest.approx(shares(there, 101), rel=1e-9)
    observe(there, did("last", user_id, "item-3"))
    opened.sync()
    assert shares(opened, 101) == pytest.approx(shares(there, 101), rel=1e-9)


def test_users_forget_deleted_items_and_remember_them_when_they_come_back(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, did("i1"), did("i2", item_id="item-9"))
    before = taste(engine)
    shop.catalogue().delete(["item-7"])
    engine.sync()
    assert [one.item_id for one in engine.user("ann").items] == ["item-9"]
    shop.catalogue().put([item(7)], embeddings()[7:8], ENCODER)
    engine.sync()
    assert taste(engine) == pytest.approx(before, abs=1e-5)


def test_a_promoted_release_comes_into_service_with_the_next_sync(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, did("i1"))
    before, old = taste(engine), engine.release_id
    new = shop.release()
    assert engine.release_id == old
    engine.sync()
    assert engine.release_id == new != old
    assert taste(engine) == pytest.approx(before, abs=1e-9)
    assert rank(engine, request()).release == new


def test_a_refit_comes_into_service_and_keeps_the_statistics(
    tmp_path: Path, store: StoreSection
) -> None:
    """Both shards' events are in the new release; what comes after is counted on top, once."""
    shop, happened = Shop(tmp_path, shards=2, store=store), events()
    shards = [shop.engine(shard) for shard in range(2)]
    for event in happened[:60]:
        observe(shards[shard_of(event.user_id, 2)], event)
    old, gain = shards[0].release_id, shards[0].view.release.model.taste_gain
    new = shards[0].refit()
    assert shards[0].release_id == new != old
    for event in happened[60:]:
        observe(shards[shard_of(event.user_id, 2)], event)
    for engine in (*shards, shards[0]):
        engine.sync()
    assert shards[1].release_id == new
    assert shards[0].view.release.model.taste_gain == gain
    bought = [event for event in happened if event.type != HIDE]
    half_life_s = shards[0].view.release.model.item_half_life_s
    expected = sum(2 ** (((e.timestamp or 0.0) - START_S) / half_life_s) for e in bought)
    for engine in shards:
        means = view_of(engine).means
        total = means.sums_J.sum() / means.scale_at(START_S)
        assert total == pytest.approx(expected, rel=1e-9)
    assert shares(shards[1]) == pytest.approx(shares(shards[0]), rel=1e-9)


def test_a_shard_without_events_counts_all_of_its_own_after_a_refit(
    tmp_path: Path, store: StoreSection
) -> None:
    """It follows late, and its first event is older than the last that the refit learnt from."""
    shop = Shop(tmp_path, shards=2, store=store)
    shards = [shop.engine(shard) for shard in range(2)]
    first, second = (next(u for u in USERS if shard_of(u, 2) == shard) for shard in range(2))
    observe(shards[0], *(did(f"i{n}", first, f"item-{n}") for n in range(5)))
    shards[0].refit()
    observe(shards[1], did("old", second, timestamp=shop.clock.now - 1000.0))
    for engine in (shards[1], shards[0]):
        engine.sync()
    for engine in shards:
        means = view_of(engine).means
        total = means.sums_J.sum() / means.scale_at(shop.clock.now)
        assert total == pytest.approx(6.0, rel=1e-4)


def test_a_refit_takes_the_catalogue_as_it_is_now(shop: Shop) -> None:
    engine = shop.engine()
    observe(engine, *events(40))
    shop.catalogue().put([item(100)], NEW[:1], ENCODER)
    shop.catalogue().delete(["item-3"])
    engine.sync()
    observe(engine, did("new", item_id="item-100"))
    engine.refit()
    assert engine.num_items == NUM_ITEMS and engine.item("item-100") == item(100)
    trained = view_of(engine).release.items.trained_J
    assert trained[view_of(engine).index.ids.index("item-100")]
    assert view_of(engine).index.row("item-3") is None
    assert rank(engine, request()).release == engine.release_id


def test_a_refit_refuses_a_ledger_without_the_history_of_the_release(tmp_path: Path) -> None:
    """The release says 100 interactions, the ledger has 49: less than half of them."""
    shop = Shop(tmp_path)
    engine = shop.engine()
    observe(engine, *(did(f"i{n}", item_id=f"item-{n}") for n in range(49)))
    described = view_of(engine).release.folder / "release.yaml"
    tree = yaml.safe_load(described.read_text("utf-8"))
    tree["metrics"]["num_interactions"] = 100
    described.write_text(yaml.safe_dump(tree), "utf-8")
    in_service = engine.release_id
    with pytest.raises(Conflict, match=re.escape("rove load CONFIG first")):
        engine.refit()
    assert engine.release_id == in_service == latest(shop.config().releases.path).id


def test_a_release_without_enough_visits_is_calibrated_at_the_refit(tmp_path: Path) -> None:
    """One that was learnt from texts alone has gains of 1; many visits later it has its own."""
    shop = Shop(tmp_path)
    nothing = Behaviour.from_batches([], {})
    shop.release(learn(nothing, embeddings(), TrainingSection.model_validate(TRAINING)))
    engine = shop.engine()
    assert view_of(engine).release.model.item_gain == 1.0
    rng = np.random.default_rng(0)
    rows = [
        did(f"i{n}", f"u{n % 30}", f"item-{rng.integers(20)}", timestamp=START_S + 3600.0 * n)
        for n in range(400)
    ]
    observe(engine, *rows)
    engine.refit()
    assert view_of(engine).release.metrics["calibration_visits"] >= 20
    gain = view_of(engine).release.model.item_gain
    assert gain != 1.0
    engine.refit()
    assert view_of(engine).release.model.item_gain == gain
