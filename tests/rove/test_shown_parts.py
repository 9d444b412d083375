"""The parts that learn from what was shown, by hand-worked numbers and dense algebra."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from rove.config import RewardSection
from rove.errors import ReleaseError
from rove.events import Context
from rove.ledger.shown import Answer, Shown
from rove.release import Release, latest
from rove.rewards import RewardMap
from rove.shown.contexts import ContextReader, text_of, values_of
from rove.shown.learning import learn_shown
from rove.shown.likelihood import Features, expanded, user_posterior
from rove.shown.model import ShownModel
from rove.shown.trials import trials_of
from rove.shown.users import Pairs, ShownUser
from tests.worlds import Shop, embeddings

NEWS = RewardMap.from_config(RewardSection(preset="news"))
LONG = "a text that is much longer than what a word under a key may be, so the encoder reads it"


def test_numbers_words_and_texts_are_told_apart() -> None:
    context: Context = {"hour": 8.0, "device": "phone", "is_new": True, "gone": None, "page": LONG}
    assert values_of(context, 0) == {"slot": 0.0, "hour": 8.0, "device=phone": 1.0, "is_new": 1.0}
    assert values_of("a text", 1) == {"slot": pytest.approx(np.log(2))}
    assert text_of(context) == LONG
    assert text_of("a text") == "a text"
    assert text_of("") is None and text_of(None) is None and text_of({"device": "phone"}) is None


def test_columns_are_standardised_and_what_is_missing_is_average() -> None:
    values = [{"hour": 1.0, "a=x": 1.0}, {"hour": 3.0}, {"a=x": 1.0, "rare": 5.0}, {"hour": 2.0}]
    reader = ContextReader.fit(values, 0)
    assert reader.columns == ("hour", "a=x")
    deviation = np.sqrt(2 / 3)
    read = reader([{"hour": 3.0}, {}, {"hour": 99.0, "a=x": 1.0}], [None] * 3)
    expected = [[1 / deviation, -1.0], [0.0, -1.0], [5.0, 1.0]]
    assert read == pytest.approx(np.array(expected), rel=1e-6)


def test_numbers_and_texts_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    values = [{"hour": float(hour)} for hour in rng.normal(size=200)]
    vectors = [3.0 * vector for vector in rng.normal(size=(200, 4)).astype(np.float32)]
    reader = ContextReader.fit(values, 4)
    rows = reader(values, vectors)
    scaled = reader.scale(rows)(rows)
    assert np.square(scaled[:, 0]).mean() == pytest.approx(0.5, rel=1e-5)
    assert np.square(scaled[:, 1:]).sum(1).mean() == pytest.approx(0.5, rel=1e-5)
    assert reader.scale(rows)(reader([{}], [None]))[0, 0] == 0.0


def shown(*answers: Answer, is_active: bool = True) -> Shown:
    return Shown(
        event_id="e1",
        user_id="ann",
        item_ids=["a", "b"],
        context=None,
        context_vector=None,
        created_at=0.0,
        expires_at=10.0,
        is_active=is_active,
        answers=list(answers),
    )


def answer(item_id: str, reward: float, kind: str = "click") -> Answer:
    return Answer(item_id=item_id, type=kind, reward=reward, timestamp=1.0, sequence=1)


def test_slots_are_trials_with_their_answers_or_the_default() -> None:
    one = shown(answer("b", 0.2), answer("b", 0.3), answer("a", 0.0, "impression"))
    found = [(trial.item_id, trial.slot, trial.reward) for trial in trials_of([one], NEWS)]
    assert found == [("a", 0, 0.0), ("b", 1, 0.5)]
    answered = trials_of([one], NEWS, unanswered=False)
    assert [trial.item_id for trial in answered] == ["b"]
    assert [trial.item_id for trial in trials_of([one], NEWS, answered=False)] == ["a"]
    never = shown(answer("b", 0.2), is_active=False)
    assert trials_of([never], NEWS) == []


def features(num: int, rng: np.random.Generator) -> Features:
    return Features(
        context_nC=np.hstack([np.ones((num, 1)), rng.normal(size=(num, 2))]),
        text_nH=np.hstack([np.ones((num, 1)), rng.normal(size=(num, 3))]),
        beta_nP=rng.normal(size=(num, 5)),
        dispersion_n=rng.uniform(0.5, 2.0, num),
        known_n=0.3 * rng.normal(size=num),
    )


def test_a_user_s_posterior_is_that_of_a_dense_regression() -> None:
    rng = np.random.default_rng(1)
    of = features(12, rng)
    reward_n = rng.normal(size=12)
    population_DD, share_n = np.diag(rng.uniform(0.5, 2.0, 6)), rng.uniform(0.1, 1.0, 12)
    found = user_posterior(of, reward_n, share_n, population_DD, "identity", 0.0)
    h, weight = of.user_nD, share_n / of.dispersion_n
    covariance = np.linalg.inv(np.linalg.inv(population_DD) + h.T @ (weight[:, None] * h))
    expected = covariance @ h.T @ (weight * (reward_n - of.fixed_n))
    assert found.mean_D == pytest.approx(expected)
    assert found.covariance_DD == pytest.approx(covariance)
    assert found.term_nD.sum(0) == pytest.approx(expected)


def test_a_binary_user_s_posterior_is_at_the_mode() -> None:
    """At the mode the gradient vanishes: H' (y - m) / phi = T^-1 theta (within reach)."""
    rng = np.random.default_rng(2)
    of = features(40, rng)
    reward_n = rng.integers(0, 2, 40).astype(np.float64)
    found = user_posterior(of, reward_n, np.ones(40), np.eye(6) * 0.3, "logit", 0.0)
    eta_n = of.fixed_n + of.user_nD @ found.mean_D
    left_n = (reward_n - 1.0 / (1.0 + np.exp(-eta_n))) / of.dispersion_n
    assert of.user_nD.T @ left_n == pytest.approx(found.mean_D / 0.3, abs=0.05)


