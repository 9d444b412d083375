"""Fill a slate slot by slot without replacement, and say how probable each choice was.

The propensity of a slot is the exact probability of its item given the slots before it, under the
distribution that was sampled from, so the product over the slots is the slate's. While fewer than
`max_explore_slots` slots differ from the greedy choice, a slot is sampled from the policy; after
that every slot is the greedy one, with propensity 1. What diversity takes off the scores, and what
a mixture believes of its strength, are functions of the slots before as well, so nothing is
approximated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rove.choosing import (
    Chooser,
    Floats,
    Indices,
    Open,
    Policy,
    Probabilities,
    Source,
    coins,
    one_hot,
    penalised,
)
from rove.thompson import MixtureChooser


@dataclass(frozen=True, slots=True, kw_only=True)
class Slates:
    """B slates of K slots over S candidates."""

    chosen_BK: Indices
    propensity_BK: Probabilities
    explored_BK: Open
    """Whether the item is another one than the greedy choice would have been."""
    first_BS: Probabilities
    """What the first slot was chosen from, (B, S)."""
    weight_BG: Probabilities | None = None
    """Of a mixture over strengths: their probabilities given the slate."""


class Penalty(Protocol):
    """What diversity takes off the scores of one batch (`rove.diversity`)."""

    def after(self, chosen_B: Indices) -> Floats:
        """Return the penalty (B, S) of the next slot, now that `chosen_B` is in the one before."""
        ...


def fill(
    policy: Policy,
    mean_BS: Floats,
    deviation_BS: Floats,
    open_BS: Open | None,
    num_slots: int,
    rngs: Source,
    *,
    max_explore_slots: int,
    penalty: Penalty | None = None,
) -> Slates:
    """Fill `num_slots` slots for each of B requests; each must have that many open candidates.

    `open_BS`: None when all are. `rngs`: one generator per request, or one for the whole batch.
    """
    num_requests, num_candidates = mean_BS.shape
    assert num_slots <= num_candidates or num_requests == 0, (num_candidates, num_slots)
    chooser = policy.start(mean_BS, deviation_BS, rngs)
    coin_BK = coins(rngs, num_requests, num_slots)
    if num_slots == 1 and max_explore_slots > 0:
        return _single(chooser, mean_BS, open_BS, coin_BK)
    open_BS = np.ones(mean_BS.shape, bool) if open_BS is None else open_BS.copy()
    assert num_requests == 0 or open_BS.sum(1).min() >= num_slots, (open_BS.sum(1), num_slots)
    rows = np.arange(num_requests)
    chosen_BK = np.empty((num_requests, num_slots), np.intp)
    propensity_BK = np.ones((num_requests, num_slots))
    explored_BK = np.zeros((num_requests, num_slots), bool)
    explorable_B = np.full(num_requests, max_explore_slots)
    penalty_BS: Floats | None = None
    first_BS: Probabilities | None = None
    for slot in range(num_slots):
        best_B = chosen_B = penalised(mean_BS, open_BS, penalty_BS).argmax(1)
        may_explore_B = explorable_B > 0
        if may_explore_B.any():
            probability_BS = chooser.distribution(open_BS, penalty_BS)
            sampled_B = sample(probability_BS, coin_BK[:, slot])
            chosen_B = np.where(may_explore_B, sampled_B, best_B)
            propensity_BK[:, slot] = np.where(may_explore_B, probability_BS[rows, chosen_B], 1.0)
            if isinstance(chooser, MixtureChooser):
                chooser.chose(chosen_B, may_explore_B)
            if slot == 0:
                first_BS = probability_BS
        explored_BK[:, slot] = chosen_B != best_B
        explorable_B -= explored_BK[:, slot]
        chosen_BK[:, slot] = chosen_B
        open_BS[rows, chosen_B] = False
        if penalty is not None and slot + 1 < num_slots:
            penalty_BS = penalty.after(chosen_B)
    if first_BS is None:  # nothing was sampled
        first_BS = one_hot(chosen_BK[:, 0], mean_BS.shape) if num_slots else np.zeros(mean_BS.shape)
    weight_BG = chooser.weight_BG if isinstance(chooser, MixtureChooser) else None
    return Slates(
        chosen_BK=chosen_BK,
        propensity_BK=propensity_BK,
        explored_BK=explored_BK,
        first_BS=first_BS,
        weight_BG=weight_BG,
    )


def _single(
    chooser: Chooser, mean_BS: Floats, open_BS: Open | None, coin_B1: Probabilities
) -> Slates:
    """Fill one slot: as `fill`, without what only further slots need."""
    probability_BS = chooser.distribution(open_BS)
    chosen_B = sample(probability_BS, coin_B1[:, 0])
    best_B = penalised(mean_BS, open_BS, None).argmax(1)
    weight_BG = None
    if isinstance(chooser, MixtureChooser):
        chooser.chose(chosen_B, np.ones(len(chosen_B), bool))
        weight_BG = chooser.weight_BG
    return Slates(
        chosen_BK=chosen_B[:, None],
        propensity_BK=probability_BS[np.arange(len(chosen_B)), chosen_B][:, None],
        explored_BK=(chosen_B != best_B)[:, None],
        first_BS=probability_BS,
        weight_BG=weight_BG,
    )


def sample(
    probability_BS: npt.NDArray[np.float64], coin_B: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return the candidate at which the cumulative probability passes the coin in [0, 1)."""
    if len(coin_B) == 1:  # the same with fewer calls
        cumulative_S = np.add.accumulate(probability_BS[0])
        place = cumulative_S.searchsorted(coin_B[0] * cumulative_S[-1], side="right")
        return np.array([place])
    cumulative_BS = np.add.accumulate(probability_BS, axis=1)
    # Against rounding, the coin is a share of the row's own total: it always falls inside.
    passed_BS = cumulative_BS > (coin_B * cumulative_BS[:, -1])[:, None]
    chosen_B: npt.NDArray[np.intp] = passed_BS.argmax(1)
    return chosen_B
