"""Why an item has its score: one term per past item of the user, and nothing left over.

The posterior mean is linear in the rewards, so a score is the item mean, the prior's part and a sum
over the past: exact, not an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rove.events import Explanation
from rove.item_index import ItemIndex
from rove.scoring import Part, Scorer
from rove.users import Taste, User

MAX_ITEMS = 20
"""Past items that are named; the rest are summed up."""


def explain(
    index: ItemIndex,
    scorer: Scorer,
    part: Part,
    user: User,
    taste: Taste,
    rows: Sequence[int],
) -> list[Explanation]:
    """Split the scores of some rows; the terms of each sum to its score."""
    gain = scorer.model.taste_gain
    features_nD = index.features(rows).astype(np.float64)
    every, terms = scorer.influence(user, taste)
    # An item may be both liked and disliked: one term for each item.
    past, item_of = np.unique(np.array(every, np.intp), return_inverse=True)
    influence_pD = np.zeros((len(past), len(taste.mean_D)))
    np.add.at(influence_pD, item_of, terms)
    history_np = gain * (features_nD @ influence_pD.T)
    prior_n = gain * (features_nD @ (taste.mean_D - influence_pD.sum(0)))
    explanations = []
    for n, row in enumerate(rows):
        order = np.argsort(-np.abs(history_np[n]), kind="stable")
        named = order[:MAX_ITEMS].tolist()
        history = {index.ids[past[p]]: float(history_np[n, p]) for p in named}
        explanations.append(
            Explanation(
                item_mean=float(part.mean_J[row]),
                prior=float(prior_n[n]),
                history=history,
                other=float(history_np[n, order[MAX_ITEMS:]].sum()),
            )
        )
    return explanations
