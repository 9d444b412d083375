"""What vectors are worth where they are served: a release is learnt from them, and ranks what came
later.

    value = (NDCG@10 of what was taken + NDCG@10 of the new items among it, by new items alone) / 2

- Some items are new because they are held out: nothing that was done with them is trained on.
- Half-lives and gains of the releases are those that the vectors before training call for, so that
  nothing but the vectors differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.adaptation.episodes import History
from rove.config import TrainingSection
from rove.evaluation.learned import LearnedRanking
from rove.evaluation.measuring import measure
from rove.evaluation.slices import ALL, COLD
from rove.evaluation.split import Split
from rove.learning import learn
from rove.model import RewardModel, Vectors

HELD_OUT_SHARE = 0.1
"""Of the items."""
MAX_VISITS = 2000
_NDCG = "NDCG@10"
_RIVAL = "vectors"
_OTHER_STREAM = 11  # of the seed; the epochs have their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """NDCG@10 of a release learnt from the vectors."""

    overall: float
    cold: float
    """Of new items among new items; zero where none was taken."""

    @property
    def value(self) -> float:
        """What an epoch is chosen by."""
        return (self.overall + self.cold) / 2.0


def held_out(history: History, seed: int) -> npt.NDArray[np.bool_]:
    """Draw the items that nothing is trained on; none where too little would be left."""
    rng = np.random.default_rng((seed, _OTHER_STREAM))
    drawn_J = rng.random(history.num_items) < HELD_OUT_SHARE
    return drawn_J if len(history.without(drawn_J)) else np.zeros(history.num_items, bool)


class AsServed:
    """Asks vectors for what they are worth."""

    def __init__(
        self, history: History, validation: History, before_JE: Vectors, section: TrainingSection
    ) -> None:
        """`history` is what is trained on; `before_JE` are the vectors before training."""
        every, past = validation.behaviour, history.behaviour
        starts_s = every.timestamps[every.visit_starts()]
        self._split = Split.of(
            past, every.take(starts_s >= validation.since_s), max_requests=MAX_VISITS
        )
        self._before_JE, self._section = before_JE, section
        self._calibrated: RewardModel | None = None

    def __call__(self, vectors_JE: Vectors) -> Served:
        """Learn a release, and rank."""
        past = self._split.past
        if self._calibrated is None:
            self._calibrated = learn(past, self._before_JE, self._section).model
        learned = learn(past, vectors_JE, self._section, calibrated=self._calibrated)
        result = measure(self._split, {_RIVAL: LearnedRanking(learned, past)})
        found = {one.name: result.values(_RIVAL, one, _NDCG).mean() for one in result.slices}
        return Served(overall=float(found[ALL]), cold=float(found.get(COLD, 0.0)))
