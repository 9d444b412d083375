"""Users' posteriors against brute force, in any order of events, and the cache of them."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest

from rove.events import InteractionType
from rove.model import UserPosterior, user_posterior
from rove.users import Observation, Taste, User, UserCache, influence_of, is_observation, taste_of

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

NUM_ITEMS, NUM_FACTORS, HALF_LIFE_S, NOISE = 7, 3, 10.0, 0.25
_rng = np.random.default_rng(0)
FEATURES = _rng.normal(size=(NUM_ITEMS, NUM_FACTORS)).astype(np.float32)
INTERCEPT_J = _rng.uniform(0.0, 0.3, NUM_ITEMS)
PRIOR_MEAN = np.array([0.2, -0.1, 0.3])
PRIOR = np.array([[1.0, 0.3, 0.0], [0.3, 0.8, 0.1], [0.0, 0.1, 0.5]])
PAIRS = [Observation(row=row, reward=r, timestamp=t) for row, r, t in [(2, 1.0, 3.0), (5, 0.5, 8)]]
TRIALS = [Observation(row=row, reward=r, timestamp=t) for row, r, t in [(1, -0.5, 4.0), (2, 0, 9)]]


def features(rows: npt.ArrayLike) -> Vectors:
    return FEATURES[np.asarray(rows, np.intp)]


def posterior() -> UserPosterior:
    phi = FEATURES.astype(np.float64)
    return user_posterior(
        feature_gram_DD=phi.T @ phi,
        intercept_D=INTERCEPT_J @ phi,
        taste_mean_D=PRIOR_MEAN,
        taste_covariance_DD=PRIOR,
        noise_variance=NOISE,
    )


def user_of(observations: list[Observation]) -> User:
    user = User(NUM_FACTORS)
    user.learn(observations, features, HALF_LIFE_S)
    return user


def taste_at(user: User, now_s: float) -> Taste:
    return taste_of(user, now_s, posterior(), features, HALF_LIFE_S, NOISE)


def brute_force(
    standing: list[Observation], trials: list[Observation], now_s: float
) -> tuple[Array, Array]:
    """Solve the regression with every pair as a row, then every trial with its decayed weight."""
    y_J = np.zeros(NUM_ITEMS)
    for seen in standing:
        y_J[seen.row] = seen.reward * 2 ** (-(now_s - seen.timestamp) / HALF_LIFE_S)
    x = np.vstack([FEATURES, *(FEATURES[seen.row] for seen in trials)]).astype(np.float64)
    y = np.concatenate([y_J - INTERCEPT_J, [seen.reward for seen in trials]])
    weight = np.ones(len(y)) / NOISE
    weight[NUM_ITEMS:] *= [2 ** (-(now_s - seen.timestamp) / HALF_LIFE_S) for seen in trials]
    precision = np.linalg.inv(PRIOR) + (x.T * weight) @ x
    mean = np.linalg.solve(precision, np.linalg.inv(PRIOR) @ PRIOR_MEAN + (x.T * weight) @ y)
    return np.asarray(mean), np.asarray(np.linalg.inv(precision))


def random_events(num: int, rng: np.random.Generator) -> list[Observation]:
    return [
        Observation(
            row=int(rng.integers(NUM_ITEMS)),
            reward=float(rng.choice([-0.5, 0.0, 0.1, 1.0])),
            timestamp=float(rng.uniform(0, 50)),
        )
        for _ in range(num)
    ]


def test_a_posterior_in_one_dimension_by_hand() -> None:
    """Items phi = 1, 2; b = 0; prior N(0, 1), sigma2 = 1; a reward of 1 for the second item.

    Precision 1 + 1 + 4 = 6, mean 2 * 1 / 6 = 1/3.
    """
    common = user_posterior(
        feature_gram_DD=np.array([[5.0]]),
        intercept_D=np.zeros(1),
        taste_mean_D=np.zeros(1),
        taste_covariance_DD=np.eye(1),
        noise_variance=1.0,
    )
    assert common.covariance_DD == pytest.approx(np.array([[1 / 6]]))
    assert common.means(np.array([[2.0], [0.0]]), np.array([True, False])) == pytest.approx(
        np.array([[1 / 3], [0.0]])
    )


def test_a_user_without_a_past_has_the_population_s_taste() -> None:
    taste = taste_at(User(NUM_FACTORS), 5.0)
    assert np.array_equal(taste.mean_D, PRIOR_MEAN)
    assert np.array_equal(taste.covariance_DD, PRIOR)


@pytest.mark.parametrize("now_s", [9.0, 25.0])
@pytest.mark.parametrize(
    ("standing", "trials"),
    [(PAIRS, []), (PAIRS, TRIALS), (PAIRS, TRIALS * 5), ([], TRIALS)],
    ids=["pairs", "pairs and trials", "many trials", "trials"],
)
def test_the_posterior_is_that_of_brute_force(
    standing: list[Observation], trials: list[Observation], now_s: float
) -> None:
    taste = taste_at(user_of(standing + trials), now_s)
    mean, covariance = brute_force(standing, trials, now_s)
    assert taste.mean_D == pytest.approx(mean, abs=1e-9)
    assert taste.covariance_DD == pytest.approx(covariance, abs=1e-9)


def test_one_by_one_in_any_order_is_all_at_once() -> None:
    rng = np.random.default_rng(1)
    events = random_events(60, rng)
    whole = taste_at(user_of(events), 50.0)
    for _ in range(5):
        rng.shuffle(events)
        user = User(NUM_FACTORS)
        for part in np.array_split(np.arange(60), 13):
            user.learn([events[n] for n in part], features, HALF_LIFE_S)
        taste = taste_at(user, 50.0)
        assert taste.mean_D == pytest.approx(whole.mean_D, abs=1e-9)
        assert taste.covariance_DD == pytest.approx(whole.covariance_DD, abs=1e-9)


def test_the_reward_that_counts_most_stands_for_a_pair() -> None:
    """Half-life 10: 1 at time 0 is worth 1/4 at 20, less than 0.3 then, more than 0.2."""
    first = Observation(row=2, reward=1.0, timestamp=0.0)
    more = Observation(row=2, reward=0.3, timestamp=20.0)
    less = Observation(row=2, reward=0.2, timestamp=20.0)
    assert user_of([first, more]).standing == {2: (0.3, 20.0)}
    assert user_of([less, first]).standing == {2: (1.0, 0.0)}
    assert user_of([more, first, more]).pull_D == pytest.approx(0.3 * FEATURES[2])


def test_rewards_are_halved_by_each_half_life() -> None:
    """1 at time 3 counts 1/4 at 23: the mean moves a quarter of the way from idle."""
    user, idle = user_of(PAIRS[:1]), posterior().idle_mean_D
    at_once, later = taste_at(user, 3.0).mean_D - idle, taste_at(user, 23.0).mean_D - idle
    assert later == pytest.approx(at_once / 4)
    assert user.decay(23.0, HALF_LIFE_S) == 0.25
    assert user.decay(0.0, HALF_LIFE_S) == 1.0


def test_the_past_counts_less_as_of_a_later_event() -> None:
    user = user_of(PAIRS[:1])
    user.learn([Observation(row=0, reward=-1.0, timestamp=13.0)], features, HALF_LIFE_S)
    assert user.as_of_s == 13.0
    assert user.pull_D == pytest.approx(0.5 * FEATURES[2])


@pytest.mark.parametrize("trials", [[], TRIALS], ids=["none", "two"])
def test_the_terms_of_the_past_and_the_prior_sum_to_the_mean(trials: list[Observation]) -> None:
    """The prior's part is the posterior of the same past with all rewards at zero."""
    user = user_of(PAIRS + trials)
    taste = taste_at(user, 20.0)
    rows, terms = influence_of(user, taste, posterior(), features, HALF_LIFE_S)
    nothing = [Observation(row=t.row, reward=0.0, timestamp=t.timestamp) for t in trials]
    prior, _ = brute_force([], nothing, 20.0)
    assert rows == [2, 5, *(trial.row for trial in trials)]
    assert prior + terms.sum(0) == pytest.approx(taste.mean_D, abs=1e-9)


