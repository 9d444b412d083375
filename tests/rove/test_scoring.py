"""Mean and variance of scores, against the formula term by term and against draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rove.events import InteractionType
from rove.item_index import Rows
from rove.scoring import ItemPart, Scorer
from rove.users import User
from rove.view import View
from tests.worlds import ENCODER, Shop, did, embeddings, item, observe, unit_vectors, view_of

Array = npt.NDArray[np.float64]
ROWS: Rows = np.array([0, 7, 33, 60, 61], np.intp)


@pytest.fixture
def view(tmp_path: Path) -> View:
    """A view of 60 released items, one added item and one that changed; ann likes and hides."""
    shop = Shop(tmp_path)
    engine = shop.engine()
    vectors = unit_vectors(2, np.random.default_rng(3))
    shop.catalogue().put([item(100), item(7, title="Changed")], vectors, ENCODER)
    engine.sync()
    observe(engine, did("1"), did("2", item_id="item-9"), did("3", "bob", "item-20"))
    observe(engine, did("4", item_id="item-30", kind=InteractionType.HIDE))
    return view_of(engine)


def user(view: View, name: str) -> User:
    return view.users.get(name)


def exact_variance(view: View, part: ItemPart, name: str) -> Array:
    """Var = item part + taste_gain^2 (phi' S phi + sum_k s_k (theta_k^2 + S_kk))."""
    model, taste = view.release.model, view.scorer.taste(user(view, name), view.now_s)
    features = view.index.features(ROWS).astype(np.float64)
    variance = np.einsum("nd,de,ne->n", features, taste.covariance_DD, features)
    num_text = model.text_components_EF.shape[1]
    moments_K = taste.mean_D[num_text:] ** 2 + np.diag(taste.covariance_DD)[num_text:]
    trained = np.array([True, True, True, False, True])
    variance += np.where(trained, model.factor_variance_K @ moments_K, 0.0)
    variance += np.where(trained, 0.0, model.prior_variance_K @ moments_K)
    return np.asarray(part.variance_J[ROWS] + model.taste_gain**2 * variance)


@pytest.mark.parametrize("name", ["nobody", "bob", "ann"])
def test_deviations_are_exact(view: View, name: str) -> None:
    part = view.scorer.item_part()
    taste = view.scorer.taste(user(view, name), view.now_s)
    found = view.scorer.deviations(part, user(view, name), taste, ROWS)
    assert found == pytest.approx(np.sqrt(exact_variance(view, part, name)), rel=1e-4)


@pytest.mark.parametrize("name", ["nobody", "bob", "ann"])
def test_means_are_item_mean_plus_taste(view: View, name: str) -> None:
    model, scorer = view.release.model, view.scorer
    taste = scorer.taste(user(view, name), view.now_s)
    expected = model.item_gain * view.means.share(ROWS)[0]
    expected += model.taste_gain * view.index.features(ROWS).astype(np.float64) @ taste.mean_D
    part = scorer.item_part()
    assert scorer.means(part, taste, ROWS) == pytest.approx(expected, abs=1e-6)
    assert scorer.catalogue_means(part, [taste])[0, ROWS] == pytest.approx(expected, abs=1e-6)


def test_the_catalogue_s_scores_of_many_users_are_those_of_each(view: View) -> None:
    part = view.scorer.item_part()
    tastes = view.scorer.tastes(
        [user(view, n) for n in ("nobody", "bob", "ann")], [], {}, view.now_s
    )
    together = view.scorer.catalogue_means(part, tastes)
    assert together.shape == (3, 62)
    for row, taste in zip(together, tastes, strict=True):
        assert row == pytest.approx(view.scorer.catalogue_means(part, [taste])[0], abs=1e-6)


def test_the_catalogue_s_deviation_lacks_only_the_user_s_own_part(view: View) -> None:
    """It takes the learned factors' variance at a mean taste of zero: never above the exact one."""
    part = view.scorer.item_part()
    taste = view.scorer.taste(user(view, "bob"), view.now_s)
    exact = view.scorer.deviations(part, user(view, "bob"), taste, ROWS)
    shared = part.deviation_J[True][ROWS]
    assert (shared <= exact * 1.0001).all() and (shared > 0.5 * exact).all()


def test_a_new_user_is_less_certain_than_one_with_a_past(view: View) -> None:
    part = view.scorer.item_part()
    new, old = (part.deviation_J[has_past] for has_past in (False, True))
    assert (new >= old).all() and new.sum() > old.sum()


def test_variance_is_that_of_draws(view: View) -> None:
    """50,000 draws of taste and learned factors for bob: mean and variance of phi . theta."""
    rng, model = np.random.default_rng(0), view.release.model
    taste = view.scorer.taste(user(view, "bob"), view.now_s)
    theta = rng.multivariate_normal(taste.mean_D, taste.covariance_DD, 50_000)
    phi = np.tile(view.index.features([60])[0].astype(np.float64), (50_000, 1))
    num_text = model.text_components_EF.shape[1]
    spread_K = np.sqrt(model.prior_variance_K)
    phi[:, num_text:] += rng.normal(size=(50_000, len(spread_K))) * spread_K
    drawn = model.taste_gain * (phi * theta).sum(1)
    nothing = ItemPart(
        mean_J=np.zeros(62, np.float32), variance_J=np.zeros(62, np.float32), deviation_J={}
    )
    rows: Rows = np.array([60], np.intp)
    assert view.scorer.means(nothing, taste, rows)[0] == pytest.approx(
        drawn.mean(), abs=5 * drawn.std() / 50_000**0.5
    )
    deviation = view.scorer.deviations(nothing, user(view, "bob"), taste, rows)[0]
    assert deviation == pytest.approx(drawn.std(), rel=0.02)


def test_influence_and_prior_sum_to_the_mean(view: View) -> None:
    scorer: Scorer = view.scorer
    taste = scorer.taste(user(view, "ann"), view.now_s)
    rows, terms_pD = scorer.influence(user(view, "ann"), taste)
    # Standing rewards by row, then trials.
    assert [view.index.ids[row] for row in rows] == ["item-9", "item-7", "item-30"]
    assert terms_pD.shape == (3, view.release.model.num_factors)
    assert embeddings().shape[0] < len(view.index)
