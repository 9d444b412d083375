"""Rove's mixed model with its one default setting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.interface import Agent, Batch, Choice, Feedback, World
from rove.choosing import Policy
from rove.mixed.learner import MixedLearner
from rove.slates import fill
from rove.thompson import Thompson


class Rove:
    """A learner and a policy over its means and deviations."""

    def __init__(self, world: World, rng: np.random.Generator, policy: Policy) -> None:
        self._num_slots = world.num_slots
        self._policy = policy
        self._rng = rng
        self._learner = MixedLearner(
            world.text_JE,
            world.num_items,
            groups_J=world.groups_J,
            context_size=world.context_size,
            context_is_text=world.context_is_text,
            rng=rng,
        )

    def choose(self, batch: Batch) -> Choice:
        """Sample slates from the policy."""
        mean_BS, deviation_BS = self._learner.score(
            batch.users_B, batch.candidates_BS, batch.context_BQ
        )
        slates = fill(
            self._policy,
            mean_BS,
            deviation_BS,
            batch.open_BS,
            self._num_slots,
            self._rng,
            max_explore_slots=self._num_slots,
        )
        return Choice(
            positions_BK=slates.chosen_BK.astype(np.int64), propensity_BK=slates.propensity_BK
        )

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Learn every observed slot."""
        row, slot = np.nonzero(np.isfinite(feedback.reward_BK))
        self._learner.observe(
            batch.users_B[row],
            choice.items(batch)[row, slot],
            feedback.reward_BK[row, slot],
            None if batch.context_BQ is None else batch.context_BQ[row],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RovePeer:
    """The default: Thompson sampling, at a quarter of the deviation of what trials teach."""

    name: str = "rove"
    grid: tuple[dict[str, object], ...] = ({},)

    def fits(self, world: World) -> bool:
        """Say yes: one engine for all."""
        return True

    def start(self, world: World, rng: np.random.Generator, **settings: object) -> Agent:
        """Return an agent for one run."""
        strength = settings.get("strength", 0.25)
        assert isinstance(strength, float)
        return Rove(world, rng, Thompson(strength, 64))


PEERS = (RovePeer(),)
