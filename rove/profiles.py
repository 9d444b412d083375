"""What is stored of a user and what was learnt from it."""

from __future__ import annotations

from rove.ledger.records import History
from rove.records import ItemTaste, UserProfile
from rove.view import View

MAX_ITEMS = 100


def profile_of(user_id: str, history: History, view: View) -> UserProfile:
    """Return the profile of a user with at least one stored interaction."""
    user, half_life_s = view.users.get(user_id), view.release.model.taste_half_life_s
    scale = user.decay(view.now_s, half_life_s)
    items = [
        ItemTaste(
            item_id=view.index.ids[row],
            reward=pair[0],
            timestamp=pair[1],
            weight=scale * user.weight(pair, half_life_s),
        )
        for row, pair in user.standing.items()
    ]
    items.sort(key=lambda item: -item.weight)
    return UserProfile(
        user_id=user_id,
        num_interactions=len(history),
        first_at=float(history.timestamps[0]),
        last_at=float(history.timestamps[-1]),
        release=view.release.id,
        items=items[:MAX_ITEMS],
        taste_mean=view.scorer.taste(user, view.now_s).mean_D.tolist(),
    )
