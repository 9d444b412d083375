"""Baselines against numbers worked by hand, and the replay that compares them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rove.baselines.als import Als
from rove.baselines.base import (
    DAY_S,
    Baseline,
    Basket,
    Floats,
    InBlocks,
    Ints,
    Log,
    Profiles,
    encode,
)
from rove.baselines.blend import Blend
from rove.baselines.bpr import Bpr
from rove.baselines.content import Content
from rove.baselines.ease import Ease
from rove.baselines.fallback import Fallback
from rove.baselines.item_knn import ItemKnn
from rove.baselines.popularity import LivePopularity, RecentPopularity
from rove.baselines.random import Random
from rove.baselines.replay import replay, replay_all, requests_of, top_k
from rove.baselines.sasrec import Sasrec, sequences_of
from rove.baselines.tuning import (
    Tuned,
    Validation,
    tune_als,
    tune_bpr,
    tune_ease,
    tune_item_knn,
    tune_sasrec,
)

MAKERS: dict[str, Callable[[], Baseline]] = {
    "random": lambda: Random(np.random.default_rng(0)),
    "popularity": RecentPopularity,
    "live": LivePopularity,
    "als": lambda: Als(factors=4, regularization=1.0),
    "ease": lambda: Ease(10.0),
    "blend": lambda: Blend(Ease(10.0), LivePopularity(), 0.5),
    "bpr": lambda: Bpr(factors=4, iterations=5),
    "knn": ItemKnn,
    "content": lambda: Content(np.random.default_rng(0).normal(size=(20, 5))),
    "sasrec": lambda: Sasrec(size=8, length=5, epochs=2),
    "fallback": lambda: Fallback(ItemKnn(), RecentPopularity()),
}
IN_BLOCKS = ("als", "ease", "bpr", "knn", "content", "sasrec", "fallback")


def log_of(rows: list[tuple[int, int, float, int]], num_users: int = 4, num_items: int = 4) -> Log:
    """A log from (user, item, day, session)."""
    users, items, days, sessions = (np.array(column) for column in zip(*rows, strict=True))
    return Log(
        users=users,
        items=items,
        timestamps=days * DAY_S,
        sessions=sessions,
        num_users=num_users,
        num_items=num_items,
    )


def basket(user: int, items: list[int], day: float) -> Basket:
    return Basket(session=0, user=user, items=np.array(items), timestamp=day * DAY_S)


def two_tastes(rng: np.random.Generator, num_users: int = 60) -> Log:
    """Even users take items 0-9, odd users items 10-19, 4 visits of 3 items each, day by day."""
    rows = []
    for visit in range(4):
        for user in range(num_users):
            items = rng.choice(10, 3, replace=False) + 10 * (user % 2)
            day = visit + user / num_users
            rows += [(user, int(item), day, visit * num_users + user) for item in items]
    return log_of(rows, num_users, 20)


def test_baskets_are_sessions_in_order_of_time_with_distinct_items() -> None:
    """Session 5 begins on day 1, session 3 on day 2; its item 1 was bought in two lines."""
    log = log_of([(0, 3, 2.0, 3), (0, 1, 2.0, 3), (0, 1, 2.0, 3), (1, 2, 1.0, 5)])
    assert [(b.session, b.user, b.items.tolist(), b.timestamp / DAY_S) for b in log.baskets()] == [
        (5, 1, [2], 1.0),
        (3, 0, [1, 3], 2.0),
    ]


def test_an_empty_log_has_no_baskets_and_splits_into_nothing() -> None:
    log = log_of([(0, 0, 0.0, 0)]).rows(np.array([False]))
    earlier, later = log.split(0.5)
    assert log.baskets() == earlier.baskets() == later.baskets() == []


def test_split_cuts_by_time_and_keeps_sessions_whole() -> None:
    """4 rows, half later: the cut is the third time, day 3; session 1 began before it."""
    log = log_of([(0, 0, 1.0, 0), (0, 1, 2.0, 1), (0, 2, 3.0, 1), (1, 3, 4.0, 2)])
    earlier, later = log.split(0.5)
    assert (earlier.items.tolist(), later.items.tolist()) == ([0, 1, 2], [3])
    assert (later.num_users, later.num_items) == (4, 4)


def test_codes_are_given_in_order_of_appearance() -> None:
    known = {"a": 0}
    assert encode(["b", "a", "c", "b"], known).tolist() == [1, 0, 2, 1]
    assert known == {"a": 0, "b": 1, "c": 2}


def test_profiles_are_distinct_and_grow() -> None:
    profiles = Profiles(log_of([(1, 3, 0.0, 0), (1, 0, 0.0, 0), (1, 3, 1.0, 1)]))
    assert profiles.of(1).tolist() == [0, 3]
    assert profiles.of(2).tolist() == []
    profiles.add(1, np.array([0, 2]))
    assert profiles.of(1).tolist() == [0, 2, 3]


def test_random_ranks_every_item_equally_often() -> None:
    """4 items over 4,000 draws: each is first 1,000 times, give or take 4 * sqrt(750) = 110."""
    random = Random(np.random.default_rng(0))
    random.fit(log_of([(0, 0, 0.0, 0)]))
    firsts = np.bincount([random.scores(0, 0.0).argmax() for _ in range(4000)], minlength=4)
    assert np.abs(firsts - 1000).max() < 110


def test_recent_popularity_counts_baskets_of_the_last_days() -> None:
    """The last basket is on day 30: those after day 2 count, so item 0 counts once, not twice."""
    log = log_of([(0, 0, 1.0, 0), (0, 0, 3.0, 1), (1, 2, 3.0, 2), (2, 2, 30.0, 3)])
    popularity = RecentPopularity(28.0)
    popularity.fit(log)
    popularity.observe(0, np.array([1]), 31 * DAY_S)
    assert popularity.scores(0, 31 * DAY_S).tolist() == [1, 0, 2, 0]


def test_live_popularity_halves_every_half_life() -> None:
    """Day 0: item 0; day 7: item 1; day 7 as seen on day 14: 1/4 and 1/2."""
    live = LivePopularity(7.0)
    live.fit(log_of([(0, 0, 0.0, 0), (1, 1, 7.0, 1)]))
    assert live.scores(0, 14 * DAY_S) == pytest.approx([0.25, 0.5, 0, 0])
    live.observe(2, np.array([0, 3]), 14 * DAY_S)
    assert live.scores(0, 14 * DAY_S) == pytest.approx([1.25, 0.5, 0, 1])


def test_live_popularity_does_not_depend_on_the_order_of_observation() -> None:
    """A late basket of day 0 weighs 2 ** -2 on day 14, whenever it is told."""
    late, ordered = LivePopularity(7.0), LivePopularity(7.0)
    ordered.fit(log_of([(0, 0, 0.0, 0), (1, 1, 14.0, 1)]))
    late.fit(log_of([(1, 1, 14.0, 1)]))
    late.observe(0, np.array([0]), 0.0)
    assert late.scores(0, 20 * DAY_S) == pytest.approx(ordered.scores(0, 20 * DAY_S))


def test_live_popularity_of_an_empty_log_is_zero() -> None:
    live = LivePopularity()
    live.fit(log_of([(0, 0, 0.0, 0)]).rows(np.array([False])))
    assert live.scores(0, 0.0).tolist() == [0, 0, 0, 0]


def test_ease_solves_two_items_by_hand() -> None:
    """Users {0, 1}, {0}: X'X + I = [[3, 1], [1, 2]], P = [[2, -1], [-1, 3]] / 5.

    B_01 = -P_01 / P_11 = (1/5) / (3/5) = 1/3; B_10 = -P_10 / P_00 = (1/5) / (2/5) = 1/2.
    """
    ease = Ease(1.0)
    ease.fit(log_of([(0, 0, 0.0, 0), (0, 1, 0.0, 0), (1, 0, 0.0, 1)], 3, 2))
    assert ease.scores(1, 0.0) == pytest.approx([0, 1 / 3])
    assert ease.scores(2, 0.0) == pytest.approx([0, 0])
    ease.observe(2, np.array([1]), 1.0)
    assert ease.scores(2, 0.0) == pytest.approx([1 / 2, 0])


def test_ease_does_not_count_an_item_taken_twice() -> None:
    rows = [(0, 0, 0.0, 0), (0, 1, 0.0, 0), (1, 0, 0.0, 1)]
    once, twice = Ease(1.0), Ease(1.0)
    once.fit(log_of(rows, 3, 2))
    twice.fit(log_of([*rows, (1, 0, 5.0, 2)], 3, 2))
    assert twice.scores(1, 0.0) == pytest.approx(once.scores(1, 0.0))


def test_als_folds_in_the_current_items_of_a_user() -> None:
    """A user without history who takes items of one taste is offered the rest of that taste."""
    als = Als(factors=8)
    log = two_tastes(np.random.default_rng(0))
    als.fit(log.rows(log.users != 1))
    assert als.scores(1, 0.0) == pytest.approx(np.zeros(20))
    als.observe(1, np.array([11, 14, 17]), 9 * DAY_S)
    scores = als.scores(1, 9 * DAY_S)
    assert scores[10:].min() > scores[:10].max()


def test_als_user_vector_solves_its_normal_equations() -> None:
    """(V'V + (c - 1) V_S'V_S + r I) u = c V_S'1, with c = alpha, for the user's items S."""
    als = Als(factors=4, regularization=2.0, alpha=3.0)
    log = two_tastes(np.random.default_rng(1))
    als.fit(log)
    v = als._model.item_factors.astype(np.float64)
    own = v[np.unique(log.items[log.users == 0])]
    precision = v.T @ v + 2.0 * own.T @ own + 2.0 * np.eye(4)
    expected = v @ np.linalg.solve(precision, 3.0 * own.sum(axis=0))
    assert als.scores(0, 0.0) == pytest.approx(expected, abs=1e-4)


def test_als_without_implicit_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['implicit'] = None\n"
        "from rove.baselines.als import Als\n"
        "from rove.errors import InvalidInput\n"
        "try: Als()\n"
        "except InvalidInput as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'rove[baselines]'" in done.stdout


def test_blend_adds_the_scaled_shared_scores() -> None:
    """EASE as above gives [0, 1/3]; live counts are 2 and 1, scaled 1 and 1/2, times 0.5."""
    rows = [(0, 0, 0.0, 0), (0, 1, 0.0, 0), (1, 0, 0.0, 1)]
    blend = Blend(Ease(1.0), LivePopularity(), 0.5)
    blend.fit(log_of(rows, 3, 2))
    assert blend.scores(1, 0.0) == pytest.approx([0.5, 1 / 3 + 0.25])


def test_top_k_leaves_out_the_excluded_and_breaks_ties_by_code() -> None:
    scores = np.array([1.0, 5.0, 5.0, 0.0, 9.0])
    assert top_k(scores, np.array([4]), 3).tolist() == [1, 2, 0]
    assert top_k(scores, np.array([0, 1, 4]), 3).tolist() == [2, 3, -1]
    assert top_k(scores, np.array([], np.int64), 7).tolist() == [4, 1, 2, 0, 3, -1, -1]


def test_requests_are_the_baskets_with_something_new() -> None:
    """User 0 has item 0: the first basket is old, the second brings 1, the third repeats it."""
    history = log_of([(0, 0, 0.0, 0)])
    baskets = [basket(0, [0], 1), basket(0, [0, 1], 2), basket(0, [0, 1], 3), basket(2, [3], 4)]
    requests = requests_of(history, baskets)
    assert requests.baskets.tolist() == [1, 3]
    assert requests.users.tolist() == [0, 2]
    assert [items.tolist() for items in requests.relevant] == [[1], [3]]


class Recorder:
    """Scores equally and keeps what it is told and asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, float]] = []

    def fit(self, log: Log) -> None:
        self.num_items = log.num_items

    def scores(self, user: int, now: float) -> Floats:
        self.calls.append(("scores", user, now / DAY_S))
        return np.zeros(self.num_items)

    def observe(self, user: int, items: Ints, now: float) -> None:
        self.calls.append(("observe", user, now / DAY_S))


