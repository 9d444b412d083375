"""The mixed model beside dense Gaussian conditioning, and what it learns of planted worlds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rove.errors import InvalidInput
from rove.mixed.contexts import ContextScale
from rove.mixed.effects import ItemVariances, gather, solve_items, solve_users
from rove.mixed.learner import MixedLearner
from rove.mixed.links import (
    CODE,
    REACH,
    Kind,
    expansion,
    expectation,
    link_of,
    predictor,
    within_reach,
)
from rove.mixed.trials import Trials

Array = npt.NDArray[np.float64]


def variances(**given: Any) -> ItemVariances:
    values: dict[str, Any] = {
        "mean": 0.5,
        "context": 0.3,
        "factors_K": np.array([0.2]),
        "text": 0.4,
        "shared_context": 0.6,
        "group": 0.7,
        "intercept": 2.0,
        **given,
    }
    return ItemVariances(**values)


@pytest.mark.parametrize("grouped", [False, True])
def test_items_have_the_posterior_of_the_dense_model(grouped: bool) -> None:
    """All effects in one vector: covariance of the prior of beta is the sum of its parts.

    beta_j = [w.g_j + d_group, t, 0] + own, so Cov(beta_j, beta_k) is that of the shared parts, plus
    diag(S) for j = k; the rest is one Gaussian regression.
    """
    rng = np.random.default_rng(5)
    num_items, num_context, num_effects = 4, 2, 4
    text_JG = np.hstack([np.ones((num_items, 1)), rng.normal(size=(num_items, 2))])
    groups_J = np.array([7, 7, 3, 5]) if grouped else None
    assumed = variances()
    items = np.array([0, 0, 1, 1, 1, 2, 0])  # item 3 has no trial
    z_nP = rng.normal(size=(7, num_effects))
    z_nP[:, 0] = 1.0
    weight_n, response_n = rng.uniform(0.5, 2.0, 7), rng.normal(size=7)

    size = num_items * num_effects
    prior = np.zeros((size, size))
    shared_text = np.diag([assumed.intercept, assumed.text, assumed.text])
    for j in range(num_items):
        for k in range(num_items):
            block = np.zeros((num_effects, num_effects))
            block[0, 0] = text_JG[j] @ shared_text @ text_JG[k]
            if groups_J is not None and groups_J[j] == groups_J[k]:
                block[0, 0] += assumed.group
            block[1:3, 1:3] = assumed.shared_context * np.eye(2)
            if j == k:
                block += np.diag(assumed.of_effects(num_context))
            prior[4 * j : 4 * j + 4, 4 * k : 4 * k + 4] = block
    rows = np.zeros((7, size))
    for n, item in enumerate(items):
        rows[n, 4 * item : 4 * item + 4] = z_nP[n]
    covariance = np.linalg.inv(np.linalg.inv(prior) + (rows.T * weight_n) @ rows)
    mean = covariance @ (rows.T @ (weight_n * response_n))

    moments, pulls = gather(items, num_items, z_nP, weight_n, response_n)
    solved = solve_items(
        moments, pulls, text_JG, groups_J, num_context, assumed, variances(), num_rounds=0
    )
    np.testing.assert_allclose(solved.mean_JP.ravel(), mean, atol=1e-9)
    for j in range(num_items):
        part = slice(4 * j, 4 * j + 4)
        np.testing.assert_allclose(solved.covariance_JPP[j], covariance[part, part], atol=1e-9)


def test_users_have_the_posterior_of_a_ridge_regression() -> None:
    """One user, prior N(0, T): (H'H + T^-1)^-1 H'y, by hand for D = 1: n = 2, y = 1, 2, T = .5.

    precision 2 + 2 = 4, mean (1 + 2) / 4 = .75.
    """
    solved = solve_users(
        np.array([[[2.0]]]), np.array([[3.0]]), np.array([[0.5]]), np.eye(1), 0, num_rounds=0
    )
    assert solved.mean_ID[0, 0] == pytest.approx(0.75)
    assert solved.covariance_IDD[0, 0, 0] == pytest.approx(0.25)


def test_a_variance_without_support_shrinks_and_a_planted_one_is_found() -> None:
    rng = np.random.default_rng(6)
    num_items, num_trials = 300, 40
    found = {}
    for planted in (0.0, 0.5):
        true_J = np.sqrt(planted) * rng.normal(size=num_items)
        items = np.repeat(np.arange(num_items), num_trials)
        response = true_J[items] + rng.normal(size=len(items))
        ones = np.ones((len(items), 1))
        moments, pulls = gather(items, num_items, ones, np.ones(len(items)), response)
        learned = variances(factors_K=np.zeros(0))
        text = np.ones((num_items, 1))
        prior = variances(factors_K=np.zeros(0))
        solve_items(moments, pulls, text, None, 0, learned, prior, num_rounds=60)
        found[planted] = learned.mean
    assert found[0.0] < 0.02
    assert found[0.5] == pytest.approx(0.5, rel=0.25)


def test_visitors_who_are_alike_are_added_up() -> None:
    trials = Trials(0)
    unknown = np.full(3, -1)
    trials.add(unknown, np.array([4, 4, 9]), np.array([1.0, 0.0, 0.0]), None, 1.0)
    trials.add(unknown[:1], np.array([4]), np.array([1.0]), None, 2.0)
    rows = trials.columns
    assert len(trials) == 4
    assert rows.items.tolist() == [4, 9]
    assert rows.counts.tolist() == [3.0, 1.0]
    assert rows.means.tolist() == pytest.approx([2 / 3, 0.0])
    # 2 ones of 3: sum of squares around 2/3 is 2 (1/3)^2 + (2/3)^2 = 2/3.
    assert rows.spreads.tolist() == pytest.approx([2 / 3, 0.0])


def test_known_users_and_contexts_keep_rows_of_their_own() -> None:
    trials = Trials(2)
    context = np.arange(400, dtype=np.float32).reshape(200, 2)
    users = np.arange(200) % 3 - 1
    trials.add(users, np.zeros(200, np.int64), np.ones(200), context, 0.0)
    np.testing.assert_array_equal(trials.columns.contexts, context)
    np.testing.assert_array_equal(trials.columns.users, users)


def test_the_link_follows_the_rewards() -> None:
    assert link_of(np.array([0.0, 1.0, 0.25])) == "logit"
    assert link_of(np.array([0.0, 3.0])) == "log"
    assert link_of(np.array([-1.0, 0.5])) == "identity"


@pytest.mark.parametrize("kind", ["identity", "logit", "log"])
def test_a_predictor_and_its_expectation_undo_each_other(kind: Any) -> None:
    eta = np.array(predictor(kind, 0.3))
    mean, slope = expectation(kind, eta)
    assert mean == pytest.approx(0.3)
    above, _ = expectation(kind, eta + 1e-6)
    assert (above - mean) / 1e-6 == pytest.approx(float(slope), rel=1e-4)
    assert within_reach(kind, eta + 100.0, float(eta)) <= eta + 100.0


def test_contexts_need_no_units() -> None:
    rng = np.random.default_rng(7)
    given = rng.poisson(3.0, (200, 4)).astype(np.float32)
    scaled = ContextScale.fit(given, is_text=False)(given)
    in_other_units = given * np.array([1e3, 1e-3, 1.0, 7.0], np.float32)
    again = ContextScale.fit(in_other_units, is_text=False)(in_other_units)
    np.testing.assert_allclose(scaled, again, atol=1e-4)
    assert np.square(scaled).sum(1).mean() == pytest.approx(1.0, abs=0.05)


def test_a_context_column_that_never_varies_is_no_problem() -> None:
    given = np.ones((10, 2), np.float32)
    assert np.isfinite(ContextScale.fit(given, is_text=False)(given)).all()


def observe(learner: MixedLearner, users: Any, items: Any, rewards: Any, **given: Any) -> None:
    learner.observe(
        np.asarray(users, np.int64),
        np.asarray(items, np.int64),
        np.asarray(rewards, np.float64),
        given.get("context"),
    )


def test_a_new_item_is_as_good_as_its_text_promises() -> None:
    rng = np.random.default_rng(8)
    text = rng.normal(size=(120, 8)).astype(np.float32)
    rate_J = 1.0 / (1.0 + np.exp(-2.0 * text[:, 0]))
    learner = MixedLearner(text, 120, rng=rng)
    for _ in range(40):
        items = rng.integers(0, 100, 100)  # the last 20 are never shown
        observe(learner, np.full(100, -1), items, rng.random(100) < rate_J[items])
    mean, deviation = learner.score(np.array([-1]), np.arange(120)[None], None)
    assert np.corrcoef(mean[0, 100:], text[100:, 0])[0, 1] > 0.9
    assert deviation[0, 100:].min() > np.median(deviation[0, :100])


def test_users_tastes_are_learnt_over_the_text() -> None:
    rng = np.random.default_rng(9)
    text = rng.normal(size=(80, 6)).astype(np.float32)
    taste = rng.normal(size=(60, 6))
    chance = 1.0 / (1.0 + np.exp(-2.0 * taste @ text.T))
    learner = MixedLearner(text, 80, rng=rng)
    for _ in range(60):
        users, items = np.arange(60), rng.integers(0, 80, 60)
        observe(learner, users, items, rng.random(60) < chance[users, items])
    mean, _ = learner.score(np.arange(60), np.tile(np.arange(80), (60, 1)), None)
    own = np.mean([np.corrcoef(mean[i], chance[i])[0, 1] for i in range(60)])
    assert own > 0.6


def test_the_best_action_depends_on_the_context() -> None:
    """A contextual bandit is the same model: no users, no text, numbers as they come."""
    rng = np.random.default_rng(10)
    learner = MixedLearner(None, 3, context_size=2, rng=rng)
    for _ in range(60):
        context = rng.poisson(20.0, (10, 2)).astype(np.float32)
        items = rng.integers(0, 3, 10)
        good = (items == 0) == (context[:, 0] > context[:, 1])
        observe(learner, np.full(10, -1), items, good.astype(float), context=context)
    context = np.array([[30, 10], [10, 30]], np.float32)
    mean, _ = learner.score(np.full(2, -1), np.tile(np.arange(3), (2, 1)), context)
    assert mean[0].argmax() == 0
    assert mean[1].argmax() in (1, 2)


def test_a_hundred_thousand_updates_keep_the_covariances_positive() -> None:
    rng = np.random.default_rng(11)
    learner = MixedLearner(rng.normal(size=(3, 4)).astype(np.float32), 3, rng=rng)
    users, items = rng.integers(0, 2, 20), rng.integers(0, 3, 20)
    observe(learner, users, items, rng.random(20))
    learner._next_fit = 10**9  # updates alone
    for _ in range(100):
        users, items = rng.integers(0, 2, 1000), rng.integers(0, 3, 1000)
        observe(learner, users, items, rng.random(1000))
    for covariance in (learner._covariance_JPP, learner._theta_covariance):
        assert np.linalg.eigvalsh(covariance.astype(np.float64)).min() > 0.0


def test_an_update_is_the_posterior_that_a_fit_would_give_for_gaussian_rewards() -> None:
    """With fixed effects of the others, a rank-one update is exact conditioning."""
    rng = np.random.default_rng(12)
    learner = MixedLearner(None, 2, kind="identity", num_factors=0, rng=rng)
    observe(learner, np.full(20, -1), np.arange(20) % 2, rng.normal(size=20))
    mean, deviation = learner.score(np.array([-1]), np.array([[0, 1]]), None)
    fitted = learner.fitted
    assert fitted is not None
    observe(learner, [-1], [0], [2.0])
    after, _ = learner.score(np.array([-1]), np.array([[0, 1]]), None)
    gain = deviation[0, 0] ** 2 / (deviation[0, 0] ** 2 + fitted.dispersion_J[0])
    assert after[0, 0] == pytest.approx(mean[0, 0] + gain * (2.0 - mean[0, 0]), rel=1e-4)
    assert after[0, 1] == mean[0, 1]


def test_a_prior_goes_from_one_catalogue_to_another() -> None:
    rng = np.random.default_rng(13)
    learner = MixedLearner(None, 50, rng=rng)
    rate_J = rng.beta(30.0, 70.0, 50)
    for _ in range(50):
        items = rng.integers(0, 50, 200)
        observe(learner, np.full(200, -1), items, rng.random(200) < rate_J[items])
    prior = learner.export_prior()
    assert prior.variances.mean < 0.15  # logit deviation of Beta(30, 70) is about .2
    other = MixedLearner(None, 6, prior=prior, rng=rng)
    observe(other, np.full(12, -1), np.arange(12) % 6, (np.arange(12) % 6 == 0).astype(float))
    mean, _ = other.score(np.array([-1]), np.arange(6)[None], None)
    assert np.ptp(mean) < 1.0  # two clicks of two do not convince it


def test_a_reward_that_is_no_number_is_refused() -> None:
    learner = MixedLearner(None, 2, rng=np.random.default_rng(0))
    with pytest.raises(InvalidInput, match=re.escape("a reward must be a finite number, got nan")):
        observe(learner, [-1], [0], [np.nan])
    with pytest.raises(InvalidInput, match=re.escape("nothing was learnt yet")):
        learner.export_prior()


@pytest.mark.parametrize("kind", ["identity", "logit", "log"])
@pytest.mark.parametrize("eta", [-9.0, 0.3, 9.0])
def test_one_predictor_is_expanded_as_many_are(kind: Kind, eta: float) -> None:
    many = within_reach(kind, np.array([eta]), 0.5)
    mean_n, slope_n = expectation(kind, many)
    low, high = 0.5 - REACH[kind], 0.5 + REACH[kind]
    assert expansion(CODE[kind], eta, low, high) == pytest.approx((many[0], mean_n[0], slope_n[0]))
