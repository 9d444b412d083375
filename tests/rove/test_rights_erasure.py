"""What is erased was never there: rows, statistics, rankings; only a receipt is left."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sqlalchemy import select

from rove.config import StoreSection
from rove.engine import Engine
from rove.errors import NotFound
from rove.events import InteractionType
from rove.ledger.schema import item_statistics, trial_sums
from rove.ledger.store import open_store
from rove.release import promote
from rove.shown.view import ShownView
from tests.worlds import (
    DAY_S,
    NUM_ITEMS,
    Clock,
    Shop,
    did,
    observe,
    rank,
    request,
    shares,
)

REWARD = InteractionType.REWARD
END = Clock().now


@pytest.fixture
def shop(tmp_path: Path, store: StoreSection) -> Shop:
    return Shop(tmp_path / "shop", store=store)


def never(shop: Shop, tmp_path: Path) -> Engine:
    """Return an engine over the same release whose ledger is another, empty one."""
    other = Shop(tmp_path / "never", clock=shop.clock, feedback=shop.feedback, preset=shop.preset)
    config = other.config().model_copy(update={"releases": shop.config().releases})
    return Engine.open(config, 0, shop.shards, clock=shop.clock)


def buy(engine: Engine, user_id: str, numbers: range, ago_s: float = 0.0) -> None:
    now_s = END - ago_s
    for number in numbers:
        item_id, name = f"item-{number % NUM_ITEMS}", f"{user_id}-{number}-{ago_s}"
        observe(engine, did(name, user_id, item_id, timestamp=now_s - 60.0 * number))


def ranking(engine: Engine, user_id: str, event_id: str) -> list[tuple[str, float]]:
    slots = rank(engine, request(user_id, event_id, k=20)).slots
    return [(slot.item_id, round(slot.score, 6)) for slot in slots]


def test_purchases_are_taken_out_of_the_item_statistics(shop: Shop, tmp_path: Path) -> None:
    """Also those with a time before the release's: they were counted when they came."""
    engine = shop.engine()
    expected = never(shop, tmp_path)
    for one in (engine, expected):
        buy(one, "bob", range(12))
    buy(engine, "ann", range(3, 20))
    buy(engine, "ann", range(5), ago_s=90 * DAY_S)
    assert shares(engine) != pytest.approx(shares(expected), rel=1e-6)
    engine.erase("ann")
    assert shares(engine) == pytest.approx(shares(expected), rel=1e-9)
    assert ranking(engine, "bob", "e1") == ranking(expected, "bob", "e1")
    engine.erase("ann")
    assert shares(engine) == pytest.approx(shares(expected), rel=1e-9)
    engine.close()
    assert shares(shop.engine()) == pytest.approx(shares(expected), rel=1e-9)


def test_what_the_release_was_learnt_from_is_not_taken_back_from_the_statistics(
    shop: Shop, tmp_path: Path
) -> None:
    engine = shop.engine()
    buy(engine, "bob", range(60))
    buy(engine, "ann", range(40))
    release = engine.refit()
    expected = never(shop, tmp_path)
    assert expected.release_id == release
    assert shares(engine) == pytest.approx(shares(expected), rel=1e-9)
    buy(engine, "ann", range(50, 55))
    receipt = engine.erase("ann")
    assert receipt.release == release and receipt.num_interactions == 45
    assert shares(engine) == pytest.approx(shares(expected), rel=1e-9)


def test_other_shards_follow(tmp_path: Path, store: StoreSection) -> None:
    shop = Shop(tmp_path, shards=2, store=store)
    one, other = shop.engine(0), shop.engine(1)
    buy(one, "bob", range(2))  # the latest: time does not go back
    other.sync()
    before = shares(other)
    buy(one, "ann", range(9))
    other.sync()
    assert shares(other) != pytest.approx(before, rel=1e-6)
    one.erase("ann")
    other.sync()
    assert shares(other) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("answered", [False, True])