def test_replay_ranks_before_it_observes_and_observes_what_it_does_not_rank() -> None:
    history = log_of([(0, 0, 0.0, 0)])
    recorder = Recorder()
    recorder.fit(history)
    ranked = replay(recorder, history, [basket(0, [0], 1), basket(0, [1], 2), basket(1, [0], 3)], 2)
    assert recorder.calls == [
        ("observe", 0, 1),
        ("scores", 0, 2),
        ("observe", 0, 2),
        ("scores", 1, 3),
        ("observe", 1, 3),
    ]
    assert ranked.tolist() == [[1, 2], [0, 1]]


@pytest.mark.parametrize("name", MAKERS)
def test_every_baseline_scores_every_item_for_known_and_unknown_users(name: str) -> None:
    baseline = MAKERS[name]()
    log = two_tastes(np.random.default_rng(2))
    baseline.fit(log)
    for user in (0, 10_000):
        scores = baseline.scores(user, 5 * DAY_S)
        assert scores.shape == (20,) and scores.dtype == np.float64
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", MAKERS)
def test_fitting_again_forgets(name: str) -> None:
    log = two_tastes(np.random.default_rng(3))
    again, once = MAKERS[name](), MAKERS[name]()
    again.fit(log)
    again.observe(0, np.array([15]), 10 * DAY_S)
    again.fit(log)
    once.fit(log)
    assert again.scores(0, 5 * DAY_S) == pytest.approx(once.scores(0, 5 * DAY_S), abs=1e-5)


