"""Measure rivals on one split: every later visit is a request, all items are put in order.

- Ranks are exact and of the whole catalogue (or of all warm or all cold items), never of a sample.
- Items with equal scores are in a random order, of each request its own and the same for all
  rivals: a rival without an opinion gets what chance gets, whatever the order of the catalogue.
- Every measure is kept for each request, so that differences between rivals can be paired.
- The calibration of rates is sum(predicted) / sum(taken), over all pairs of a request and an item
  new to the user: 1 is right, 2 promises twice as much as comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove import ranking
from rove.baselines.base import Baseline, Floats, Ints
from rove.baselines.replay import score_blocks
from rove.evaluation.reliability import Reliability
from rove.evaluation.slices import Ranking, Slice, rankings_of, slices_of
from rove.evaluation.split import Split

# R requests, B of them at once, J items, C candidates, K slots, M measures.
K = 10
MEASURES = ("NDCG@10", "recall@10", "recall@50", "MRR")
COVERAGE, CALIBRATION = "coverage", "calibration"
Intervals = Mapping[str, ranking.Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one rival did with one ranking."""

    values_RM: Floats
    """`MEASURES` of each request, NaN where nothing is relevant."""
    shown_RK: Ints
    """The ten items ranked first, -1 where there are no more."""
    predicted_R: Floats | None
    """Sum of the predicted rates of the items that count; None of scores without a scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All figures of all rivals."""

    split: Split
    slices: Sequence[Slice]
    answers: Mapping[str, Mapping[str, Answers]]
    """Rival -> ranking -> each request."""
    reliability: Mapping[str, Reliability]
    """Of the rivals that predict rates."""
    seconds: Mapping[str, float]
    """What scoring and ranking all requests took."""
    seed: int

    def slice(self, name: str) -> Slice:
        """Return a slice that has requests."""
        return next(one for one in self.slices if one.name == name)

    def values(self, rival: str, of: Slice, measure: str) -> Floats:
        """Return one of `MEASURES` for each request of the slice."""
        values_RM = self.answers[rival][of.ranking.name].values_RM
        values: Floats = values_RM[of.rows, MEASURES.index(measure)]
        return values

    def intervals(self, rival: str, of: Slice) -> Intervals:
        """Return every measure of a rival on a slice, with 95 % intervals that resample users."""
        answers, rng = self.answers[rival][of.ranking.name], np.random.default_rng(self.seed)
        values_RM = answers.values_RM[of.rows]
        per_RM = np.ones_like(values_RM)
        if answers.predicted_R is not None:
            taken = _num_relevant(self.split, of.ranking)[of.rows].astype(np.float64)
            values_RM = np.column_stack([values_RM, answers.predicted_R[of.rows]])
            per_RM = np.column_stack([per_RM, taken])
        found = ranking.intervals(values_RM, rng, per_RM=per_RM, groups=of.users)
        named = dict(zip((*MEASURES, CALIBRATION), found, strict=False))
        named[COVERAGE] = ranking.coverage(
            answers.shown_RK[of.rows], of.num_candidates, groups=of.users
        )
        return named

    def difference(self, rival: str, other: str, of: Slice, measure: str) -> ranking.Interval:
        """Return by how much `rival` is ahead of `other`, paired by request."""
        return ranking.paired_difference(
            self.values(rival, of, measure),
            self.values(other, of, measure),
            np.random.default_rng(self.seed),
            groups=of.users,
        )