def test_default_rewards_are_taken_back_too(
    tmp_path: Path, store: StoreSection, answered: bool
) -> None:
    """`answered`: after the release counted the slot with the default reward."""
    shop = Shop(tmp_path / "shop", store=store, rewards={"default_reward": 0.3})
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1", k=2))
    buy(engine, "bob", range(60))
    shop.clock.now += 8 * DAY_S
    engine.sync()
    if answered:
        engine.refit()
    before = shares(engine)
    if answered:
        item_id = decision.slots[0].item_id
        observe(engine, did("late", "ann", item_id, event_id="e1", timestamp=END))
        assert shares(engine) != pytest.approx(before, rel=1e-6)
    engine.erase("ann")
    if answered:
        assert shares(engine) == pytest.approx(before, rel=1e-9)
    engine.close()
    again, after = shop.engine(), shares(engine)
    assert shares(again) == pytest.approx(after, rel=1e-9)
    own = sum(again._ledger.statistics(again.release_id).total)
    assert own == pytest.approx(0.0, abs=1e-9) if answered else own > 0.0


def sums(engine: Engine) -> dict[str, npt.NDArray[np.float64]]:
    found = engine._ledger.trial_sums(engine.release_id)
    return dict(zip(found.item_ids, found.sums_nV, strict=True))


def played(engine: Engine, user_id: str, num: int, first: int = 0) -> None:
    """Decisions of three items, of which one is answered."""
    for number in range(first, first + num):
        items = [f"item-{(number * 7 + n) % NUM_ITEMS}" for n in range(3)]
        wanted = request(user_id, f"{user_id}-{number}", item_ids=items, context={"n": number % 5})
        slot = rank(engine, wanted).slots[number % 3]
        observe(
            engine,
            did(
                f"a-{user_id}-{number}",
                user_id,
                slot.item_id,
                REWARD,
                value=float(number % 2),
                event_id=f"{user_id}-{number}",
                slot=slot.slot,
            ),
        )


def effects(engine: Engine) -> npt.NDArray[np.float64]:
    assert isinstance(engine.view, ShownView)
    engine.view.items.refresh()
    return engine.view.items.mean_JP.astype(np.float64)


def taught(tmp_path: Path, store: StoreSection) -> tuple[Shop, Engine]:
    """Return a shop whose release was learnt from decisions of several users, ann's too."""
    shop = Shop(tmp_path / "shop", feedback="shown", preset="news", store=store)
    engine = shop.engine()
    for user in ("ann", "bob", "cyd", "dan"):
        played(engine, user, 40)
    shop.clock.now += DAY_S
    engine.sync()
    engine.refit()
    return shop, engine


def test_trials_are_taken_out_of_the_sums_as_they_were_added(
    tmp_path: Path, store: StoreSection
) -> None:
    shop, engine = taught(tmp_path, store)
    expected = never(shop, tmp_path)
    for one in (engine, expected):
        for user in ("bob", "cyd"):
            played(one, user, 12, first=100)
        shop.clock.now += DAY_S
        one.sync()
    # A posterior is built of what the release learnt from too, which the other never had.
    before, learnt = sums(engine), effects(engine)
    played(engine, "ann", 25, first=200)
    shop.clock.now += DAY_S
    engine.sync()
    assert effects(engine) != pytest.approx(learnt, rel=1e-6)
    receipt = engine.erase("ann")
    assert (receipt.num_decisions, receipt.num_interactions, receipt.num_trials) == (65, 65, 75)
    after = sums(engine)
    assert set(before) <= set(after)
    for item_id, sums_V in after.items():
        assert sums_V == pytest.approx(before.get(item_id, 0.0 * sums_V), abs=1e-9)
    assert effects(engine) == pytest.approx(learnt, abs=1e-6)  # float32
    again = engine.erase("ann")
    assert (again.num_decisions, again.num_trials) == (0, 0)
    assert {i: s.tolist() for i, s in sums(engine).items()} == {
        i: s.tolist() for i, s in after.items()
    }


