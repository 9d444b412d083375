"""What is stored of a user and what was learnt from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.ledger.records import History
from rove.records import ItemTaste, UserProfile

MAX_ITEMS = 100


def profile_of(
    user_id: str,
    history: History,
    release_id: str,
    items: list[ItemTaste],
    taste_D: npt.NDArray[np.float64],
) -> UserProfile:
    """Return the profile of a user with at least one stored interaction."""
    return UserProfile(
        user_id=user_id,
        num_interactions=len(history),
        first_at=float(history.timestamps[0]),
        last_at=float(history.timestamps[-1]),
        release=release_id,
        items=sorted(items, key=lambda item: -item.weight)[:MAX_ITEMS],
        taste_mean=taste_D.tolist(),
    )