def test_a_posterior_before_the_user_s_last_event_is_that_of_the_event() -> None:
    """Nothing weighs more than at its own time, in the mean and in its terms."""
    user = user_of(PAIRS)
    early, then = taste_at(user, 2.0), taste_at(user, 8.0)
    assert early.mean_D == pytest.approx(then.mean_D)
    _, terms = influence_of(user, early, posterior(), features, HALF_LIFE_S)
    idle_D = posterior().idle_mean_D
    assert idle_D + terms.sum(0) == pytest.approx(early.mean_D, abs=1e-9)


def test_each_term_is_linear_in_its_reward() -> None:
    one, two = (
        user_of([Observation(row=2, reward=r, timestamp=3.0), *PAIRS[1:], *TRIALS])
        for r in (1.0, 2.0)
    )
    terms = [
        influence_of(user, taste_at(user, 9.0), posterior(), features, HALF_LIFE_S)[1]
        for user in (one, two)
    ]
    assert terms[1][0] == pytest.approx(2 * terms[0][0])
    assert terms[1][1:] == pytest.approx(terms[0][1:])


@pytest.mark.parametrize("reward", [1.0, -0.5])
def test_events_of_another_age_weigh_nothing(reward: float) -> None:
    ancient = [Observation(row=1, reward=reward, timestamp=t) for t in (0.0, -1e300)]
    taste = taste_at(user_of([*ancient, *PAIRS]), 1e6)
    assert taste.mean_D == pytest.approx(posterior().idle_mean_D)
    assert np.isfinite(taste.covariance_DD).all()