def test_one_update_a_trial_gives_the_posterior_of_all() -> None:
    rng = np.random.default_rng(3)
    of = features(20, rng)
    reward_n = rng.normal(size=20)
    user = ShownUser(np.zeros(6), np.eye(6), set(), Pairs())
    for n in range(20):
        eta = of.fixed_n[n] + of.user_nD[n] @ user.mean_D
        one = np.array([eta]), 0.0, reward_n[n : n + 1], of.dispersion_n[n : n + 1]
        weight_n, error_n = expanded("identity", *one)
        user.learn(of.user_nD[n], float(weight_n[0]), float(error_n[0]))
    found = user_posterior(of, reward_n, np.ones(20), np.eye(6), "identity", 0.0)
    assert user.mean_D == pytest.approx(found.mean_D, abs=1e-5)
    assert user.covariance_DD == pytest.approx(found.covariance_DD, abs=1e-5)
    changed_n = reward_n.copy()
    changed_n[7] += 0.5
    user.correct(of.user_nD[7], 0.5, float(of.dispersion_n[7]))
    found = user_posterior(of, changed_n, np.ones(20), np.eye(6), "identity", 0.0)
    assert user.mean_D == pytest.approx(found.mean_D, abs=1e-5)


def test_a_user_takes_little_memory() -> None:
    user = ShownUser(np.zeros(21), np.eye(21), set(), Pairs())
    assert user.size_bytes <= 2500


def test_a_release_keeps_the_model(tmp_path: Path) -> None:
    shop = Shop(tmp_path, feedback="shown", preset="news")
    engine = shop.engine()
    engine.refit()
    kept = latest(tmp_path / "releases").shown
    row_of = {f"item-{n}": n for n in range(len(embeddings()))}
    made, num_trials = learn_shown((), NEWS, row_of, embeddings(), settled_s=shop.clock.now)
    assert isinstance(kept, ShownModel) and num_trials == 0
    assert kept.kind == made.kind and kept.columns == made.columns
    for name, tensor in made.tensors().items():
        assert np.array_equal(kept.tensors()[name], tensor), name


def test_a_release_whose_model_is_not_complete_is_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, feedback="shown", preset="news")
    engine = shop.engine()
    engine.refit()
    folder = engine.view.release.folder
    engine.close()
    described = (folder / "release.yaml").read_text()
    (folder / "release.yaml").write_text(described.replace("  kind: identity\n", ""))
    with pytest.raises(ReleaseError, match=re.escape("its model of what was shown is not complet")):
        Release.open(folder)


def test_a_refit_learns_from_the_latest_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one item's trials, the first ones earned and the last ones did not."""
    monkeypatch.setattr("rove.shown.learning.MAX_TRIALS", 50)

    def decided(number: int) -> Shown:
        one = shown(*([answer("a", 1.0)] if number < 200 else []))
        return structs.replace(one, event_id=f"e{number}", item_ids=["a"], created_at=float(number))

    parts = [[decided(first + n) for n in range(60)] for first in range(0, 300, 60)]
    model, num_trials = learn_shown(
        reversed(parts), NEWS, {"a": 0, "b": 1}, embeddings()[:2], settled_s=1000.0
    )
    assert num_trials == 50
    assert 1.0 / (1.0 + np.exp(-model.mean_JP[0, 0])) < 0.2
