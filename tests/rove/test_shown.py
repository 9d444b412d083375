"""An engine that learns from what was shown: trials, corrections, restarts, shards, contexts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rove.engine import Engine
from rove.errors import InvalidInput, ReleaseError
from rove.events import Decision, InteractionType
from rove.refit import refit
from rove.shown.view import ShownView
from tests.worlds import (
    DAY_S,
    ENCODER,
    NUM_ITEMS,
    SIZE,
    Shop,
    did,
    embeddings,
    item,
    observe,
    rank,
    refusal,
    request,
    unit_vectors,
)

CLICK, REWARD, IMPRESSION = (
    InteractionType.CLICK,
    InteractionType.REWARD,
    InteractionType.IMPRESSION,
)
HALF_HOUR_S = 1800.0


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, feedback="shown", preset="news")


def view(engine: Engine) -> ShownView:
    assert isinstance(engine.view, ShownView)
    return engine.view


def effects(engine: Engine) -> npt.NDArray[np.float64]:
    """Return means and variances of the items' own effects, (2, J)."""
    items = view(engine).items
    items.refresh()
    both = np.stack([items.mean_JP[:, 0], items.covariance_JPP[:, 0, 0]])
    return both.astype(np.float64)


def answer(
    engine: Engine, decision: Decision, slot: int = 0, value: float = 1.0, name: str = "a"
) -> list[str]:
    """Give a slot an explicit reward."""
    shown = decision.slots[slot]
    return observe(
        engine,
        did(
            f"{name}-{decision.event_id}-{slot}",
            decision.user_id,
            shown.item_id,
            REWARD,
            value=value,
            event_id=decision.event_id,
            slot=slot,
        ),
    )


def row(engine: Engine, decision: Decision, slot: int = 0) -> int:
    found = engine.view.index.row(decision.slots[slot].item_id)
    assert found is not None
    return found


def test_a_reward_moves_its_item_and_its_user(shop: Shop) -> None:
    engine = shop.engine()
    before = effects(engine)
    decision = rank(engine, request("ann", "e1", k=1))
    theta = view(engine).users.get("ann").mean_D.copy()
    assert np.array_equal(effects(engine), before)  # nothing is known of it yet
    assert answer(engine, decision) == ["accepted"]
    n, after = row(engine, decision), effects(engine)
    assert after[0, n] > before[0, n] and after[1, n] < before[1, n]
    assert np.array_equal(np.delete(after, n, 1), np.delete(before, n, 1))
    assert view(engine).users.get("ann").mean_D[0] > theta[0]


def test_the_update_of_an_item_is_the_exact_one(shop: Shop) -> None:
    """Identity link, one effect: precision + 1 / phi, mean between both."""
    engine = shop.engine()
    model = view(engine).scorer.model
    assert model.kind == "identity"
    decision = rank(engine, request("ann", "e1", k=1))
    mean, variance = effects(engine)[:, row(engine, decision)]
    answer(engine, decision, value=0.7)
    phi, precision = model.dispersion, 1.0 / variance
    expected = (mean * precision + 0.7 / phi) / (precision + 1.0 / phi)
    assert effects(engine)[:, row(engine, decision)] == pytest.approx(
        [expected, 1.0 / (precision + 1.0 / phi)], rel=1e-5
    )


def test_what_stays_unanswered_counts_once_it_has_expired(shop: Shop) -> None:
    engine = shop.engine()
    first = rank(engine, request("ann", "e1", k=3))
    answer(engine, first, slot=1)
    rows = [row(engine, first, slot) for slot in range(3)]
    before = effects(engine)
    shop.clock.now += HALF_HOUR_S - 1.0
    engine.sync()
    assert np.array_equal(effects(engine), before)
    shop.clock.now += 2.0
    engine.sync()
    after = effects(engine)
    for slot in (0, 2):
        assert after[0, rows[slot]] < before[0, rows[slot]]
        assert after[1, rows[slot]] < before[1, rows[slot]]
    assert np.array_equal(after[:, rows[1]], before[:, rows[1]])
    engine.sync()
    assert np.array_equal(effects(engine), after)


