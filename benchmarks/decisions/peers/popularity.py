"""Popularity with Thompson sampling: what is known of an item is its own rewards.

    mean_j = (m0 n0 + sum of rewards) / (n0 + n_j),   draw ~ N(mean_j, scale s^2 / (n0 + n_j))

m0 and s^2: mean and variance of all rewards so far. Kind "beta" draws from
Beta((n0 + n_j) mean_j / scale, (n0 + n_j) (1 - mean_j) / scale) instead, for rewards in [0, 1]
(Chapelle and Li 2011, An Empirical Evaluation of Thompson Sampling).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, World
from benchmarks.decisions.peers._common import Means, items_of, observed, top


class Popularity:
    """Sums of rewards by item."""

    def __init__(
        self, world: World, rng: np.random.Generator, *, kind: str, strength: float, scale: float
    ) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._beta = kind == "beta"
        self._strength = strength
        self._scale = scale
        self._means = Means(world, strength)

    def choose(self, batch: Batch) -> Choice:
        """Draw a mean of every candidate and show the highest."""
        items_BS = items_of(batch)
        mean_BS = self._means.of(items_BS)
        num_BS = self._strength + self._means.num_J[items_BS]
        return Choice(
            positions_BK=top(self._draw(mean_BS, num_BS), batch, self._num_slots, self._rng)
        )

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Add rewards to the sums."""
        self._means.add(observed(batch, choice, feedback))

    def _draw(self, mean_BS: Floats, num_BS: Floats) -> Floats:
        if self._beta:
            mean_BS, weight_BS = np.clip(mean_BS, 1e-4, 1 - 1e-4), num_BS / self._scale
            return self._rng.beta(weight_BS * mean_BS, weight_BS * (1 - mean_BS))
        deviation_BS = self._means.deviation * np.sqrt(self._scale / num_BS)
        drawn: Floats = mean_BS + deviation_BS * self._rng.normal(size=mean_BS.shape)
        return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class PopularityThompson:
    """Plays every world."""

    name: str = "popularity-thompson"
    grid: tuple[dict[str, object], ...] = (
        {"kind": "gaussian", "strength": 5.0, "scale": 0.1},
        {"kind": "gaussian", "strength": 5.0, "scale": 0.5},
        {"kind": "gaussian", "strength": 50.0, "scale": 0.5},
        {"kind": "gaussian", "strength": 500.0, "scale": 1.0},
        {"kind": "beta", "strength": 5.0, "scale": 0.3},
        {"kind": "beta", "strength": 100.0, "scale": 1.0},
    )

    def fits(self, world: World) -> bool:
        """Say yes."""
        return True

    def start(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        kind: str = "gaussian",
        strength: float = 5.0,
        scale: float = 0.1,
    ) -> Popularity:
        """Return an agent."""
        return Popularity(world, rng, kind=kind, strength=strength, scale=scale)


PEERS = (PopularityThompson(),)
