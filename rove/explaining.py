"""Why an item has its score: one term per past item of the user, and nothing left over.

The posterior mean is linear in the rewards, so a score is the item mean, the prior's part and a sum
over the past: exact, not an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.events import Explanation

Array = npt.NDArray[np.float64]

MAX_ITEMS = 20
"""Past items that are named; the rest are summed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """What each of p past events adds to the mean of a user's taste; items may come twice."""

    rows: Sequence[int]
    terms_pD: Array


def explained(
    ids: Sequence[str],
    item_means: Sequence[float],
    features_nD: Array,
    taste_D: Array,
    influence: Influence,
) -> list[Explanation]:
    """Split n scores `item_mean + features . taste`; `ids` are those of all rows."""
    # An item may be both liked and disliked: one term for each item.
    past, item_of = np.unique(np.array(influence.rows, np.intp), return_inverse=True)
    influence_pD = np.zeros((len(past), len(taste_D)))
    np.add.at(influence_pD, item_of, influence.terms_pD)
    history_np = features_nD @ influence_pD.T
    prior_n = features_nD @ (taste_D - influence_pD.sum(0))
    explanations = []
    for n, item_mean in enumerate(item_means):
        order = np.argsort(-np.abs(history_np[n]), kind="stable")
        named = order[:MAX_ITEMS].tolist()
        explanations.append(
            Explanation(
                item_mean=item_mean,
                prior=float(prior_n[n]),
                history={ids[past[p]]: float(history_np[n, p]) for p in named},
                other=float(history_np[n, order[MAX_ITEMS:]].sum()),
            )
        )
    return explanations