def test_thousands_of_trials_do_not_hold_up_a_decision() -> None:
    user = user_of([Observation(row=n % 7, reward=-1.0, timestamp=float(n)) for n in range(20_000)])
    started = time.monotonic()
    assert np.isfinite(taste_at(user, 20_000.0).mean_D).all()
    assert time.monotonic() - started < 2.0


def test_only_what_says_something_is_an_observation() -> None:
    assert is_observation(InteractionType.CLICK, 0.1)
    assert is_observation(InteractionType.HIDE, -0.5)
    assert is_observation(InteractionType.REWARD, 0.0)
    assert not is_observation(InteractionType.IMPRESSION, 0.0)


def test_the_cache_keeps_the_latest_within_its_bytes() -> None:
    built: list[str] = []

    def build(user_id: str) -> User:
        built.append(user_id)
        return user_of(PAIRS)

    size = user_of(PAIRS).size_bytes
    cache = UserCache(3 * size, build)
    for user_id in ("ann", "bob", "eve", "ann", "tim"):
        cache.get(user_id)
        assert cache.size_bytes <= 3 * size
    assert built == ["ann", "bob", "eve", "tim"]
    assert "bob" not in cache and "ann" in cache and len(cache) == 3
    cache.get("bob")
    assert built[-1] == "bob" and "eve" not in cache


def test_a_view_that_grows_pushes_others_out() -> None:
    cache = UserCache(2 * user_of(PAIRS).size_bytes, lambda _: user_of(PAIRS))
    cache.get("ann")
    bob = cache.get("bob")
    bob.learn(TRIALS, features, HALF_LIFE_S)
    cache.resized("bob")
    assert "ann" not in cache and cache.size_bytes == bob.size_bytes


def test_forgetting_frees_the_bytes() -> None:
    cache = UserCache(10**6, lambda _: user_of(PAIRS))
    cache.get("ann")
    cache.get("bob")
    cache.forget("ann")
    cache.forget("never seen")
    assert cache.size_bytes == user_of(PAIRS).size_bytes
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_one_user_larger_than_the_cache_can_still_be_served() -> None:
    cache = UserCache(1, lambda _: user_of(PAIRS))
    assert cache.get("ann").has_past and len(cache) == 1
