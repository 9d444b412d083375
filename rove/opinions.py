"""What a policy says of slots that another one chose, or nobody: how probable they would have been.

The probabilities are those of `rove.ope.targets`, by the policy's own shortlist, scores and random
numbers: where a policy is asked about what it chose itself, they are the logged propensities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rove.choosing import Floats, Policy
from rove.events import Slot
from rove.item_index import ItemIndex, Rows
from rove.ope.targets import EMPTY, under_policy
from rove.slates import Penalty


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a policy would have chosen, and how probable what was shown would have been."""

    slots: list[Slot]
    shown: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The slots of a decision that another policy is asked about."""

    slots: list[Slot]
    is_given: bool
    """Whether nobody chose them: then all of them could have been chosen otherwise. Else those
    that filled up a slate where candidates were lacking are the same for every policy."""


def places_of(shown: Shown, rows: Rows, index: ItemIndex) -> list[int]:
    """Return where what was shown is among candidates, up to the first that is not there.

    `EMPTY` stands for what no policy chooses.
    """
    place_of = {row: place for place, row in enumerate(rows.tolist())}
    places = []
    for slot in shown.slots:
        if slot.reason == "baseline" and not shown.is_given:
            places.append(EMPTY)
            continue
        row = index.row(slot.item_id)
        if row is None or row not in place_of:
            break
        places.append(place_of[row])
    return places


def likelihood(
    policy: Policy,
    mean_1S: Floats,
    deviation_1S: Floats,
    places: list[int],
    seed: int,
    max_explore_slots: int,
    penalty: Penalty | None,
) -> list[float]:
    """Return the probability of each place given those before, by the numbers of a seed."""
    target = under_policy(
        policy,
        mean_1S,
        deviation_1S,
        None,
        np.array([places], np.intp),
        [np.random.Generator(np.random.PCG64(seed))],
        max_explore_slots=max_explore_slots,
        penalty=penalty,
    )
    found: list[float] = target.probability_NK[0].tolist()
    return found
