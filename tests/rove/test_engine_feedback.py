"""Rewards that come late, in parts, twice or never: what is learnt, once, also after a kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from msgspec import structs

from rove.config import Config
from rove.engine import Engine
from rove.errors import Conflict
from rove.events import Decision, Interaction, InteractionType
from rove.shown.view import ShownView
from tests.worlds import DAY_S, END_S, NUM_ITEMS, Shop, did, observe, rank, request, view_of

REWARD = InteractionType.REWARD
Array = npt.NDArray[np.float64]


def opened(shop: Shop, **rewards: object) -> Engine:
    """Open an engine with other rewards than the preset's."""
    if not (shop.folder / "releases" / "current").exists():
        shop.release()
    tree = shop.config().model_dump(mode="json")
    tree["rewards"] |= rewards
    return Engine.open(Config.parse(tree), 0, shop.shards, clock=shop.clock)


def answer(decision: Decision, value: float, name: str = "a", slot: int = 0) -> Interaction:
    return did(
        f"{name}-{decision.event_id}",
        decision.user_id,
        decision.slots[slot].item_id,
        REWARD,
        value=value,
        event_id=decision.event_id,
    )


def sums(engine: Engine) -> Array:
    """Return the items' sums of rewards as of one time, (NUM_ITEMS,)."""
    means = view_of(engine).means
    return means.sums_J[:NUM_ITEMS] / means.scale_at(END_S)


def state(engine: Engine) -> Array:
    """Return what is learnt: the items', and of implicit feedback ann's too.

    A user's effects in the other mode are expanded where the items are when they are built.
    """
    if isinstance(engine.view, ShownView):
        items = engine.view.items
        items.refresh()
        return np.concatenate([items.mean_JP.ravel(), items.covariance_JPP.ravel()])
    user = engine.view.users.get("ann")
    trials = [(trial.row, trial.reward, trial.timestamp) for trial in user.trials]
    return np.concatenate([sums(engine), user.pull_D, np.array(sorted(trials)).ravel()])


@pytest.mark.parametrize("default", [-0.5, 0.4])
def test_a_default_reward_is_learnt_when_the_decision_expires(
    tmp_path: Path, default: float
) -> None:
    """As if ann had said it of each unanswered slot at that time; nobody has to ask."""
    shop, other = Shop(tmp_path / "one"), Shop(tmp_path / "other")
    engine, told = opened(shop, default_reward=default), opened(other)
    decision = rank(engine, request("ann", "e1", k=3))
    observe(engine, answer(decision, 1.0, slot=1))
    engine.sync()
    before = state(engine)
    shop.clock.now = other.clock.now = decision.expires_at
    engine.sync()
    assert not np.array_equal(state(engine)[: len(before)], before)
    observe(
        told, did("given", "ann", decision.slots[1].item_id, REWARD, decision.created_at, value=1.0)
    )
    for slot in (0, 2):
        observe(told, did(f"d{slot}", "ann", decision.slots[slot].item_id, REWARD, value=default))
    assert state(engine) == pytest.approx(state(told), rel=1e-9)
    engine.sync()
    assert state(engine) == pytest.approx(state(told), rel=1e-9)  # once


