"""The baselines on the demo's invoices, in exact order of time.

They see every purchase before the request, where Rove over HTTP may miss those of the few invoices
in flight: the small advantage is theirs. Live popularity decays with a half-life of 7 days; ALS and
EASE follow every user's purchases through the replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rove.baselines.base import Baseline, Ints
from rove.baselines.popularity import LivePopularity, RecentPopularity
from rove.baselines.random import Random
from rove.baselines.replay import replay
from rove.baselines.tuning import Tuned, tune_als, tune_ease
from rove.demo.split import Shop
from rove.errors import InvalidInput

RANDOM = "random"
POPULARITY = "popularity, 28 days"
LIVE_POPULARITY = "live popularity"
ALS = "implicit ALS"
EASE = "EASE"
BLEND = "EASE + live popularity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """What the baselines ranked, and with which settings."""

    ranked: dict[str, Ints]
    """Name -> item codes (R, K)."""
    settings: dict[str, dict[str, float]]
    """Name -> what was chosen on the end of the history."""
    missing: dict[str, str]
    """Name -> why it is not there."""


def rank_rivals(shop: Shop, k: int, rng: np.random.Generator, say: Callable[[str], None]) -> Rivals:
    """Fit, tune and replay every baseline; `say` is told which one is under way."""
    settings: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    ranked: dict[str, Ints] = {}

    def add(name: str, fitted: Baseline) -> None:
        say(name)
        ranked[name] = replay(fitted, shop.history, shop.baskets, k)

    def add_tuned(name: str, tuned: Tuned) -> None:
        settings[name] = tuned.settings
        add(name, tuned.baseline)

    simple: dict[str, Baseline] = {
        RANDOM: Random(rng),
        POPULARITY: RecentPopularity(28.0),
        LIVE_POPULARITY: LivePopularity(7.0),
    }
    for name, baseline in simple.items():
        baseline.fit(shop.history)
        add(name, baseline)
    say("tuning implicit ALS")
    try:
        add_tuned(ALS, tune_als(shop.history, k))
    except InvalidInput as error:
        missing[ALS] = error.detail
    say("tuning EASE")
    ease, blend = tune_ease(shop.history, k)
    add_tuned(EASE, ease)
    add_tuned(BLEND, blend)
    return Rivals(ranked=ranked, settings=settings, missing=missing)
