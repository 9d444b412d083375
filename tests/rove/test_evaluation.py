"""Evaluation against numbers worked by hand: split, measures on every slice, tables."""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt
import pytest

from rove.baselines.base import Floats, Ints, Log
from rove.behaviour import Behaviour
from rove.config import TrainingSection
from rove.errors import DataError, InvalidInput
from rove.evaluation import tables
from rove.evaluation.learned import LearnedRanking
from rove.evaluation.measuring import CALIBRATION, COVERAGE, Result, measure
from rove.evaluation.peers import BPR, CONTENT, EASE, POPULARITY, fit_peers
from rove.evaluation.reliability import BOUNDS, Reliability
from rove.evaluation.slices import ALL, COLD, COLD_AMONG_ALL, WARM
from rove.evaluation.split import Split
from rove.learning import learn

DAY_S = 86_400.0
SECOND = 1 / math.log2(3)
"""What a hit in the second place is worth."""


def behaviour(rows: list[tuple[int, int, float]], num_items: int = 6) -> Behaviour:
    """Interactions (user, item, day); those of a user on one day are a visit."""
    users, items, days = (np.array(column) for column in zip(*rows, strict=True))
    _, visits = np.unique(users * 1000 + days, return_inverse=True)
    return Behaviour(
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        rewards=np.ones(len(users)),
        timestamps=days * DAY_S,
        visits=visits.astype(np.int64),
        num_users=int(users.max()) + 1,
        num_items=num_items,
    )


PAST = behaviour([(0, 0, 0.0), (0, 1, 0.0), (1, 0, 0.0), (1, 2, 0.0), (1, 3, 0.0), (1, 4, 0.0)])
FUTURE = behaviour([(0, 2, 5.0), (0, 5, 5.0), (2, 0, 6.0)])
"""User 0 has items 0 and 1 and takes 2 and 5, which is cold; user 2, a stranger, takes 0."""


class Fixed:
    """The same scores for everybody; notes what it observes."""

    def __init__(self, *scores: float) -> None:
        self._scores = np.array(scores)
        self.observed: list[tuple[int, list[int], float]] = []

    def fit(self, log: Log) -> None:
        """Learn nothing."""

    def scores(self, user: int, now: float) -> Floats:
        """Return them."""
        return self._scores

    def observe(self, user: int, items: Ints, now: float) -> None:
        """Note it."""
        self.observed.append((user, items.tolist(), now / DAY_S))


def measured(*, live: bool = False) -> tuple[Result, Fixed]:
    """New to user 0 are 3, 5, 2, 4 in this order; to user 2: 0, 1, 3, 5, 2, 4."""
    rival = Fixed(0.9, 0.8, 0.3, 0.5, 0.1, 0.4)
    rivals = {"fixed": rival, "flat": Fixed(*np.zeros(6))}
    return measure(Split.of(PAST, FUTURE), rivals, rates=["fixed"], live=live), rival


def means(name: str) -> dict[str, float]:
    result, _ = measured()
    found = result.intervals("fixed", result.slice(name))
    return {measure: one.mean for measure, one in found.items()}


def test_all_items_are_ranked_that_are_new_to_the_user() -> None:
    """User 0: relevant in places 2 (item 5) and 3 (item 2); user 2: item 0 in place 1.

    NDCG (1/log2 3 + 1/2) / (1 + 1/log2 3) and 1; first places 1/2 and 1; all six items are among
    somebody's ten. Rates promised: 1.3 of what is new to user 0, 3.0 of all to user 2; taken 2 + 1.
    """
    found = means(ALL)
    assert found["NDCG@10"] == pytest.approx(((SECOND + 0.5) / (1 + SECOND) + 1) / 2)
    assert found["recall@10"] == found["recall@50"] == 1.0
    assert found["MRR"] == pytest.approx((1 / 2 + 1) / 2)
    assert found[COVERAGE] == 1.0
    assert found[CALIBRATION] == pytest.approx((1.3 + 3.0) / 3)


def test_warm_items_are_ranked_among_the_warm() -> None:
    """User 0: 3, 2, 4, relevant 2 in place 2; promised 0.9. User 2: 0 first; promised 2.6."""
    found = means(WARM)
    assert found["NDCG@10"] == pytest.approx((SECOND + 1) / 2)
    assert found["MRR"] == pytest.approx(0.75)
    assert found[CALIBRATION] == pytest.approx((0.9 + 2.6) / 2)


