"""Every figure of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rove import ranking
from rove.baselines.base import Ints
from rove.baselines.replay import Requests
from rove.demo.reading import Reading
from rove.demo.replay import Traffic
from rove.ranking import Floats, Interval

FROZEN = "Rove frozen"
LEARNING = "Rove learning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One recommender on the demo's requests."""

    name: str
    precision: Interval
    """hits / k, and its 95 % interval; users are resampled whole."""
    behind: Interval | None
    """Precision of Rove learning minus this one's, request by request; None for itself."""
    recall: float
    ndcg: float
    reciprocal_rank: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """One kind of HTTP call."""

    num_calls: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """The traffic of the replay."""

    requests_per_s: float
    """All calls over the whole duration, the client's own work included."""
    rank: Calls
    events: Calls
    outcomes: dict[str, int]
    num_retries: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What `--json` writes."""

    k: int
    release: str
    num_history: int
    """Interactions before the cut."""
    cut: str
    """ISO 8601."""
    num_invoices: int
    """Replayed."""
    num_requests: int
    """Replayed invoices with at least one product new to the customer: what is counted."""
    num_users: int
    """Of the counted requests."""
    rows: list[Row]
    reading: Reading
    """Which language model reads the items."""
    settings: dict[str, dict[str, float]]
    missing: dict[str, str]
    http: Http
    server: str
    """Base URL; up only with `--keep`."""
    plot: str | None
    """Path of the picture."""
    seconds: dict[str, float]
    """Step -> duration."""


def precisions(ranked: Mapping[str, Ints], requests: Requests, k: int) -> dict[str, Floats]:
    """Return hits / k per request (R,) of every recommender."""
    return {
        name: ranking.precision(ranking.hits(codes, requests.relevant), k)
        for name, codes in ranked.items()
    }


def make_rows(
    ranked: Mapping[str, Ints], requests: Requests, k: int, rng: np.random.Generator
) -> list[Row]:
    """Return a row per recommender; `ranked` (R, K) has one called `LEARNING`."""
    hits = {name: ranking.hits(codes, requests.relevant) for name, codes in ranked.items()}
    values = precisions(ranked, requests, k)
    num_relevant = np.array([len(items) for items in requests.relevant], np.int64)
    return [
        Row(
            name=name,
            precision=ranking.interval(values[name], rng, groups=requests.users),
            behind=None
            if name == LEARNING
            else ranking.paired_difference(
                values[LEARNING], values[name], rng, groups=requests.users
            ),
            recall=float(ranking.recall(hits_RK, num_relevant, k).mean()),
            ndcg=float(ranking.ndcg(hits_RK, num_relevant, k).mean()),
            reciprocal_rank=float(ranking.reciprocal_rank(hits_RK).mean()),
        )
        for name, hits_RK in hits.items()
    ]


def summary(traffic: Traffic) -> Http:
    """Return the figures of the replay's traffic."""
    num_calls = len(traffic.rank_s) + len(traffic.events_s)
    return Http(
        requests_per_s=num_calls / traffic.duration_s,
        rank=_calls(np.array(traffic.rank_s)),
        events=_calls(np.array(traffic.events_s)),
        outcomes=dict(traffic.outcomes),
        num_retries=traffic.num_retries,
        duration_s=traffic.duration_s,
    )


def _calls(durations_s: Floats) -> Calls:
    p50, p99 = np.quantile(durations_s, [0.5, 0.99]) * 1e3
    return Calls(num_calls=len(durations_s), p50_ms=float(p50), p99_ms=float(p99))
