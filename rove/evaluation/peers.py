"""The peers that Rove is measured beside, each tuned on the end of the same past.

- Each gets what a practitioner would give it: tuned settings, and popularity for users it knows
  nothing of.
- What needs a package that is not installed is missing, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rove.baselines.base import Baseline, Log
from rove.baselines.content import Content
from rove.baselines.fallback import Fallback
from rove.baselines.popularity import LivePopularity, RecentPopularity
from rove.baselines.tuning import (
    Tuned,
    tune_als,
    tune_bpr,
    tune_ease,
    tune_item_knn,
    tune_sasrec,
)
from rove.errors import InvalidInput
from rove.evaluation.split import Split
from rove.model import Vectors

MAX_EASE_ITEMS = 20_000

POPULARITY = "popularity, 28 days"
LIVE = "popularity, half-life 7 days"
ALS, BPR, ITEM_KNN = "implicit ALS", "implicit BPR", "item-kNN"
EASE, BLEND = "EASE", "EASE + popularity"
SASREC, CONTENT = "SASRec", "frozen content"
PEERS = (POPULARITY, LIVE, ALS, BPR, ITEM_KNN, EASE, BLEND, SASREC, CONTENT)
_KNOW_USERS_ONLY = (ALS, BPR, ITEM_KNN, EASE, CONTENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Fitted rivals by name, how they were set, and those that did not run."""

    rivals: Mapping[str, Baseline]
    settings: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]
    """Name -> why."""


def fit_peers(
    split: Split,
    embeddings_JE: Vectors,
    names: Sequence[str] = PEERS,
    *,
    seed: int = 0,
    live: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Peers:
    """Tune and fit peers on the split's past; `embeddings_JE` are the frozen encoder's.

    `live` says how they are going to be measured, which is how they are tuned.
    """
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise InvalidInput(f"there is no peer {unknown[0]!r}; there are: {'; '.join(PEERS)}")
    rivals: dict[str, Baseline] = {}
    settings: dict[str, Mapping[str, float]] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name in rivals or name in missing:
            continue  # came with another
        start = time.perf_counter()
        try:
            for found, tuned in _fitted(name, split.history, embeddings_JE, seed, live):
                rivals[found] = tuned.baseline
                settings[found] = tuned.settings
        except InvalidInput as error:
            missing[name] = error.detail
            say(f"{name}: left out: {error.detail}")
            continue
        say(f"{name}: {_words(settings[name])}in {time.perf_counter() - start:.1f} s")
    return Peers(
        rivals={name: rivals[name] for name in PEERS if name in rivals and name in names},
        settings=settings,
        missing=missing,
    )


def _fitted(
    name: str, history: Log, embeddings_JE: Vectors, seed: int, live: bool
) -> Iterator[tuple[str, Tuned]]:
    if name in (EASE, BLEND):
        if history.num_items > MAX_EASE_ITEMS:
            raise InvalidInput(
                f"EASE inverts a matrix of all items; the catalogue has {history.num_items:,} of "
                f"them, more than {MAX_EASE_ITEMS:,}"
            )
        ease, blend = tune_ease(history, live=live)
        yield EASE, _backed(ease, history)
        yield BLEND, blend
        return
    makers: dict[str, Callable[[], Tuned]] = {
        POPULARITY: lambda: _as_it_is(RecentPopularity(28.0), history),
        LIVE: lambda: _as_it_is(LivePopularity(7.0), history),
        ALS: lambda: tune_als(history, seed=seed, live=live),
        BPR: lambda: tune_bpr(history, seed=seed, live=live),
        ITEM_KNN: lambda: tune_item_knn(history, live=live),
        SASREC: lambda: tune_sasrec(history, seed=seed, live=live),
        CONTENT: lambda: _as_it_is(Content(embeddings_JE), history),
    }
    tuned = makers[name]()
    yield name, _backed(tuned, history) if name in _KNOW_USERS_ONLY else tuned


def _as_it_is(baseline: Baseline, history: Log) -> Tuned:
    baseline.fit(history)
    return Tuned(baseline=baseline, settings={}, precision=float("nan"), num_tried=1)


def _backed(tuned: Tuned, history: Log) -> Tuned:
    """Answer users without items with popularity."""
    popularity = RecentPopularity(28.0)
    popularity.fit(history)
    backed = Fallback(tuned.baseline, popularity)
    backed.know(history)
    return replace(tuned, baseline=backed)


def _words(settings: Mapping[str, float]) -> str:
    return "".join(f"{key} {value:g}, " for key, value in settings.items())
