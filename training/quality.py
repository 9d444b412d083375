"""How well a model ranks what came later, beside popularity and ALS on the same requests.

A use of rove.evaluation: all rivals see each held-out visit after they have ranked for it, and are
tuned on the end of the same past. `training.evaluate` says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rove import ranking
from rove.baselines.base import Baseline
from rove.baselines.popularity import LivePopularity, RecentPopularity
from rove.baselines.tuning import tune_als
from rove.behaviour import Behaviour
from rove.config import Config
from rove.errors import InvalidInput
from rove.evaluation import measuring
from rove.evaluation.learned import LearnedRanking as LearnedRanking
from rove.evaluation.slices import ALL
from rove.evaluation.split import Split
from rove.evaluation.split import log_of as log_of
from rove.learning import learn
from rove.model import Vectors

MAX_VISITS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Measures by name of the ranking, each with its 95 % interval."""

    num_requests: int
    measures: Mapping[str, Mapping[str, ranking.Interval]]
    missing: Mapping[str, str]
    """Rivals that did not run, and why."""

    def metrics(self) -> dict[str, Any]:
        """Return plain numbers for `release.yaml`."""
        return {
            "num_requests": self.num_requests,
            **{
                name: {measure: round(one.mean, 5) for measure, one in measures.items()}
                for name, measures in self.measures.items()
            },
        }

    def table(self) -> str:
        """Return the measures as lines of text."""
        names = list(next(iter(self.measures.values())))
        lines = [f"{self.num_requests:,} visits" + "".join(f"{name:>24}" for name in names)]
        for name, measures in self.measures.items():
            cells = [f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]" for one in measures.values()]
            lines.append(f"{name:22}" + "".join(f"{cell:>24}" for cell in cells))
        lines += [f"{name}: {why}" for name, why in self.missing.items()]
        return "\n".join(lines)


def measure(past: Behaviour, future: Behaviour, embeddings_JE: Vectors, config: Config) -> Quality:
    """Learn from `past` and rank for at most the first 2,000 useful visits of `future`."""
    split, seed = Split.of(past, future, max_requests=MAX_VISITS), config.training.seed
    rivals: dict[str, Baseline] = {
        "popularity, 28 days": RecentPopularity(28.0),
        "live popularity": LivePopularity(7.0),
    }
    for rival in rivals.values():
        rival.fit(split.history)
    missing: dict[str, str] = {}
    try:
        rivals["implicit ALS"] = tune_als(split.history, seed=seed).baseline
    except InvalidInput as error:
        missing["implicit ALS"] = error.detail
    rivals["Rove"] = LearnedRanking(learn(past, embeddings_JE, config.training), past)
    result = measuring.measure(split, rivals, live=True, seed=seed)
    whole = result.slice(ALL)
    measures = {}
    for name in rivals:
        found = result.intervals(name, whole)
        measures[name] = {measure: found[measure] for measure in measuring.MEASURES}
    return Quality(num_requests=len(split.requests), measures=measures, missing=missing)
