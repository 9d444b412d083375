"""Learning a release's model: what it finds in a planted world, and in hardly any world at all."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest

from rove.behaviour import Behaviour
from rove.calibration import ndcg
from rove.config import TrainingSection
from rove.errors import DataError
from rove.learning import LEARNED_FACTORS, Learned, learn
from rove.model import RewardModel
from tests.worlds import (
    DAY_S,
    END_S,
    NUM_ITEMS,
    START_S,
    TRAINING,
    behaviour_of,
    embeddings,
    learned,
    purchases,
)

Array = npt.NDArray[np.float64]
SECTION = TrainingSection(**TRAINING)


def world(taste: float, seed: int = 0) -> tuple[Behaviour, Array]:
    """Return 4000 purchases of 200 users, and what each user would like, (users, items).

    Users like directions of the embeddings, by `taste`; popularity is worth up to about one.
    """
    rng = np.random.default_rng(seed)
    popular_J = 0.5 * rng.normal(size=NUM_ITEMS)
    liked_IJ = popular_J + taste * rng.normal(size=(200, 16)) @ embeddings().T
    users = rng.integers(0, 200, 4000)
    items = (liked_IJ[users] + rng.gumbel(size=(4000, NUM_ITEMS))).argmax(1)
    return behaviour_of(users, items, rng.uniform(START_S, END_S, 4000), NUM_ITEMS), liked_IJ


def expected_rewards(found: Learned, behaviour: Behaviour) -> tuple[Array, Array]:
    """Return the item part (items,) and the taste part (users, items) of all scores."""
    model, phi = found.model, found.items.features_JD.astype(np.float64)
    targets = behaviour.targets(found.as_of_s, model.taste_half_life_s)
    has_past = np.ones(behaviour.num_users, bool)
    taste_ID = model.posterior().means(targets @ phi, has_past)
    item_J = model.item_gain * found.item_means().share()[0]
    return item_J, model.taste_gain * taste_ID @ phi.T


def test_taste_is_found_where_there_is_one() -> None:
    """Item mean and taste find the ten best-liked items, item means alone find few of them."""
    behaviour, liked_IJ = world(taste=3.0)
    item_J, taste_IJ = expected_rewards(learn(behaviour, embeddings(), SECTION), behaviour)
    best_IJ = liked_IJ >= np.sort(liked_IJ, axis=1)[:, -10][:, None]
    with_taste = ndcg(item_J + taste_IJ, best_IJ)
    without = ndcg(np.broadcast_to(item_J, taste_IJ.shape), best_IJ)
    assert with_taste > 2 * without
    assert with_taste > 0.5


def test_taste_is_left_out_where_there_is_none() -> None:
    """Everybody likes the same: item means rank as well with what little taste is left."""
    behaviour, liked_IJ = world(taste=0.0)
    item_J, taste_IJ = expected_rewards(learn(behaviour, embeddings(), SECTION), behaviour)
    assert np.corrcoef(item_J, liked_IJ[0])[0, 1] > 0.85
    best_IJ = liked_IJ >= np.sort(liked_IJ, axis=1)[:, -10][:, None]
    without = ndcg(np.broadcast_to(item_J, taste_IJ.shape), best_IJ)
    assert ndcg(item_J + taste_IJ, best_IJ) > 0.9 * without


def test_the_directions_of_a_text_follow_behaviour() -> None:
    """Users like the weakest four of sixteen directions of the text: few factors find them."""
    rng = np.random.default_rng(5)
    strong = np.repeat([1.0, 0.5], [12, 4])
    texts_JE = rng.normal(size=(NUM_ITEMS, 16)) * strong
    liked_IJ = rng.normal(size=(300, 4)) @ texts_JE[:, 12:].T * 4.0
    users = rng.integers(0, 300, 6000)
    items = (liked_IJ[users] + rng.gumbel(size=(6000, NUM_ITEMS))).argmax(1)
    behaviour = behaviour_of(users, items, rng.uniform(START_S, END_S, 6000), NUM_ITEMS)
    section = TrainingSection(text_factors=6, learned_factors=0)
    components_EF = learn(behaviour, texts_JE, section).model.text_components_EF
    assert np.square(components_EF[12:]).sum() > 0.8 * np.square(components_EF).sum()


def test_the_number_of_learned_factors_is_one_of_those_tried() -> None:
    found = learn(purchases(), embeddings(), TrainingSection(text_factors=4, max_sweeps=3))
    assert found.model.prior_map_FK.shape[1] in LEARNED_FACTORS


def test_the_promise_of_an_unseen_item_follows_its_text() -> None:
    """Popularity is a direction of the text: its end promises more than the opposite one."""
    rng = np.random.default_rng(1)
    direction_E = rng.normal(size=16)
    logit_nJ = 2.0 * (embeddings() @ direction_E) + rng.gumbel(size=(2000, NUM_ITEMS))
    times = rng.uniform(START_S, END_S, 2000)
    behaviour = behaviour_of(rng.integers(0, 200, 2000), logit_nJ.argmax(1), times, NUM_ITEMS)
    found = learn(behaviour, embeddings(), TrainingSection(text_factors=16, learned_factors=0))
    ends = np.stack([direction_E, -direction_E]) / np.linalg.norm(direction_E)
    both = found.model.read(ends)
    assert found.items.promise_J.sum() == pytest.approx(1.0)
    assert both.promise_J[0] > 10 * both.promise_J[1]
    assert not both.trained_J.any()


def test_sums_are_the_decayed_rewards_as_of_the_last() -> None:
    found, behaviour = learned(), purchases()
    age_n = behaviour.timestamps.max() - behaviour.timestamps
    decayed_n = 2.0 ** (-age_n / found.model.item_half_life_s)
    expected_J = [decayed_n[behaviour.items == row].sum() for row in range(NUM_ITEMS)]
    assert found.as_of_s == behaviour.timestamps.max()
    assert found.sums_J == pytest.approx(expected_J)


def test_items_nobody_chose_are_read_from_their_text() -> None:
    found = learn(purchases().take(purchases().items != 5), embeddings(), SECTION)
    chosen = np.bincount(purchases().items, minlength=NUM_ITEMS) > 0
    chosen[5] = False
    assert np.array_equal(found.items.trained_J, chosen)
    read, learnt = found.model.read(embeddings()).features_JD, found.items.features_JD
    assert learnt[~chosen] == pytest.approx(read[~chosen], abs=1e-6)
    assert np.abs(learnt[chosen] - read[chosen])[:, 6:].max() > 1e-3


def test_equal_seeds_give_equal_models() -> None:
    """Also though the candidates of the calibration are fitted side by side."""
    again = learn(purchases(), embeddings(), SECTION)
    for name, tensor in learned().model.tensors().items():
        assert np.array_equal(again.model.tensors()[name], tensor), name
    assert np.array_equal(again.items.features_JD, learned().items.features_JD)


def test_half_lives_and_gains_can_be_kept() -> None:
    base = learned().model
    found = learn(purchases().take(slice(0, 700)), embeddings(), SECTION, calibrated=base)
    for name in ("item_gain", "taste_gain", "item_half_life_s", "taste_half_life_s"):
        assert getattr(found.model, name) == getattr(base, name)
    assert found.model.pseudo_count == base.pseudo_count and found.calibration == {}
    assert not np.array_equal(found.model.taste_covariance_DD, base.taste_covariance_DD)


def test_the_directions_of_the_text_can_be_kept() -> None:
    base = learned().model
    some = purchases().take(slice(0, 700))
    found = learn(some, embeddings(), SECTION, calibrated=base, text=base.text)
    assert np.array_equal(found.model.text_components_EF, base.text_components_EF)
    anew = learn(some, embeddings(), SECTION, calibrated=base)
    assert not np.array_equal(anew.model.text_components_EF, base.text_components_EF)


def test_a_model_is_the_sum_of_its_tensors() -> None:
    model = learned().model
    again = RewardModel.from_tensors(model.tensors())
    assert again.item_gain == model.item_gain
    assert np.array_equal(again.feature_gram_DD, model.feature_gram_DD)
    assert (model.num_factors, model.embedding_size) == (10, 16)


def test_without_behaviour_all_items_are_equal_and_taste_is_open() -> None:
    found = learn(behaviour_of([0], [0], [0.0], NUM_ITEMS).take(slice(0)), embeddings(), SECTION)
    share_J, variance_J = found.item_means().share()
    assert share_J == pytest.approx(np.full(NUM_ITEMS, 1 / NUM_ITEMS))
    assert (variance_J > 0).all() and found.model.taste_covariance_DD.trace() > 0
    assert found.model.item_gain == found.model.taste_gain == 1.0


@pytest.mark.parametrize("num", [1, 2, 3, 5, 20, 60])
def test_a_handful_of_purchases_gives_a_usable_model(num: int) -> None:
    """All is finite, what was bought ranks first, and there is something left to explore."""
    rng = np.random.default_rng(num)
    users, items = rng.integers(0, 3, num), rng.integers(0, 3, num)
    times = rng.uniform(START_S, START_S + DAY_S, num)
    found = learn(behaviour_of(users, items, times, NUM_ITEMS), embeddings(), SECTION)
    model = found.model
    assert all(np.isfinite(tensor).all() for tensor in model.tensors().values())
    assert model.item_gain > 0 and model.taste_gain > 0
    share_J, variance_J = found.item_means().share()
    assert share_J[items].min() >= np.delete(share_J, items).max()
    assert (variance_J > 0).all()


def test_a_catalogue_of_one_item_can_be_learnt() -> None:
    found = learn(behaviour_of([0, 1], [0, 0], [1.0, 2.0], 1), embeddings()[:1], SECTION)
    assert found.item_means().share()[0] == pytest.approx([1.0])
    assert found.model.num_factors == 4


def test_no_factors_at_all_leave_popularity() -> None:
    section = TrainingSection(text_factors=0, learned_factors=0)
    found = learn(purchases(), embeddings(), section)
    bought_J = np.bincount(purchases().items, minlength=NUM_ITEMS)
    assert found.model.num_factors == 0
    assert np.corrcoef(found.item_means().share()[0], bought_J)[0, 1] > 0.98


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("the catalogue is empty; add items before")):
        learn(purchases(), np.zeros((0, 16), np.float32), SECTION)
