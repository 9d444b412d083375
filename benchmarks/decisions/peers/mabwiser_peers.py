"""MABWiser's LinUCB and LinTS: a ridge regression of each item on the request.

What a request looks like is that of `linear_disjoint`: 1, the standardised context and, where users
return, their mean residual and their taste for the text. MABWiser predicts for all items it has;
those that are not open are left out afterwards. It learns once per batch, and chooses uniformly
until there is a first reward. Its `partial_fit` copies the models of all items, and drops the
copies of those without rewards; here only the others learn, which changes no model.

Axes are those of `_common`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Ints, World
from benchmarks.decisions.peers._common import items_of, observed, top
from benchmarks.decisions.peers.linear_disjoint import RequestFeatures, width

MAX_WORK = 4e9
"""Requests x items x D^2 of a run; more takes minutes."""
MAX_PREDICTIONS = 1e7
"""Requests x items of a run, at 7 microseconds each in batches of 10."""


class MabWiser:
    """A MAB and what it is told of a request."""

    def __init__(self, world: World, rng: np.random.Generator, policy: LearningPolicy) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._features = RequestFeatures(world, rng)
        self._num_items = world.num_items
        self._mab = MAB(list(range(world.num_items)), policy, seed=int(rng.integers(1 << 30)))
        self._fitted = False
        self._x_BD = np.zeros((0, 0))

    def choose(self, batch: Batch) -> Choice:
        """Show the highest expectations, which contain the exploration."""
        self._x_BD = self._features.read(batch)
        items_BS = items_of(batch)
        score_BS = self._rng.random(items_BS.shape)
        if self._fitted:
            score_BS = np.take_along_axis(self._expectations(), items_BS, 1)
        return Choice(positions_BK=top(score_BS, batch, self._num_slots, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Fit to the batch's rewards, less the overall mean."""
        seen = observed(batch, choice, feedback)
        if len(seen):
            residual_N = seen.reward_N - self._features.mean
            self._learn(seen.items_N, residual_N, self._x_BD[seen.rows_N])
        self._features.add(batch, choice, feedback)

    def _learn(self, items_N: Ints, residual_N: Floats, x_ND: Floats) -> None:
        if not self._fitted:
            self._mab.partial_fit(items_N, residual_N, x_ND)
            self._fitted = True
            return
        for item in np.unique(items_N).tolist():
            self._mab._imp._fit_arm(item, items_N, residual_N, x_ND)

    def _expectations(self) -> Floats:
        """Return expectations of all items, (B, J)."""
        predicted = self._mab.predict_expectations(self._x_BD)
        rows = predicted if isinstance(predicted, list) else [predicted]
        every = range(self._num_items)
        return np.array([[row[item] for item in every] for row in rows], np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Plays worlds with few enough items and requests."""

    name: str
    explore: Literal["ucb", "ts"]
    grid: tuple[dict[str, object], ...]

    def fits(self, world: World) -> bool:
        """Refuse runs that would take more than about a minute."""
        predictions = float(world.num_requests) * world.num_items
        return predictions <= MAX_PREDICTIONS and predictions * width(world) ** 2 <= MAX_WORK

    def start(
        self, world: World, rng: np.random.Generator, *, alpha: float = 0.1, ridge: float = 1.0
    ) -> MabWiser:
        """Return an agent."""
        if self.explore == "ucb":
            return MabWiser(world, rng, LearningPolicy.LinUCB(alpha=alpha, l2_lambda=ridge))
        return MabWiser(world, rng, LearningPolicy.LinTS(alpha=alpha, l2_lambda=ridge))


def _grid(*alphas: float) -> tuple[dict[str, object], ...]:
    ridges = (1.0, 10.0, 300.0)
    return tuple({"alpha": alpha, "ridge": ridge} for alpha in alphas for ridge in ridges)


PEERS = (
    Linear(name="mabwiser-linucb", explore="ucb", grid=_grid(0.03, 0.1)),
    Linear(name="mabwiser-lints", explore="ts", grid=_grid(0.01, 0.05)),
)