def test_a_decision_that_was_not_activated_is_no_trial(shop: Shop) -> None:
    engine = shop.engine()
    before = effects(engine)
    rank(engine, request("ann", "e1", k=3, defer_activation=True))
    rank(engine, request("ann", "e2", k=1, defer_activation=True))
    engine.activate("e2")
    shop.clock.now += DAY_S
    engine.sync()
    changed = (effects(engine) != before).any(0)
    assert changed.sum() == 1


@pytest.mark.parametrize("settled", [False, True])
def test_a_correction_leaves_what_the_last_reward_alone_would(
    shop: Shop, tmp_path: Path, settled: bool
) -> None:
    """The link is the identity, so the order of what is learnt does not matter to the items."""
    engine = shop.engine(kind="greedy")
    decision = rank(engine, request("ann", "e1", k=1))
    if settled:
        shop.clock.now += DAY_S
        engine.sync()
    else:
        answer(engine, decision, value=0.2)
    assert answer(engine, decision, value=0.5, name="b") == ["late" if settled else "accepted"]
    other = Shop(tmp_path / "other", feedback="shown", preset="news")
    straight = other.engine(kind="greedy")
    twin = rank(straight, request("ann", "e1", k=1))
    assert twin.slots[0].item_id == decision.slots[0].item_id
    answer(straight, twin, value=0.5 if settled else 0.7)  # news adds rewards up
    assert effects(engine) == pytest.approx(effects(straight), rel=1e-5, abs=1e-7)
    learnt = [view(one).users.get("ann").mean_D for one in (engine, straight)]
    assert learnt[0] == pytest.approx(learnt[1], rel=0.2)


def test_a_repeated_interaction_changes_nothing(shop: Shop) -> None:
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1", k=2))
    answer(engine, decision)
    before, theta = effects(engine), view(engine).users.get("ann").mean_D.copy()
    assert answer(engine, decision) == ["duplicate"]
    assert np.array_equal(effects(engine), before)
    assert np.array_equal(view(engine).users.get("ann").mean_D, theta)


def test_what_tells_nothing_is_no_trial(shop: Shop) -> None:
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1", k=1))
    before = effects(engine)
    shown = decision.slots[0].item_id
    assert observe(engine, did("i1", item_id=shown, kind=IMPRESSION, event_id="e1")) == ["accepted"]
    assert observe(engine, did("i2", item_id=shown, kind=CLICK)) == ["accepted"]  # by itself
    assert observe(engine, did("i3", item_id="item-7", kind=CLICK, event_id="e9")) == [
        "unattributed"
    ]
    assert np.array_equal(effects(engine), before)
    seen = rank(engine, request("ann", "e2", k=NUM_ITEMS - 2, exclude_seen=True))
    assert {shown, "item-7"}.isdisjoint(slot.item_id for slot in seen.slots)


def played(engine: Engine, shop: Shop, num: int, seed: int = 5, k: int = 3) -> None:
    """Show slates to ten users; some slots are clicked."""
    rng = np.random.default_rng(seed)
    for number in range(num):
        user = f"user-{rng.integers(10)}"
        decision = rank(engine, request(user, f"p{seed}-{number}", k=k))
        for slot in range(k):
            if rng.random() < 0.3:
                answer(engine, decision, slot, float(rng.random()))
        shop.clock.now += 60.0
        if number % 10 == 0:
            engine.sync()


def test_a_restart_builds_the_same_state(shop: Shop) -> None:
    engine = shop.engine()
    played(engine, shop, 60)
    engine.sync()
    before = effects(engine)
    theta = view(engine).users.get("user-3").mean_D.copy()
    engine.close()
    again = shop.engine()
    assert np.array_equal(effects(again), before)
    # The items have moved on since the user's trials: near, not equal.
    assert view(again).users.get("user-3").mean_D == pytest.approx(theta, abs=0.05)
    again.sync()
    assert np.array_equal(effects(again), before)


def test_shards_learn_of_each_other(tmp_path: Path) -> None:
    shop = Shop(tmp_path, shards=2, feedback="shown", preset="news")
    shop.release()
    first, second = shop.engine(0), shop.engine(1)
    played(first, shop, 20, seed=5)
    played(second, shop, 20, seed=6)
    first.sync()
    second.sync()
    first.sync()
    assert effects(first) == pytest.approx(effects(second), abs=1e-7)


