"""Decisions and their answers as trials: one item in one slot, and what it earned.

A slot that was answered has the reward of its answers. One that was not has the default reward,
once its decision has expired. A decision that was never shown (activated) teaches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.ledger.shown import Answer, Shown
from rove.rewards import RewardMap
from rove.users import is_observation

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one slot earned; `before` is what it counted with until now, None if not at all."""

    shown: Shown
    slot: int
    reward: float
    before: float | None = None

    @property
    def item_id(self) -> str:
        """The item that was shown."""
        return self.shown.item_ids[self.slot]


def reward_of(answers: Iterable[Answer], item_id: str, rewards: RewardMap) -> float | None:
    """Return what an item's slot earned by its answers, None if there are none that tell."""
    telling = [
        one for one in answers if one.item_id == item_id and is_observation(one.type, one.reward)
    ]
    if not telling:
        return None
    return rewards.aggregate([one.reward for one in telling], [one.timestamp for one in telling])


def trials_of(
    decided: Sequence[Shown], rewards: RewardMap, *, answered: bool = True, unanswered: bool = True
) -> list[Trial]:
    """Return the trials of the decisions that were shown."""
    trials = []
    for one in decided:
        if not one.is_active:
            continue
        for slot, item_id in enumerate(one.item_ids):
            reward = reward_of(one.answers, item_id, rewards)
            if reward is not None:
                if answered:
                    trials.append(Trial(shown=one, slot=slot, reward=reward))
            elif unanswered:
                trials.append(Trial(shown=one, slot=slot, reward=rewards.default))
    return trials


def vector_of(shown: Shown) -> Vectors | None:
    """Return the encoder's vector of the context's text, if it has one."""
    if shown.context_vector is None:
        return None
    return np.frombuffer(shown.context_vector, "<f2").astype(np.float32)