def measure(
    split: Split,
    rivals: Mapping[str, Baseline],
    *,
    rates: Collection[str] = (),
    live: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Measure rivals that have been fitted to `split.history`; each is used up.

    `rates` names those whose scores are expected rates, to be calibrated. `live`: a rival observes
    each visit after it has ranked for it; otherwise it stays as it was fitted.
    """
    assert set(rates) <= set(rivals), (rates, list(rivals))
    rankings = rankings_of(split)
    answers, reliability, seconds = {}, {}, {}
    for name, rival in rivals.items():
        start = time.perf_counter()
        bins = Reliability() if name in rates else None
        answers[name] = _answers(split, rival, rankings, bins, live=live, seed=seed)
        if bins is not None:
            reliability[name] = bins
        seconds[name] = time.perf_counter() - start
        say(f"{name}: {len(split.requests):,} requests in {seconds[name]:.1f} s")
    return Result(
        split=split,
        slices=slices_of(split, rankings, live=live),
        answers=answers,
        reliability=reliability,
        seconds=seconds,
        seed=seed,
    )


def _answers(
    split: Split,
    rival: Baseline,
    rankings: Sequence[Ranking],
    bins: Reliability | None,
    *,
    live: bool,
    seed: int,
) -> dict[str, Answers]:
    parts: dict[str, list[Answers]] = {one.name: [] for one in rankings}
    for which, scores_BJ in score_blocks(rival, split.baskets, split.requests, live=live):
        relevant = split.requests.relevant[which]
        wanted_BJ = np.zeros(scores_BJ.shape, bool)
        for row, items in zip(wanted_BJ, relevant, strict=True):
            row[items] = True
        if bins is not None:
            bins.add(scores_BJ, wanted_BJ)
        any_order_BJ = np.stack(
            [
                np.random.default_rng((seed, number)).permutation(split.num_items)
                for number in range(which.start, which.stop)
            ]
        )
        sorted_by: dict[bytes, tuple[Ints, Floats]] = {}
        for one in rankings:
            key = one.candidates_J.tobytes()  # two rankings put the same items in order
            if key not in sorted_by:
                items = any_order_BJ[one.candidates_J[any_order_BJ]].reshape(len(scores_BJ), -1)
                sorted_by[key] = _sorted(scores_BJ, items)
            parts[one.name].append(_measured(one, *sorted_by[key], scores_BJ, wanted_BJ, bins))
    return {name: _joined(blocks) for name, blocks in parts.items()}


def _sorted(scores_BJ: Floats, items_BC: Ints) -> tuple[Ints, Floats]:
    """Return the items by score and their scores, (B, C) each; equals in the order they come in."""
    scores_BC = np.take_along_axis(scores_BJ, items_BC, 1)
    by_score_BC = np.argsort(-scores_BC, axis=1, kind="stable")
    sorted_BC = np.take_along_axis(scores_BC, by_score_BC, 1)
    return np.take_along_axis(items_BC, by_score_BC, 1), sorted_BC


def _measured(
    one: Ranking,
    ranked_BC: Ints,
    sorted_BC: Floats,
    scores_BJ: Floats,
    wanted_BJ: npt.NDArray[np.bool_],
    bins: Reliability | None,
) -> Answers:
    counted_BJ = wanted_BJ & one.counted_J
    hits_BC = np.take_along_axis(counted_BJ, ranked_BC, 1)
    num_B = hits_BC.sum(axis=1)
    some = np.maximum(num_B, 1)
    values_BM = np.column_stack(
        [
            ranking.ndcg(hits_BC, some, K),
            ranking.recall(hits_BC, some, K),
            ranking.recall(hits_BC, some, 50),
            ranking.reciprocal_rank(hits_BC) if hits_BC.shape[1] else np.zeros(len(hits_BC)),
        ]
    )
    values_BM[num_B == 0] = np.nan
    shown_BK = np.full((len(ranked_BC), K), -1, np.int64)
    first_BK = ranked_BC[:, :K]
    shown_BK[:, : first_BK.shape[1]] = np.where(sorted_BC[:, :K] > -np.inf, first_BK, -1)
    predicted_B = None
    if bins is not None:
        of_counted = scores_BJ[:, one.counted_J]
        predicted_B = np.where(of_counted > -np.inf, of_counted, 0.0).sum(axis=1, dtype=np.float64)
    return Answers(values_RM=values_BM, shown_RK=shown_BK, predicted_R=predicted_B)


def _joined(blocks: Sequence[Answers]) -> Answers:
    predicted = [one.predicted_R for one in blocks if one.predicted_R is not None]
    return Answers(
        values_RM=np.concatenate([one.values_RM for one in blocks]),
        shown_RK=np.concatenate([one.shown_RK for one in blocks]),
        predicted_R=np.concatenate(predicted) if predicted else None,
    )


def _num_relevant(split: Split, of: Ranking) -> Ints:
    """Return how many items that count each request's visit has, (R,)."""
    counts = [int(of.counted_J[items].sum()) for items in split.requests.relevant]
    return np.array(counts, np.int64)