def test_others_are_ranked_as_if_the_person_had_never_been_there(
    tmp_path: Path, store: StoreSection
) -> None:
    """Trials that came before the person's: those that came after were read as seen then."""
    shop = Shop(tmp_path / "shop", feedback="shown", preset="news", store=store)
    engine = shop.engine()
    expected = never(shop, tmp_path)
    for one in (engine, expected):
        for user in ("bob", "cyd"):
            played(one, user, 30)
    played(engine, "ann", 30)
    changed = ranking(engine, "bob", "e1")
    engine.erase("ann")
    assert sums(engine).keys() >= sums(expected).keys()
    for item_id, sums_V in sums(expected).items():
        assert sums(engine)[item_id] == pytest.approx(sums_V, abs=1e-9)
    expected.view.users.clear()
    assert ranking(engine, "bob", "e2") == ranking(expected, "bob", "e2")
    assert [slot for slot, _ in changed] != [slot for slot, _ in ranking(engine, "bob", "e3")]


def test_a_corrected_reward_is_taken_out_with_its_correction(
    tmp_path: Path, store: StoreSection
) -> None:
    shop = Shop(tmp_path, feedback="shown", preset="news", store=store)
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1", k=1))
    item_id = decision.slots[0].item_id
    for number, value in enumerate((0.2, 0.9)):
        observe(engine, did(f"a{number}", "ann", item_id, REWARD, value=value, event_id="e1"))
    receipt = engine.erase("ann")
    assert receipt.num_trials == 2
    assert sums(engine)[item_id] == pytest.approx(0.0, abs=1e-12)


def test_sums_of_releases_that_are_not_in_service_keep_nothing(
    tmp_path: Path, store: StoreSection
) -> None:
    for feedback, preset in (("implicit", "shop"), ("shown", "news")):
        section = store.model_copy(update={"schema_prefix": f"{store.schema_prefix}{feedback}"})
        if store.is_local:
            section = store.model_copy(update={"url": f"{store.url}-{feedback}"})
        shop = Shop(tmp_path / feedback, feedback=feedback, preset=preset, store=section)
        engine = shop.engine()
        old = engine.release_id
        played(engine, "ann", 3)
        shop.release()
        engine.sync()
        engine.erase("ann")
        with closing(open_store(section)) as opened:
            with opened.open("shard-0", "read").reading() as connection:
                totals = connection.execute(select(item_statistics.c.total)).scalars().all()
                blobs = connection.execute(select(trial_sums.c.sums)).scalars().all()
        assert not np.any(np.abs(totals) > 1e-12)
        assert all(not np.any(np.abs(np.frombuffer(blob, "<f8")) > 1e-12) for blob in blobs)
        assert len(totals) + len(blobs) > 0
        promote(shop.config().releases.path, old)
        engine.sync()
        assert engine.release_id == old


def test_a_receipt_says_what_was_removed_and_what_remains(shop: Shop) -> None:
    engine = shop.engine()
    rank(engine, request("ann", "e1"))
    observe(engine, did("i1"), did("i2", item_id="item-9"))
    receipt = engine.erase("ann")
    assert receipt.erasure_id and receipt.user_id == "ann"
    assert (receipt.num_decisions, receipt.num_interactions, receipt.num_trials) == (1, 2, 0)
    assert (receipt.erased_at, receipt.release) == (shop.clock.now, engine.release_id)
    assert engine.release_id in receipt.remains and "ann" not in receipt.remains
    engine.close()
    again = shop.engine()
    assert again.erasure(receipt.erasure_id, "ann") == receipt
    assert again.erasure(receipt.erasure_id).user_id is None
    with pytest.raises(NotFound, match=re.escape("is not of this user; check user_id")):
        again.erasure(receipt.erasure_id, "bob")
    with pytest.raises(NotFound, match=re.escape("there is no erasure 'e1'")):
        again.erasure("e1")


def test_a_receipt_is_kept_without_whose_it_is(tmp_path: Path, sqlite_store: StoreSection) -> None:
    engine = Shop(tmp_path, store=sqlite_store).engine()
    observe(engine, did("i1", "SECRETIVE"))
    receipt = engine.erase("SECRETIVE")
    engine.close()
    folder = Path(sqlite_store.url.removeprefix("sqlite:///"))
    content = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    assert b"SECRETIVE" not in content and receipt.erasure_id.encode() not in content