def test_cold_items_are_ranked_among_the_cold_and_among_all() -> None:
    """The only cold item is the first of one, and second of all; 0.4 is promised, 1 taken."""
    alone, among_all = means(COLD), means(COLD_AMONG_ALL)
    assert alone["NDCG@10"] == alone["MRR"] == alone[COVERAGE] == 1.0
    assert among_all["NDCG@10"] == pytest.approx(SECOND)
    assert among_all["MRR"] == 0.5
    assert alone[CALIBRATION] == among_all[CALIBRATION] == pytest.approx(0.4)
    assert among_all[COVERAGE] == pytest.approx(4 / 6)  # user 0 was shown what it did not have


def test_slices_by_history_have_their_users_and_no_others() -> None:
    result, _ = measured()
    names = {of.name: of.users.tolist() for of in result.slices}
    assert names == {
        ALL: [0, 2],
        WARM: [0, 2],
        COLD: [0],
        COLD_AMONG_ALL: [0],
        "users with no history": [2],
        "users with 1-2 items": [0],
    }
    assert result.slice(COLD).num_candidates == 1


def test_a_history_counts_what_rivals_have_seen() -> None:
    """User 0 comes twice; a rival that observes knows 4 items the second time, a frozen one 2."""
    twice = behaviour([(0, 2, 5.0), (0, 5, 5.0), (0, 3, 6.0)])
    split = Split.of(PAST, twice)
    frozen = measure(split, {"fixed": Fixed(*range(6))})
    live = measure(split, {"fixed": Fixed(*range(6))}, live=True)
    assert len(frozen.slice("users with 1-2 items").rows) == 2
    assert live.slice("users with 3-10 items").rows.tolist() == [1]


def test_a_live_rival_observes_each_visit_and_a_frozen_one_none() -> None:
    assert measured()[1].observed == []
    assert measured(live=True)[1].observed == [(0, [2, 5], 5.0), (2, [0], 6.0)]


def test_ties_are_in_random_order_whatever_the_order_of_the_catalogue() -> None:
    """400 strangers take item 0 of 20, all scores equal: half of them find it among ten."""
    future = behaviour([(user, 0, 5.0) for user in range(2, 402)], 20)
    split = Split.of(behaviour([(0, 1, 0.0), (1, 0, 0.0)], 20), future)
    result = measure(split, {"flat": Fixed(*np.zeros(20))})
    assert result.intervals("flat", result.slice(ALL))["recall@10"].mean == pytest.approx(
        0.5, abs=0.08
    )


def test_differences_are_paired_and_the_same_seed_gives_the_same_figures() -> None:
    result, _ = measured()
    of = result.slice(ALL)
    own = result.difference("fixed", "fixed", of, "MRR")
    assert (own.mean, own.low, own.high) == (0.0, 0.0, 0.0)
    again, _ = measured()
    assert again.intervals("flat", of) == result.intervals("flat", of)


def test_a_catalogue_smaller_than_ten_leaves_slots_empty() -> None:
    """User 0 has two of six items: four slots are filled."""
    shown_RK = measured()[0].answers["fixed"][ALL].shown_RK
    assert (shown_RK >= 0).sum(axis=1).tolist() == [4, 6]


def test_cold_items_are_those_without_a_past_and_those_that_were_drawn() -> None:
    """Item 39 of 40 never occurs; of the others about a third is drawn, and loses its past only."""
    rng = np.random.default_rng(0)
    rows = [(user, int(rng.integers(39)), float(day)) for day in range(20) for user in range(30)]
    every = behaviour(sorted(rows, key=lambda row: row[2]), 40)
    split = Split.in_time(every, np.random.default_rng(1), share=0.25, cold_share=0.3)
    past, future = every.split(0.25)
    assert split.cold_J[39] and 5 <= split.cold_J.sum() <= 20
    assert not split.cold_J[split.past.items].any()
    assert len(split.past) == (~split.cold_J[past.items]).sum()
    assert split.past.timestamps.max() < split.future.timestamps.min()
    assert len(split.future) == len(future)
    few = Split.in_time(every, np.random.default_rng(1), share=0.25, max_requests=7)
    assert len(few.requests) == 7 and len(few.baskets) == few.requests.baskets[-1] + 1


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_cold_share_out_of_range_is_refused(share: float) -> None:
    message = f"the share of cold items must be at least 0 and below 1, got {share}; try 0.2"
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Split.in_time(PAST, np.random.default_rng(0), cold_share=share)


