"""Whether an adapter is worth having: the model with it beside the model without.

Both are learnt from the part of the behaviour that adaptation trains on (`adapt.validation_share`
is left out) and rank the same later visits, each learning from a visit once it has ranked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rove import ranking
from rove.behaviour import Behaviour
from rove.config import Config
from rove.errors import DataError
from rove.evaluation import measuring
from rove.evaluation.learned import LearnedRanking
from rove.evaluation.slices import ALL
from rove.evaluation.split import Split
from rove.learning import learn
from rove.model import Vectors
from rove.release import ADAPTED_NDCG, FROZEN_NDCG
from rove.user_blocks import Spread, here

MAX_VISITS = 2000
_MEASURE = measuring.MEASURES[0]  # NDCG@10
_ADAPTED, _FROZEN = "adapted", "frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """NDCG@10 of both."""

    num_visits: int
    adapted: float
    frozen: float
    ahead: ranking.Interval
    """Adapted minus frozen, paired by visit."""

    @property
    def is_better(self) -> bool:
        """Whether the adapter is to be used."""
        return self.adapted > self.frozen

    def line(self) -> str:
        """Say it in a line."""
        verb = "is" if self.is_better else "is not"
        return (
            f"the adapter {verb} used: NDCG@10 {self.adapted:.4f} with it, {self.frozen:.4f} "
            f"without, on {self.num_visits:,} held-out visits (difference {self.ahead.mean:+.4f} "
            f"[{self.ahead.low:+.4f}, {self.ahead.high:+.4f}])"
        )

    def metrics(self) -> dict[str, float]:
        """Return plain numbers for `release.yaml`."""
        return {ADAPTED_NDCG: round(self.adapted, 5), FROZEN_NDCG: round(self.frozen, 5)}


def compare(
    behaviour: Behaviour,
    adapted_JE: Vectors,
    frozen_JE: Vectors,
    config: Config,
    spread: Spread = here,
) -> Comparison | None:
    """Compare two readings of the catalogue; None where there is too little to rank for."""
    past, future = behaviour.split(config.adapt.validation_share)
    try:
        split = Split.of(past, future, max_requests=MAX_VISITS)
    except DataError:
        return None
    rivals = {
        name: LearnedRanking(learn(past, vectors_JE, config.training, spread=spread), past)
        for name, vectors_JE in ((_ADAPTED, adapted_JE), (_FROZEN, frozen_JE))
    }
    result = measuring.measure(split, rivals, live=True, seed=config.training.seed)
    whole = result.slice(ALL)
    return Comparison(
        num_visits=len(split.requests),
        adapted=float(result.values(_ADAPTED, whole, _MEASURE).mean()),
        frozen=float(result.values(_FROZEN, whole, _MEASURE).mean()),
        ahead=result.difference(_ADAPTED, _FROZEN, whole, _MEASURE),
    )
