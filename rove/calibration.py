"""How fast things are forgotten, and what taste weighs beside popularity: read off held-out visits.

    score_ij(t) = item_gain * share_j(t) + taste_gain * phi_j . theta_i(t)

- `fit_item_means`: half-life and prior strength of the item means, by the likelihood of the
  held-out interactions given all that came before each visit (prequential; Dawid 1984).
- `fit_taste`: half-life of the taste and its weight beside the item mean, by NDCG@10 of what was
  new to the user in each held-out visit; then both gains are scaled by least squares, so that a
  score is the expected reward of showing the item in a visit.

Every visit is predicted from what came before it only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from rove.behaviour import Behaviour, latest_of_pairs
from rove.visits import Visit, item_means_before, visits_of

Array = npt.NDArray[np.float64]

DAY_S = 86_400.0
HALF_LIVES_S = tuple(DAY_S * days for days in (1, 2, 4, 7, 14, 28, 56, 112, 224, 448))
PSEUDO_COUNTS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
TASTE_WEIGHTS = tuple(float(weight) for weight in np.geomspace(0.05, 20.0, 13))
"""Taste beside the item mean, both scaled to unit mean square."""
CUTOFF = 10
MAX_VISITS = 3000
MAX_MEANS = 20_000
"""Visits, at equal distances, that half-life and strength of the item means are chosen by."""
NUM_VISITS = "calibration_visits"
"""Key of a release's metrics: how many held-out visits its half-lives and gains come from."""
MIN_VISITS = 20
"""Fewer held-out visits say nothing about gains: both terms then count as they are, in rewards."""
MAX_CELLS = 30_000_000
"""Visits times items scored at once: 120 MB a matrix; larger catalogues use fewer visits."""
_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemMeanFit:
    """Half-life and prior strength, with the evidence for them."""

    half_life_s: float
    pseudo_count: float
    log_likelihood: float
    """Mean over held-out interactions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteFit:
    """Half-life and gains, with the evidence for them."""

    half_life_s: float
    item_gain: float
    taste_gain: float
    ndcg: float


Taste = Callable[[sparse.csr_array, npt.NDArray[np.bool_]], Array]
"""(weights (B, J) of past items, which of the B users have a past (B,)) -> taste scores (B, J).
Called once each, perhaps at the same time: what is expensive to make can be made in it."""


def fit_item_means(
    past: Behaviour,
    future: Behaviour,
    promise_J: Array,
    half_lives_s: Sequence[float] = HALF_LIVES_S,
    pseudo_counts: Sequence[float] = PSEUDO_COUNTS,
) -> ItemMeanFit:
    """Choose half-life and prior strength by the likelihood of `future`, at most at `MAX_MEANS` of
    its visits."""
    visits = visits_of(past, future)
    numbers = visits.spaced(MAX_MEANS)
    pseudo_N = np.array(pseudo_counts)
    fits = []
    for half_life_s in half_lives_s:
        log_likelihood_N, num_items = np.zeros(len(pseudo_N)), 0
        before = item_means_before(numbers, past, future, promise_J, half_life_s, 1.0)
        for visit, means in zip(map(visits.__getitem__, numbers.tolist()), before, strict=True):
            now = means.scale_at(means.latest_s)
            counts = means.sums_J[visit.items] / now  # (n,)
            promised = np.outer(pseudo_N, promise_J[visit.items])  # (N, n)
            shares = (counts + promised) / (means.total / now + pseudo_N)[:, None]
            log_likelihood_N += np.log(np.maximum(shares, 1e-300)).sum(1)
            num_items += len(visit.items)
        best = int(log_likelihood_N.argmax())
        fits.append(
            ItemMeanFit(
                half_life_s=half_life_s,
                pseudo_count=float(pseudo_N[best]),
                log_likelihood=float(log_likelihood_N[best]) / max(num_items, 1),
            )
        )
    return max(fits, key=lambda fit: fit.log_likelihood)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out visits with everything about them that does not depend on the taste."""

    past: Behaviour
    future: Behaviour
    visits: list[Visit]
    """Those with something new."""
    shares_BJ: npt.NDArray[np.float32]

    @classmethod
    def of(
        cls,
        past: Behaviour,
        future: Behaviour,
        promise_J: Array,
        fit: ItemMeanFit,
        rng: np.random.Generator,
    ) -> HeldOut:
        """Collect visits with something new (a sample of many) and the item means before each."""
        visits = visits_of(past, future)
        chosen = visits.with_new()
        most = min(MAX_VISITS, max(1, MAX_CELLS // max(len(promise_J), 1)))
        if len(chosen) > most:
            chosen = np.sort(rng.choice(chosen, most, replace=False))
        before = item_means_before(
            chosen, past, future, promise_J, fit.half_life_s, fit.pseudo_count
        )
        shares = [means.share()[0].astype(np.float32) for means in before]
        shares_BJ = np.stack(shares) if shares else np.zeros((0, len(promise_J)), np.float32)
        return cls(
            past=past,
            future=future,
            visits=[visits[number] for number in chosen.tolist()],
            shares_BJ=shares_BJ,
        )

    def weights(self, half_life_s: float) -> sparse.csr_array:
        """Return what each visit's user had done before it, decayed to its time, (B, J)."""
        both = [self.past, self.future]
        users = np.concatenate([part.users for part in both])
        items = np.concatenate([part.items for part in both])
        times = np.concatenate([part.timestamps for part in both])
        rewards = np.concatenate([part.rewards for part in both])
        order = np.argsort(users, kind="stable")
        users, items, times, rewards = users[order], items[order], times[order], rewards[order]
        visit_user = np.array([visit.user for visit in self.visits], np.int64)
        visit_time = np.array([visit.time_s for visit in self.visits])
        begin = np.searchsorted(users, visit_user)
        length = np.searchsorted(users, visit_user, side="right") - begin
        visit = np.repeat(np.arange(len(self.visits)), length)
        row = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length - begin, length)
        row = row.astype(np.int64)
        earlier = times[row] < visit_time[visit]
        visit, row = visit[earlier], row[earlier]
        decayed = rewards[row] * np.exp2((times[row] - visit_time[visit]) / half_life_s)
        shape = (len(self.visits), self.past.num_items)
        return latest_of_pairs(visit, items[row], decayed, shape)


def fit_taste(
    held_out: HeldOut,
    tastes: Sequence[tuple[float, Taste]],
    taste_weights: Sequence[float] = TASTE_WEIGHTS,
) -> TasteFit:
    """Choose among (half-life, taste) and the weight of taste beside the item mean."""
    if len(held_out.visits) < MIN_VISITS:
        half_life_s, _ = tastes[len(tastes) // 2]
        return TasteFit(half_life_s=half_life_s, item_gain=1.0, taste_gain=1.0, ndcg=0.0)

    def fit(candidate: tuple[float, Taste]) -> TasteFit:
        return _fit_one(held_out, *candidate, taste_weights)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return max(threads.map(fit, tastes), key=lambda fit: fit.ndcg)


def _fit_one(
    held_out: HeldOut, half_life_s: float, taste: Taste, taste_weights: Sequence[float]
) -> TasteFit:
    weights_BJ = held_out.weights(half_life_s)
    has_past = np.diff(weights_BJ.indptr) > 0
    seen_BJ = weights_BJ.toarray() > 0
    shares_BJ = np.where(seen_BJ, 0.0, held_out.shares_BJ)
    scores_BJ = np.where(seen_BJ, 0.0, taste(weights_BJ, has_past)).astype(np.float32)
    wanted_BJ = np.zeros(seen_BJ.shape, bool)
    for one, visit in enumerate(held_out.visits):
        wanted_BJ[one, visit.new_items] = True
    size, taste_size = _root_mean_square(shares_BJ), _root_mean_square(scores_BJ)
    # What is nothing but rounding is not blown up.
    relative = size / taste_size if taste_size > 1e-6 * size else 1.0

    def quality(weight: float) -> float:
        combined_BJ = shares_BJ + relative * weight * scores_BJ
        combined_BJ[seen_BJ] = -np.inf
        return ndcg(combined_BJ, wanted_BJ)

    weight, best = _highest(quality, taste_weights)
    slope = relative * weight
    combined_BJ = shares_BJ + slope * scores_BJ
    # The gain along the chosen direction, by least squares over all pairs.
    gain = float(combined_BJ[wanted_BJ].sum()) / max(
        float(np.vdot(combined_BJ, combined_BJ)), _TINY
    )
    if gain <= 0.0:
        gain = 1.0  # the order of the items is what was chosen; the scale is only a unit
    return TasteFit(
        half_life_s=half_life_s,
        item_gain=gain,
        taste_gain=gain * slope,
        ndcg=best,
    )


def _highest(quality: Callable[[float], float], points: Sequence[float]) -> tuple[float, float]:
    """Return the best of the points and its quality: every other point, then the best's neighbours.

    Exact where the quality has one peak, to the grid.
    """
    found = {number: quality(points[number]) for number in range(0, len(points), 2)}
    first = max(found, key=lambda number: found[number])
    for number in (first - 1, first + 1):
        if 0 <= number < len(points):
            found[number] = quality(points[number])
    best = max(found, key=lambda number: found[number])
    return points[best], found[best]


def ndcg(scores_BJ: npt.NDArray[np.floating], wanted_BJ: npt.NDArray[np.bool_]) -> float:
    """Return the mean NDCG@10 of ranking by `scores_BJ` when `wanted_BJ` is relevant.

    DCG = sum over ranks r = 1.. of relevant / log2(r + 1); ideal: all that fit come first.
    """
    num_visits, num_items = scores_BJ.shape
    cutoff = min(CUTOFF, num_items)
    if num_visits == 0 or cutoff == 0:
        return 0.0
    top_BK = np.argpartition(-scores_BJ, cutoff - 1, axis=1)[:, :cutoff]
    by_score_BK = np.argsort(-np.take_along_axis(scores_BJ, top_BK, 1), axis=1, kind="stable")
    hits_BK = np.take_along_axis(wanted_BJ, np.take_along_axis(top_BK, by_score_BK, 1), 1)
    discount_K = 1.0 / np.log2(np.arange(2, cutoff + 2))
    ideal_K = np.cumsum(discount_K)
    num_wanted = np.clip(wanted_BJ.sum(1), 1, cutoff)
    return float(np.mean(hits_BK @ discount_K / ideal_K[num_wanted - 1]))


def _root_mean_square(values: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
