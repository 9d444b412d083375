"""The learner follows the ledger: the replica's class in this process, on a real store."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from rove.release import latest
from serving.learner import _Learner
from tests.worlds import Shop, did, observe

REFIT_S = 30.0
PATIENCE_S = 1.0


def learner_tree(shop: Shop, refit_interactions: int | None) -> dict[str, object]:
    tree: dict[str, object] = shop.config().model_dump(mode="json")
    serving = tree["serving"]
    assert isinstance(serving, dict)
    serving.update(refit_interactions=refit_interactions, sync_interval_s=0.05)
    return tree


async def released(shop: Shop, before: str, timeout_s: float) -> bool:
    """Wait for another release in service."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if latest(shop.config().releases.path).id != before:
            return True
        await asyncio.sleep(0.05)
    return False


def test_a_release_follows_enough_interactions_and_shards_follow_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    engine = shop.engine()

    async def run() -> None:
        learner = _Learner(learner_tree(shop, 20))
        before = engine.release_id
        observe(engine, *(did(f"a{n}", item_id=f"item-{n}") for n in range(19)))
        assert not await released(shop, before, PATIENCE_S)
        observe(engine, did("one-more"))
        assert await released(shop, before, REFIT_S)
        await learner.check_health()
        engine.sync()
        assert engine.release_id == latest(shop.config().releases.path).id != before

    asyncio.run(run())


def test_a_learner_that_is_off_leaves_the_release_in_service(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    engine = shop.engine()

    async def run() -> None:
        learner = _Learner(learner_tree(shop, None))
        observe(engine, *(did(f"a{n}", item_id=f"item-{n}") for n in range(30)))
        assert not await released(shop, engine.release_id, PATIENCE_S)
        await learner.check_health()

    asyncio.run(run())