def test_a_refit_takes_over_what_had_expired_and_the_rest_is_learnt_since(shop: Shop) -> None:
    engine = shop.engine()
    played(engine, shop, 120)
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    last = rank(engine, request("ann", "open", k=1))
    answer(engine, last)
    before = view(engine).release.id
    assert engine.refit() != before
    now = view(engine)
    assert now.release.metrics["num_trials"] == 360
    assert now.items.prepare([], np.zeros((0, now.items.size))).sums_nV.size == 0
    own = now.items._sums[None]
    assert list(own) == [last.slots[0].item_id]  # the open decision's answer alone
    # A late answer to what the release had learnt corrects it, after a restart too.
    settled = effects(engine)
    late = engine.decision("p5-3").decision
    shown = {slot.slot for slot in late.slots}
    assert shown == {0, 1, 2}
    answer(engine, late, 0, 0.9, name="late")
    changed = (effects(engine) != settled).any(0)
    assert changed.sum() == 1
    after = effects(engine)
    engine.close()
    again = shop.engine()
    assert np.array_equal(effects(again), after)


def test_a_late_answer_before_the_new_view_is_not_lost(tmp_path: Path) -> None:
    """Another shard refits; an answer arrives between its watermark and this shard's following."""
    shop = Shop(tmp_path, feedback="shown", preset="news")
    engine = shop.engine()
    played(engine, shop, 60)
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    with_store = shop.catalogue()
    refit(shop.config(), with_store, shop.clock.now)
    with_store.close()
    late = engine.decision("p5-3").decision
    answer(engine, late, 0, 0.9, name="late")  # the old release still serves
    engine.sync()
    assert view(engine).release.metrics["num_trials"] == 180
    assert list(view(engine).items._sums[None]) == [late.slots[0].item_id]


def test_clicks_teach_what_is_wanted(shop: Shop) -> None:
    """Rewards depend on the item and on the user's taste for its text; chance earns about .2."""
    engine = shop.engine(strength=0.25)
    rng = np.random.default_rng(3)
    taste_IE = rng.normal(size=(10, SIZE))
    logit_IJ = -1.5 + rng.normal(size=NUM_ITEMS) + taste_IE @ embeddings().T
    chance_IJ = 1.0 / (1.0 + np.exp(-logit_IJ))
    earned = []
    for number in range(1200):
        user = int(rng.integers(10))
        decision = rank(engine, request(f"user-{user}", f"e{number}", k=1))
        chance = chance_IJ[user, row(engine, decision)]
        earned.append(chance)
        answer(engine, decision, value=float(rng.random() < chance))
        shop.clock.now += 10.0
        if number in (100, 300, 600, 900):
            shop.clock.now += HALF_HOUR_S
            engine.sync()
            engine.refit()
    random, oracle = chance_IJ.mean(), chance_IJ.max(1).mean()
    share = (np.mean(earned[900:]) - random) / (oracle - random)
    assert view(engine).scorer.model.kind == "logit"
    assert share > 0.6, share


def test_the_context_decides_where_it_matters(shop: Shop) -> None:
    """One item is for the morning, the other for the evening; a number and a word say which."""
    engine = shop.engine(kind="greedy")
    rng = np.random.default_rng(4)
    pair = ["item-1", "item-2"]
    for number in range(200):
        late = bool(rng.integers(2))
        context = {"hour": 20.0 if late else 8.0, "device": "phone" if late else "desk"}
        wanted = [pair[number % 2]]
        asked = request(f"u{number}", f"e{number}", k=1, item_ids=wanted, context=context)
        chance = 0.9 if late == (number % 2 == 1) else 0.1
        answer(engine, rank(engine, asked), value=float(rng.random() < chance))
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    engine.refit()
    assert set(view(engine).scorer.model.columns) == {"hour", "device=phone", "device=desk"}
    for late in (False, True):
        context = {"hour": 20.0 if late else 8.0, "device": "phone" if late else "desk"}
        decision = rank(engine, request("new", k=1, item_ids=pair, context=context))
        assert decision.slots[0].item_id == pair[late]
        assert decision.slots[0].score > 0.6


