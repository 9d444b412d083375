"""Uniform choice: where the scale of the shares has its zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.interface import Agent, Batch, Choice, Feedback, World


class Random:
    """Chooses any open candidates."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._num_slots = world.num_slots
        self._rng = rng

    def choose(self, batch: Batch) -> Choice:
        """Take the first candidates of a random order."""
        key_BS = np.where(batch.open_BS, self._rng.random(batch.open_BS.shape), np.inf)
        return Choice(positions_BK=key_BS.argsort(1)[:, : self._num_slots])

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPeer:
    """Uniform choice."""

    name: str = "random"
    grid: tuple[dict[str, object], ...] = ({},)

    def fits(self, world: World) -> bool:
        """Say yes."""
        return True

    def start(self, world: World, rng: np.random.Generator, **settings: object) -> Agent:
        """Return an agent for one run."""
        return Random(world, rng)


PEERS = (RandomPeer(),)
