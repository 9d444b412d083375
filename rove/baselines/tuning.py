"""Tuning: settings are chosen on the end of the history, never on what they are judged by.

The latest share of the history is asked of models fitted to the rest, which see it (`live`) or not:
the setting with the highest precision@k wins, and a model with it is fitted to the whole history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from rove import ranking
from rove.baselines.als import Als
from rove.baselines.base import Baseline, Basket, Log
from rove.baselines.blend import Blend
from rove.baselines.bpr import Bpr
from rove.baselines.ease import Ease, fit_each
from rove.baselines.item_knn import ItemKnn
from rove.baselines.popularity import LivePopularity
from rove.baselines.replay import replay, requests_of
from rove.baselines.sasrec import Sasrec

VALIDATION_SHARE = 0.1

Grid = Mapping[str, Sequence[float]]

ALS: Grid = {"factors": (32, 64), "regularization": (3.0, 10.0), "alpha": (1.0, 3.0)}
BPR: Grid = {"factors": (32, 64), "learning_rate": (0.01, 0.05), "regularization": (0.01, 0.03)}
ITEM_KNN: Grid = {"neighbours": (50, 200, 800), "shrink": (0.0, 10.0, 100.0)}
SASREC: Grid = {"dropout": (0.2, 0.5)}
SASREC_EPOCHS = 30  # at most
SASREC_PATIENCE = 5  # epochs without a better one
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

    def __init__(
        self, history: Log, k: int = 10, share: float = VALIDATION_SHARE, *, live: bool = True
    ) -> None:
        self.history = history
        self.earlier, later = history.split(share)
        self._baskets: list[Basket] = later.baskets()
        self._relevant = requests_of(self.earlier, self._baskets).relevant
        self._k = k
        self._live = live

    def precision(self, fitted: Baseline) -> float:
        """Return the mean precision@k of a baseline fitted to `earlier`, which is used up if
        live."""
        ranked_RK = replay(fitted, self.earlier, self._baskets, self._k, live=self._live)
        hits_RK = ranking.hits(ranked_RK, self._relevant)
        values = ranking.precision(hits_RK, self._k)
        return float(values.mean()) if len(values) else 0.0


def tune(make: Callable[..., Baseline], grid: Grid, validation: Validation) -> Tuned:
    """Choose among all settings of the grid, and fit to the whole history."""
    tried: list[tuple[float, dict[str, float]]] = []
    for settings in _points(grid):
        model = make(**settings)
        model.fit(validation.earlier)
        tried.append((validation.precision(model), settings))
    precision, best = _first_best(tried)
    chosen = make(**best)
    chosen.fit(validation.history)
    return Tuned(baseline=chosen, settings=best, precision=precision, num_tried=len(tried))


def tune_als(history: Log, k: int = 10, *, seed: int = 0, live: bool = True) -> Tuned:
    """Choose factors, regularization and alpha of `Als`, and fit it."""
    return tune(partial(Als, seed=seed), ALS, Validation(history, k, live=live))


def tune_bpr(history: Log, k: int = 10, *, seed: int = 0, live: bool = True) -> Tuned:
    """Choose factors, learning rate and regularization of `Bpr`, and fit it."""
    return tune(partial(Bpr, seed=seed), BPR, Validation(history, k, live=live))


def tune_item_knn(history: Log, k: int = 10, *, live: bool = True) -> Tuned:
    """Choose neighbours and shrink of `ItemKnn`, and fit it."""
    return tune(ItemKnn, ITEM_KNN, Validation(history, k, live=live))


def tune_sasrec(history: Log, k: int = 10, *, seed: int = 0, live: bool = True) -> Tuned:
    """Choose the dropout of `Sasrec` and when to stop, and fit it."""
    validation = Validation(history, k, live=live)
    tried: list[tuple[float, dict[str, float]]] = []
    for settings in _points(SASREC):
        model, since = Sasrec(dropout=settings["dropout"], seed=seed), len(tried)
        for epoch in model.epochs(validation.earlier, SASREC_EPOCHS):
            asked = deepcopy(model) if live else model
            tried.append((validation.precision(asked), {**settings, "epochs": epoch}))
            best = int(np.argmax([precision for precision, _ in tried[since:]]))
            if epoch - 1 - best >= SASREC_PATIENCE:
                break
    precision, chosen = _first_best(tried)
    sasrec = Sasrec(dropout=chosen["dropout"], epochs=int(chosen["epochs"]), seed=seed)
    sasrec.fit(history)
    return Tuned(baseline=sasrec, settings=chosen, precision=precision, num_tried=len(tried))


def tune_ease(history: Log, k: int = 10, *, live: bool = True) -> tuple[Tuned, Tuned]:
    """Choose l2 of `Ease`, then the weight of live popularity beside it: (ease, blend)."""
    validation = Validation(history, k, live=live)
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


def _points(grid: Grid) -> Iterator[dict[str, float]]:
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