def test_a_text_decides_where_it_matters(shop: Shop) -> None:
    engine = shop.engine(kind="greedy")
    rng = np.random.default_rng(4)
    pair = ["item-1", "item-2"]
    directions = unit_vectors(2, rng, 8)
    for number in range(200):
        topic = int(rng.integers(2))
        vector = (directions[topic] + 0.1 * rng.normal(size=8)).astype(np.float32)
        wanted = request(
            f"u{number}", f"e{number}", k=1, item_ids=[pair[number % 2]], context=f"text {number}"
        )
        decision = rank(engine, wanted, **{f"text {number}": vector})
        answer(engine, decision, value=float(rng.random() < (0.9 if topic == number % 2 else 0.1)))
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    engine.refit()
    assert view(engine).scorer.model.reader.text_size == 8
    for topic in range(2):
        wanted = request("new", k=1, item_ids=pair, context="a new text")
        decision = rank(engine, wanted, **{"a new text": directions[topic]})
        assert decision.slots[0].item_id == pair[topic]
    rank(engine, request("new", k=1, item_ids=pair, context="a text that nobody read"))


def test_a_context_that_is_no_number_is_refused(shop: Shop) -> None:
    error = refusal(shop.engine(), request(context={"hour": float("nan")}))
    assert isinstance(error, InvalidInput)
    assert re.search("context 'hour' must be a finite number, got nan", str(error))


def test_the_terms_of_an_explanation_sum_to_the_predictor(shop: Shop) -> None:
    engine = shop.engine()
    played(engine, shop, 60)
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    engine.refit()
    played(engine, shop, 30, seed=6)
    for slot in rank(engine, request("user-3", k=5, explain=True)).slots:
        explanation = slot.explanation
        assert explanation is not None and explanation.history
        total = explanation.item_mean + explanation.prior + explanation.other
        total += sum(explanation.history.values())
        kind = view(engine).scorer.model.kind
        expected = total if kind == "identity" else 1.0 / (1.0 + np.exp(-total))
        assert expected == pytest.approx(slot.score, rel=1e-4)


def test_a_changed_item_keeps_what_was_learnt_and_a_new_one_has_its_promise(shop: Shop) -> None:
    engine = shop.engine()
    played(engine, shop, 60)
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    engine.refit()
    played(engine, shop, 30, seed=6)
    engine.sync()
    busy = sorted(view(engine).items._sums[None])[0]
    before = effects(engine)[:, engine.view.index.last_row(busy)]
    number = int(busy.removeprefix("item-"))
    store = shop.catalogue()
    vectors = unit_vectors(1, np.random.default_rng(8))
    store.put([item(number, title="Another title")], vectors, ENCODER)
    store.put([item(900)], embeddings()[5:6], ENCODER)
    store.close()
    engine.sync()
    assert effects(engine)[:, engine.view.index.last_row(busy)] == pytest.approx(before)
    new = engine.view.index.last_row("item-900")
    model = view(engine).scorer.model
    mean_nP, covariance_nPP = model.promised(model.text(embeddings()[5:6]))
    assert effects(engine)[:, new] == pytest.approx(
        [mean_nP[0, 0], covariance_nPP[0, 0, 0]], rel=1e-5
    )
    decision = rank(engine, request("ann", "new", k=1, item_ids=["item-900"]))
    answer(engine, decision)
    assert effects(engine)[0, new] > mean_nP[0, 0]


def test_an_erased_user_starts_anew(shop: Shop) -> None:
    engine = shop.engine()
    played(engine, shop, 40)
    assert np.abs(view(engine).users.get("user-3").mean_D).max() > 0
    engine.erase("user-3")
    assert np.abs(view(engine).users.get("user-3").mean_D).max() == 0


