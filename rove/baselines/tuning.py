"""Tuning: settings are chosen on the end of the history, never on what they are judged by.

The latest share of the history is replayed against models fitted to the rest; the setting with the
highest precision@k wins, and a model with it is fitted to the whole history.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from rove import ranking
from rove.baselines.als import Als
from rove.baselines.base import Baseline, Basket, Log
from rove.baselines.blend import Blend
from rove.baselines.ease import Ease, fit_each
from rove.baselines.popularity import LivePopularity
from rove.baselines.replay import Requests, replay, requests_of

VALIDATION_SHARE = 0.1

ALS_FACTORS = (32, 64)
ALS_REGULARIZATION = (3.0, 10.0)
ALS_ALPHA = (1.0, 3.0)
EASE_L2 = (125.0, 250.0, 500.0, 1000.0)
BLEND_WEIGHTS = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A baseline fitted to the whole history, and how its settings were chosen."""

    baseline: Baseline
    settings: dict[str, float]
    precision: float
    """On the validation slice, of the chosen settings."""
    num_tried: int


class Validation:
    """The end of a history as a test of settings."""

    def __init__(self, history: Log, k: int = 10, share: float = VALIDATION_SHARE) -> None:
        self.earlier, later = history.split(share)
        self._baskets: list[Basket] = later.baskets()
        self._requests: Requests = requests_of(self.earlier, self._baskets)
        self._k = k

    def precision(self, fitted: Baseline) -> float:
        """Return the mean precision@k of a baseline fitted to `earlier`, which is used up."""
        ranked_RK = replay(fitted, self.earlier, self._baskets, self._k)
        hits_RK = ranking.hits(ranked_RK, self._requests.relevant)
        values = ranking.precision(hits_RK, self._k)
        return float(values.mean()) if len(values) else 0.0


def tune_als(history: Log, k: int = 10, *, seed: int = 0) -> Tuned:
    """Choose factors, regularization and alpha of `Als`, and fit it."""
    validation = Validation(history, k)
    tried: list[tuple[float, dict[str, float]]] = []
    for factors in ALS_FACTORS:
        for regularization in ALS_REGULARIZATION:
            for alpha in ALS_ALPHA:
                model = Als(factors=factors, regularization=regularization, alpha=alpha, seed=seed)
                model.fit(validation.earlier)
                settings = {"factors": factors, "regularization": regularization, "alpha": alpha}
                tried.append((validation.precision(model), settings))
    precision, best = _first_best(tried)
    chosen = Als(
        factors=int(best["factors"]),
        regularization=best["regularization"],
        alpha=best["alpha"],
        seed=seed,
    )
    chosen.fit(history)
    return Tuned(baseline=chosen, settings=best, precision=precision, num_tried=len(tried))


def tune_ease(history: Log, k: int = 10) -> tuple[Tuned, Tuned]:
    """Choose l2 of `Ease`, then the weight of live popularity beside it: (ease, blend)."""
    validation = Validation(history, k)
    models = {l2: Ease(l2) for l2 in EASE_L2}
    fit_each(list(models.values()), validation.earlier)
    tried: list[tuple[float, dict[str, float]]] = [
        (validation.precision(deepcopy(model)), {"l2": l2}) for l2, model in models.items()
    ]
    precision, best = _first_best(tried)
    ease = Ease(best["l2"])
    ease.fit(history)
    tuned = Tuned(baseline=ease, settings=best, precision=precision, num_tried=len(tried))
    return tuned, _tune_blend(tuned, deepcopy(ease), models[best["l2"]], validation, history)


def _tune_blend(
    tuned: Tuned, ease: Ease, earlier_ease: Ease, validation: Validation, history: Log
) -> Tuned:
    live, earlier_live = LivePopularity(), LivePopularity()
    live.fit(history)
    earlier_live.fit(validation.earlier)
    tried: list[tuple[float, dict[str, float]]] = []
    for weight in BLEND_WEIGHTS:
        blend = Blend(deepcopy(earlier_ease), deepcopy(earlier_live), weight)
        tried.append((validation.precision(blend), {**tuned.settings, "weight": weight}))
    precision, best = _first_best(tried)
    return Tuned(
        baseline=Blend(ease, live, best["weight"]),
        settings=best,
        precision=precision,
        num_tried=len(tried),
    )


def _first_best(
    tried: Sequence[tuple[float, dict[str, float]]],
) -> tuple[float, dict[str, float]]:
    """Return the highest precision and its settings; the first of equals."""
    return tried[int(np.argmax([precision for precision, _ in tried]))]
