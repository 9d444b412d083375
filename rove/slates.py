"""Fill a slate slot by slot without replacement, and say how probable each choice was.

The propensity of a slot is the exact probability of its item given the slots before it, under the
distribution that was sampled from, so the product over the slots is the slate's. While fewer than
`max_explore_slots` slots differ from the greedy choice, a slot is sampled from the policy; after
that every slot is the greedy one, with propensity 1: both are functions of the slots before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.policies import Floats, Open, Policy, one_hot


@dataclass(frozen=True, slots=True, kw_only=True)
class Slates:
    """B slates of K slots over S candidates."""

    chosen_BK: npt.NDArray[np.intp]
    propensity_BK: npt.NDArray[np.float64]
    explored_BK: npt.NDArray[np.bool_]
    """Whether the item is another one than the greedy choice would have been."""


def fill(
    policy: Policy,
    mean_BS: Floats,
    deviation_BS: Floats,
    open_BS: Open,
    num_slots: int,
    rngs: Sequence[np.random.Generator],
    *,
    max_explore_slots: int,
) -> Slates:
    """Fill `num_slots` slots for each of B requests; each must have that many open candidates."""
    num_requests, _ = shape = mean_BS.shape
    assert num_requests == 0 or open_BS.sum(1).min() >= num_slots, (open_BS.sum(1), num_slots)
    open_BS = open_BS.copy()
    rows = np.arange(num_requests)
    chooser = policy.start(mean_BS, deviation_BS, rngs)
    coin_BK = np.array([rng.random(num_slots) for rng in rngs]).reshape(num_requests, num_slots)
    greedy_BS = np.where(open_BS, mean_BS, -np.inf)
    chosen_BK = np.empty((num_requests, num_slots), np.intp)
    propensity_BK = np.ones((num_requests, num_slots))
    explored_BK = np.zeros((num_requests, num_slots), bool)
    explorable_B = np.full(num_requests, max_explore_slots)
    for slot in range(num_slots):
        best_B = chosen_B = greedy_BS.argmax(1)
        if explorable_B.any():
            probability_BS = chooser.distribution(open_BS)
            exhausted_B = explorable_B == 0
            if exhausted_B.any():
                probability_BS[exhausted_B] = one_hot(best_B, shape)[exhausted_B]
            chosen_B = sample(probability_BS, coin_BK[:, slot])
            propensity_BK[:, slot] = probability_BS[rows, chosen_B]
        explored_BK[:, slot] = chosen_B != best_B
        explorable_B -= explored_BK[:, slot]
        chosen_BK[:, slot] = chosen_B
        open_BS[rows, chosen_B] = False
        greedy_BS[rows, chosen_B] = -np.inf
    return Slates(chosen_BK=chosen_BK, propensity_BK=propensity_BK, explored_BK=explored_BK)


def sample(
    probability_BS: npt.NDArray[np.float64], coin_B: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Return the candidate at which the cumulative probability passes the coin in [0, 1)."""
    cumulative_BS = probability_BS.cumsum(1)
    # Against rounding, the coin is a share of the row's own total: it always falls inside.
    passed_BS = cumulative_BS > (coin_B * cumulative_BS[:, -1])[:, None]
    return np.asarray(passed_BS.argmax(1))