def test_a_user_s_profile_names_what_earned(shop: Shop) -> None:
    engine = shop.engine()
    decision = rank(engine, request("ann", "e1", k=2))
    answer(engine, decision, 1, 0.8)
    profile = engine.user("ann")
    assert [(one.item_id, one.reward) for one in profile.items] == [
        (decision.slots[1].item_id, 0.8)
    ]
    assert len(profile.taste_mean) == len(view(engine).scorer.model.population_DD)


def test_what_a_user_had_with_an_item_counts(shop: Shop) -> None:
    """Half of the users want the even items again and again, half the odd ones; only pairs tell."""
    engine = shop.engine(kind="thompson", strength=1.0)
    rng = np.random.default_rng(6)
    for number in range(600):
        user, item_id = int(rng.integers(12)), int(rng.integers(NUM_ITEMS))
        wanted = request(f"user-{user}", f"e{number}", k=1, item_ids=[f"item-{item_id % 20}"])
        likes = (user * 7 + item_id % 20 * 3) % 5 == 0
        answer(engine, rank(engine, wanted), value=float(rng.random() < (0.9 if likes else 0.05)))
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    engine.refit()
    scores: dict[bool, list[float]] = {True: [], False: []}
    for user in range(12):
        decision = rank(
            engine, request(f"user-{user}", k=20, item_ids=[f"item-{n}" for n in range(20)])
        )
        for slot in decision.slots:
            number = int(slot.item_id.removeprefix("item-"))
            scores[(user * 7 + number * 3) % 5 == 0].append(slot.score)
    assert np.abs(view(engine).scorer.model.past_X).max() > 0.1
    assert np.mean(scores[True]) > 2.0 * np.mean(scores[False])
    # A user's view keeps the pairs as a rebuilt one has them.
    kept = view(engine).users.get("user-3").pairs
    answer(engine, rank(engine, request("user-3", "last", k=1)), value=1.0)
    view(engine).users.clear()
    built = view(engine).users.get("user-3").pairs
    assert built.of_row.keys() == kept.of_row.keys()
    assert built.table()[1] == pytest.approx(kept.table()[1])


def test_a_service_can_begin_with_what_another_one_learnt(shop: Shop, tmp_path: Path) -> None:
    """The other's variances and mean reward: fewer decisions are spent on finding them out."""
    engine = shop.engine(strength=0.25)
    played(engine, shop, 200)
    shop.clock.now += HALF_HOUR_S
    engine.sync()
    engine.refit()
    learnt = view(engine).scorer.model
    other = Shop(tmp_path / "other", feedback="shown", preset="news")
    other.training = {"prior": str(view(engine).release.folder)}
    begun = view(other.engine(strength=0.25)).scorer.model
    assert begun.centre == learnt.centre and begun.dispersion == learnt.dispersion
    assert begun.variance_P[0] == learnt.variance_P[0]
    assert np.array_equal(begun.population_DD, learnt.population_DD)
    plain = Shop(tmp_path / "plain", feedback="shown", preset="news")
    assert view(plain.engine()).scorer.model.variance_P[0] == 1.0


def test_a_prior_that_was_not_learnt_is_refused(shop: Shop) -> None:
    plain = shop.release()
    shop.training = {"prior": str(shop.folder / "releases" / plain)}
    with pytest.raises(ReleaseError, match="so it has no prior to give"):
        shop.engine()


def test_what_is_long_past_can_be_forgotten(shop: Shop, tmp_path: Path) -> None:
    """An item that earned for a month earns no more: with a half-life the last day decides."""
    scores = []
    for name, training in (("all", {}), ("fading", {"half_life_s": DAY_S})):
        shop = Shop(tmp_path / name, feedback="shown", preset="news", training=training)
        engine = shop.engine(kind="greedy")
        for number in range(120):
            if number == 90:
                shop.clock.now += 20 * DAY_S
            wanted = request(f"u{number % 9}", f"e{number}", k=1, item_ids=[f"item-{number % 2}"])
            good = number % 2 == 0 and number < 90
            answer(engine, rank(engine, wanted), value=float(good))
        shop.clock.now += HALF_HOUR_S
        engine.sync()
        engine.refit()
        scores.append(rank(engine, request("new", k=1, item_ids=["item-0"])).slots[0].score)
    assert scores[0] > 0.5 and scores[1] < 0.2