def test_personal_baselines_beat_popularity_where_tastes_differ() -> None:
    """Each user wants 10 of the 20 items: popularity's first is right for half of the users."""
    history, later = two_tastes(np.random.default_rng(4)).split(0.25)
    baskets = later.baskets()
    users = requests_of(history, baskets).users
    fitted = {name: MAKERS[name]() for name in ("popularity", "als", "ease")}
    for baseline in fitted.values():
        baseline.fit(history)
    ranked = replay_all(fitted, history, baskets, 1)
    own = {name: np.mean(first[:, 0] // 10 == users % 2) for name, first in ranked.items()}
    assert own["als"] == own["ease"] == 1.0
    assert own["popularity"] < 0.8


def test_tuning_fits_the_whole_history_with_settings_from_the_grid() -> None:
    history = two_tastes(np.random.default_rng(5))
    ease, blend = tune_ease(history, k=2)
    als = tune_als(history, k=2)
    assert ease.settings.keys() == {"l2"}
    assert blend.settings["l2"] == ease.settings["l2"]
    assert (ease.num_tried, blend.num_tried, als.num_tried) == (4, 4, 8)
    again = Ease(ease.settings["l2"])
    again.fit(history)
    assert ease.baseline.scores(0, 0.0) == pytest.approx(again.scores(0, 0.0))
    assert 0 < ease.precision <= 1 and 0 < als.precision <= 1


def test_validation_does_not_see_its_own_slice() -> None:
    """The earlier part ends before the slice begins, and its models never meet the slice's rows."""
    history = two_tastes(np.random.default_rng(6))
    validation = Validation(history, k=2)
    earlier, later = history.split(0.1)
    assert validation.earlier.timestamps.max() < later.timestamps.min()
    assert len(validation.earlier.users) == len(earlier.users)


def test_the_extra_named_for_a_missing_package_exists() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert re.search(r"^baselines = \[.*implicit", pyproject.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_a_block_of_requests_gets_the_scores_of_each(name: str) -> None:
    baseline = MAKERS[name]()
    baseline.fit(two_tastes(np.random.default_rng(7)))
    users, times = np.array([0, 10_000, 3]), np.array([1.0, 2.0, 3.0])
    each = np.stack([baseline.scores(user, now) for user, now in zip(users, times, strict=True)])
    assert isinstance(baseline, InBlocks)
    assert baseline.score_block(users, times) == pytest.approx(each, abs=1e-5)


def test_item_knn_divides_by_both_counts_and_keeps_the_nearest() -> None:
    """Users 0, 1: items 0 and 1; user 2: 0 and 2; user 3: 0. n = 4, 2, 1; n_01 = 2, n_02 = 1.

    Shrink 1: s_01 = 2 / (sqrt(8) + 1), s_02 = 1 / (2 + 1); s_12 = 0. Who has 0 and 1 gets for
    item 0 s_01, for item 1 s_01, for item 2 s_02; with one neighbour each, item 2 gets nothing.
    """
    rows = [(0, 0, 0.0, 0), (0, 1, 0.0, 0), (1, 0, 0.0, 1), (1, 1, 0.0, 1), (2, 0, 0.0, 2)]
    log = log_of([*rows, (2, 2, 0.0, 2), (3, 0, 0.0, 3)], 4, 3)
    near = 2 / (math.sqrt(8) + 1)
    for neighbours, last in ((5, 1 / 3), (1, 0.0)):
        knn = ItemKnn(neighbours=neighbours, shrink=1.0)
        knn.fit(log)
        assert knn.scores(0, 0.0) == pytest.approx([near, near, last])


def test_content_is_the_cosine_with_the_mean_of_the_users_unit_vectors() -> None:
    """The user has (3, 0) and (0, 5): the mean points at 45 degrees; (-1, -1) is opposite."""
    content = Content(np.array([[3.0, 0.0], [0.0, 5.0], [-1.0, -1.0], [2.0, 2.0]]))
    content.fit(log_of([(0, 0, 0.0, 0), (0, 1, 0.0, 0)]))
    half = math.sqrt(0.5)
    assert content.scores(0, 0.0) == pytest.approx([half, half, -1.0, 1.0])
    assert content.scores(1, 0.0).tolist() == [0.0, 0.0, 0.0, 0.0]


def test_fallback_answers_those_who_took_nothing_with_what_others_take() -> None:
    fallback = Fallback(Ease(1.0), RecentPopularity())
    fallback.fit(log_of([(0, 0, 0.0, 0), (0, 1, 0.0, 0), (1, 0, 0.0, 1)], 3, 3))
    assert fallback.scores(2, 0.0).tolist() == [2.0, 1.0, 0.0]
    assert fallback.scores(1, 0.0)[1] < 1.0
    fallback.observe(2, np.array([0]), DAY_S)
    assert fallback.scores(2, DAY_S) == pytest.approx(fallback.scores(1, DAY_S))


def test_bpr_gives_users_it_never_saw_the_biases() -> None:
    """Items 0-9 and 10-19 are taken alike, so a stranger's scores differ little between them."""
    bpr = Bpr(factors=8, iterations=50)
    bpr.fit(two_tastes(np.random.default_rng(8)))
    even, stranger = bpr.scores(0, 0.0), bpr.scores(99, 0.0)
    assert even[:10].min() > even[10:].max()
    assert abs(stranger[:10].mean() - stranger[10:].mean()) < np.ptp(even) / 5


def one_after_the_other(num_users: int = 40) -> Log:
    """Every user takes items 0 to 9 in a circle, starting somewhere, one a day for five days."""
    rows = [
        (user, (user + day) % 10, day + user / 100, day * num_users + user)
        for day in range(5)
        for user in range(num_users)
    ]
    return log_of(rows, num_users, 10)


def test_sasrec_learns_the_order_that_things_come_in() -> None:
    """User 3 has had 3, 4, 5, 6, 7: next is 8; whoever now takes 1 is told 2."""
    sasrec = Sasrec(size=16, blocks=1, length=8, dropout=0.0, learning_rate=0.01, epochs=60)
    sasrec.fit(one_after_the_other())
    assert sasrec.scores(3, 0.0).argmax() == 8
    sasrec.observe(99, np.array([1]), 0.0)
    assert sasrec.scores(99, 0.0).argmax() == 2


def test_sasrec_foresees_all_items_of_a_next_basket() -> None:
    """First 0 and 1 together, then 2 and 3: the next two of a user with 0 and 1 are 2 and 3."""
    rows = [(user, 2 * visit + one, float(visit), 2 * user + visit) for user in range(30)
            for visit in range(2) for one in range(2)]  # fmt: skip
    sasrec = Sasrec(size=16, blocks=1, length=4, dropout=0.0, learning_rate=0.01, epochs=40)
    sasrec.fit(log_of(rows, 31, 6))
    assert set(np.argsort(-sasrec.scores(99, 0.0))[:2]) == {0, 1}
    sasrec.observe(30, np.array([0, 1]), 0.0)
    assert set(np.argsort(-sasrec.scores(30, 0.0))[:2]) == {2, 3}


def test_sasrec_reads_long_sequences_in_windows_and_predicts_every_basket_once() -> None:
    """Ten items, one a visit, windows of 4 that move by 2: 4 + 2 + 2 + 2 predictions."""
    log = log_of([(0, item, float(item), item) for item in range(10)], 1, 10)
    _, windows = sequences_of(log, 4)
    assert [one.targets for one in windows] == [[[0], [1], [2], [3]], [[4], [5]], [[6], [7]],
                                                [[8], [9]]]  # fmt: skip
    assert [one.places for one in windows] == [[0, 1, 2, 3], [2, 3], [2, 3], [2, 3]]
    assert windows[0].items == [10, 0, 1, 2] and windows[1].items == [1, 2, 3, 4]


def test_sasrec_is_repeatable_and_leaves_torchs_generator_alone() -> None:
    first, second = Sasrec(size=8, epochs=2), Sasrec(size=8, epochs=2)
    before = torch.random.get_rng_state()
    for sasrec in (first, second):
        sasrec.fit(one_after_the_other())
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(first.scores(1, 0.0), second.scores(1, 0.0))


def test_a_frozen_replay_observes_nothing_and_ranks_the_same_requests() -> None:
    history = log_of([(0, 0, 0.0, 0)])
    recorder = Recorder()
    recorder.fit(history)
    baskets = [basket(0, [0], 1), basket(0, [1], 2), basket(1, [0], 3)]
    ranked = replay(recorder, history, baskets, 2, live=False)
    assert recorder.calls == [("scores", 0, 2), ("scores", 1, 3)]
    assert ranked.tolist() == [[1, 2], [0, 1]]


def test_tuning_of_the_other_peers_fits_the_settings_it_reports() -> None:
    history = two_tastes(np.random.default_rng(5))
    knn, bpr = tune_item_knn(history, k=2), tune_bpr(history, k=2, live=False)
    sasrec = tune_sasrec(history, k=2, live=False)
    assert (knn.num_tried, bpr.num_tried) == (9, 8)
    makers: dict[str, tuple[Tuned, type[ItemKnn | Bpr | Sasrec]]] = {
        "knn": (knn, ItemKnn),
        "bpr": (bpr, Bpr),
        "sasrec": (sasrec, Sasrec),
    }
    for tuned, kind in makers.values():
        again = kind(**tuned.settings)  # type: ignore[arg-type]
        again.fit(history)
        assert tuned.baseline.scores(0, 0.0) == pytest.approx(again.scores(0, 0.0), abs=1e-5)
        assert 0 < tuned.precision <= 1