def test_too_little_to_measure_on_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match=re.escape("interactions of one user at most")):
        Split.in_time(behaviour([(0, 0, 0.0), (0, 1, 1.0)]), rng)
    with pytest.raises(DataError, match=re.escape("none of the 1 visits after the cut has")):
        Split.of(PAST, behaviour([(0, 0, 5.0)]))
    with pytest.raises(DataError, match=re.escape("no interaction before the cut")):
        Split.of(PAST.take(np.array([], np.int64)), FUTURE)
    with pytest.raises(InvalidInput, match=re.escape("must be between 0 and 1, got 1.5")):
        Split.in_time(PAST, rng, share=1.5)


def test_reliability_sums_by_the_size_of_the_prediction() -> None:
    """Predictions .02, .02 and .5, of which one .02 is taken; -inf is not counted; error 1.44 / 1.

    |.04 - 1| in one bin and |.5 - 0| in another, over one taken.
    """
    bins = Reliability()
    bins.add(np.array([[0.02, -np.inf], [0.02, 0.5]]), np.array([[True, False], [False, False]]))
    filled = {BOUNDS[bin]: int(count) for bin, count in enumerate(bins.counts) if count}
    assert {round(bound, 4): count for bound, count in filled.items()} == {0.01: 2, 0.3162: 1}
    assert bins.taken.sum() == 1 and bins.error == pytest.approx(0.96 + 0.5)


def worlds(rng: np.random.Generator) -> tuple[Behaviour, npt.NDArray[np.float32]]:
    """60 users like one half of 30 items each, which their texts tell; 8 visits of 2."""
    rows = []
    for day in range(8):
        for user in range(60):
            items = rng.choice(15, 2, replace=False) + 15 * (user % 2)
            rows += [(user, int(item), day + user / 100) for item in items]
    half = np.repeat(np.eye(2), 15, axis=0)
    embeddings_JE = np.hstack([half, 0.1 * rng.normal(size=(30, 6))]).astype(np.float32)
    return behaviour(rows, 30), embeddings_JE


def test_who_reads_texts_finds_cold_items_and_who_knows_users_finds_warm_ones() -> None:
    """Chance has one's own half of the cold items half the time; content and Rove always."""
    every, embeddings_JE = worlds(np.random.default_rng(3))
    split = Split.in_time(every, np.random.default_rng(4), cold_share=0.4)
    peers = fit_peers(split, embeddings_JE, (POPULARITY, BPR, EASE, CONTENT))
    assert list(peers.rivals) == [POPULARITY, BPR, EASE, CONTENT] and not peers.missing
    training = TrainingSection(text_factors=4, learned_factors=2)
    rove = LearnedRanking(learn(split.past, embeddings_JE, training), split.past)
    result = measure(split, {**peers.rivals, "Rove": rove}, rates=["Rove"])
    cold, warm = result.slice(COLD), result.slice(WARM)
    for reader in (CONTENT, "Rove"):
        assert result.difference(reader, POPULARITY, cold, "NDCG@10").low > 0
    for personal in (BPR, EASE, "Rove"):
        assert result.difference(personal, POPULARITY, warm, "NDCG@10").low > 0
    assert 0.5 < result.intervals("Rove", warm)[CALIBRATION].mean < 2.0


def test_an_unknown_peer_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match=re.escape("there is no peer 'ESAE'; there are: popu")):
        fit_peers(Split.of(PAST, FUTURE), np.eye(6, dtype=np.float32), ("ESAE",))


def test_tables_say_n_a_where_scores_have_no_scale_and_compare_with_the_reference() -> None:
    result, _ = measured()
    head, (fixed, flat) = tables.slice_table(result, result.slice(ALL), "fixed")
    assert head[-1] == "fixed ahead on NDCG@10 by"
    assert fixed[head.index(CALIBRATION)].startswith("1.4333 [") and fixed[-1] == ""
    assert flat[head.index(CALIBRATION)] == "n/a" and flat[-1].startswith("+")
    alone = tables.slice_table(result, result.slice(COLD), "fixed")[1][0]
    assert alone[1] == "1.0000"  # one user: no interval
    numbers = tables.numbers(result)
    assert numbers["slices"][COLD]["rivals"]["fixed"]["MRR"] == {
        "mean": 1.0,
        "low": None,
        "high": None,
    }
    _, bins = tables.reliability_table(result)
    assert ("fixed", "0.1 to 0.32") in [row[:2] for row in bins]
