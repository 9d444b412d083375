"""Always the best items, by their values in hindsight: what choice without any learning can earn.

It is told each item's mean value over the whole run, so it is a mark on the scale and no rival.
Where users get no item twice it goes down the ranking; a slate is the top of it. Where an item was
a candidate of few users, their own rewards are most of its mean, which flatters it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Run, World
from benchmarks.decisions.peers._common import items_of, top


class Fixed:
    """Values of the items, told once."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._values_J: Floats = np.zeros(world.num_items)

    def inform(self, run: Run) -> None:
        """Read the run's values."""
        values_J = run.item_values_J()
        assert values_J is not None, "items that do not stay have no value for the whole run"
        self._values_J = values_J

    def choose(self, batch: Batch) -> Choice:
        """Show the open items of the highest values."""
        score_BS = self._values_J[items_of(batch)]
        return Choice(positions_BK=top(score_BS, batch, self._num_slots, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestFixed:
    """Plays worlds whose items stay."""

    name: str = "best-fixed"
    grid: tuple[dict[str, object], ...] = ({},)

    def fits(self, world: World) -> bool:
        """Refuse items that come and go in groups: the best of each group is the oracle's."""
        return world.groups_J is None

    def start(self, world: World, rng: np.random.Generator, **settings: object) -> Fixed:
        """Return an agent for one run."""
        return Fixed(world, rng)


PEERS = (BestFixed(),)