@pytest.mark.parametrize("feedback", ["implicit", "shown"])
@pytest.mark.parametrize("default", [-0.5, 0.4])
def test_what_is_settled_is_the_same_after_a_kill(
    tmp_path: Path, feedback: str, default: float
) -> None:
    """The process ends by SIGKILL between its commit and anything else."""
    shop = Shop(tmp_path, feedback=feedback)
    engine = opened(shop, default_reward=default)
    decision = rank(engine, request("ann", "e1", k=3))
    rank(engine, request("ann", "e2", k=2))
    observe(engine, answer(decision, 1.0))
    engine.close()
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), feedback, str(default)],
        timeout=120.0,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert child.returncode == -signal.SIGKILL
    shop.clock.now += 2 * DAY_S
    engine = opened(shop, default_reward=default)
    served = state(engine)
    engine.sync()
    engine.view.users.clear()
    assert state(engine) == pytest.approx(served, rel=1e-5)
    never_killed = Shop(tmp_path / "other", feedback=feedback)
    engine = opened(never_killed, default_reward=default)
    for event_id, k in (("e1", 3), ("e2", 2)):
        rank(engine, request("ann", event_id, k=k))
    observe(engine, answer(decision, 1.0))
    engine.close()
    never_killed.clock.now += 2 * DAY_S
    engine = opened(never_killed, default_reward=default)
    engine.sync()
    assert state(engine) == pytest.approx(served, rel=1e-5, abs=1e-6)


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.rove.test_engine_feedback import opened
from tests.worlds import DAY_S, Shop
shop = Shop(Path(sys.argv[1]), feedback=sys.argv[2])
shop.clock.now += 2 * DAY_S
engine = opened(shop, default_reward=float(sys.argv[3]))
engine.sync()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("feedback", ["implicit", "shown"])
@pytest.mark.parametrize("default", [-0.5, 0.4])
def test_a_late_answer_takes_the_place_of_the_default(
    tmp_path: Path, feedback: str, default: float
) -> None:
    """What is left is what there would be, had it come in time."""
    states = []
    for is_late in (False, True):
        shop = Shop(tmp_path / str(is_late), feedback=feedback)
        engine = opened(shop, default_reward=default)
        decision = rank(engine, request("ann", "e1", k=1))
        if is_late:
            shop.clock.now = decision.expires_at
            engine.sync()
        # Of the time it is about: what is implicit is forgotten by event time.
        given = structs.replace(answer(decision, 0.9), timestamp=decision.created_at)
        assert observe(engine, given) == ["accepted"]
        shop.clock.now = decision.expires_at
        engine.sync()
        served = state(engine)
        engine.view.users.clear()
        assert state(engine) == pytest.approx(served, rel=1e-9)
        engine.close()
        assert state(opened(shop, default_reward=default)) == pytest.approx(served, rel=1e-9)
        states.append(served)
    assert states[1] == pytest.approx(states[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("aggregation", ["sum", "max", "last", "earliest"])
@pytest.mark.parametrize("feedback", ["implicit", "shown"])
def test_partial_repeated_and_late_signals_aggregate_the_same_after_a_restart(
    tmp_path: Path, feedback: str, aggregation: str
) -> None:
    shop = Shop(tmp_path, feedback=feedback)
    engine = opened(shop, aggregation=aggregation)
    decision = rank(engine, request("ann", "e1", k=2))
    for number, value in enumerate((0.2, 0.7, 0.4)):
        shop.clock.now += 10.0
        part = answer(decision, value, f"part{number}")
        assert observe(engine, part, part) == ["accepted", "duplicate"]
    shop.clock.now = decision.expires_at + 1.0
    engine.sync()
    assert observe(engine, answer(decision, 0.1, "late")) == ["late"]
    expected = {"sum": 1.4, "max": 0.7, "last": 0.1, "earliest": 0.2}[aggregation]
    for again in range(2):
        record = engine.decision("e1")
        assert record.outcome == "rewarded" and record.default_reward == 0.0
        assert record.rewards == {0: pytest.approx(expected)}
        served = state(engine)
        engine.close()
        engine = opened(shop, aggregation=aggregation)
        assert state(engine) == pytest.approx(served, rel=1e-5, abs=1e-6), again


@pytest.mark.parametrize("feedback", ["implicit", "shown"])
def test_a_decision_that_is_never_activated_counts_for_nothing(
    tmp_path: Path, feedback: str
) -> None:
    shop = Shop(tmp_path, feedback=feedback)
    engine = opened(shop, default_reward=-0.5)
    before = state(engine)
    decision = rank(engine, request("ann", "e1", k=2, defer_activation=True))
    assert engine.decision("e1").outcome == "pending"
    shop.clock.now = decision.expires_at
    engine.sync()
    record = engine.decision("e1")
    assert record.outcome == "expired" and record.default_reward is None
    with pytest.raises(Conflict, match=re.escape("'e1' expired before it was activated")):
        engine.activate("e1")
    assert state(engine) == pytest.approx(before)
    engine.close()
    assert state(opened(shop, default_reward=-0.5)) == pytest.approx(before)


def test_what_answers_a_decision_before_its_activation_is_learnt_with_it(tmp_path: Path) -> None:
    """Where trials are learnt from, an answer waits for it."""
    shop, other = (
        Shop(tmp_path / "one", feedback="shown"),
        Shop(tmp_path / "other", feedback="shown"),
    )
    engine, active = opened(shop), opened(other)
    before = state(engine)
    decision = rank(engine, request("ann", "e1", k=2, defer_activation=True))
    rank(active, request("ann", "e1", k=2))
    observe(engine, answer(decision, 0.8))
    assert state(engine) == pytest.approx(before)
    engine.activate("e1")
    observe(active, answer(decision, 0.8))
    assert state(engine) == pytest.approx(state(active))
    assert engine.activate("e1").activated_at == shop.clock.now
    engine.close()
    assert state(opened(shop)) == pytest.approx(state(active), rel=1e-5, abs=1e-6)


def test_a_record_tells_what_came_of_the_decision(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    engine = opened(shop, default_reward=0.25)
    decision = rank(engine, request("ann", "e1", k=2))
    record = engine.decision("e1")
    assert (record.outcome, record.rewards, record.default_reward) == ("pending", {}, None)
    shop.clock.now = decision.expires_at
    record = engine.decision("e1")
    assert (record.outcome, record.rewards, record.default_reward) == ("expired", {}, 0.25)
    assert observe(engine, answer(decision, -1.0, slot=1)) == ["late"]
    record = engine.decision("e1")
    assert (record.outcome, record.rewards, record.default_reward) == ("rewarded", {1: -1.0}, 0.25)


def test_defaults_of_nothing_write_nothing(tmp_path: Path) -> None:
    """Where unanswered slots earn 0, pairs without a reward count as zeros anyway."""
    shop = Shop(tmp_path)
    engine = opened(shop)
    before = state(engine)
    decision = rank(engine, request("ann", "e1", k=3))
    shop.clock.now = decision.expires_at
    engine.sync()
    assert state(engine) == pytest.approx(before)


def test_a_refit_takes_over_the_default_rewards_and_late_answers_take_them_back(
    tmp_path: Path,
) -> None:
    """30 purchases and 60 slots of 0.4; an answer of 1 then adds 1 - 0.4, if at the same time."""
    shop = Shop(tmp_path)
    engine = opened(shop, default_reward=0.4)
    users = [f"u{number}" for number in range(30)]
    observe(engine, *(did(f"p-{user}", user, timestamp=END_S) for user in users))
    decisions = [rank(engine, request(user, f"e-{user}", k=2)) for user in users]
    shop.clock.now = decisions[0].expires_at
    engine.sync()
    engine.refit()
    assert engine.view.release.metrics["num_interactions"] == 90
    for restarted in (False, True):
        before = sums(engine)
        late = answer(decisions[3 + restarted], 1.0)
        assert observe(engine, late) == ["late"]
        change = (sums(engine) - before) * view_of(engine).means.scale_at(END_S)
        change /= view_of(engine).means.scale_at(shop.clock.now)
        assert change[engine.view.index.row(late.item_id)] == pytest.approx(0.6, rel=1e-6)
        assert change.sum() == pytest.approx(0.6, rel=1e-6)
        engine.close()
        engine = opened(shop, default_reward=0.4)
