"""Slots that earned nothing in time, where that has a reward other than 0, as interactions.

For implicit feedback: the model learns from what users do, and so from a default reward as if the
user had given it when the decision expired. It is not stored: it follows from the ledger's
decisions, and an answer that comes later takes it back.
"""

from __future__ import annotations

from collections.abc import Sequence

from rove.events import Interaction, InteractionType
from rove.ledger.ledger import StoredInteraction, Transaction
from rove.ledger.shown import Shown, up_to
from rove.rewards import RewardMap
from rove.shown.trials import reward_of, trials_of
from rove.users import is_observation


def defaults_of(decided: Sequence[Shown], rewards: RewardMap) -> list[StoredInteraction]:
    """Return the default rewards of decisions that have expired."""
    if not rewards.default:
        return []
    trials = trials_of(decided, rewards, answered=False)
    return [_default(one.shown, one.item_id, one.reward) for one in trials]


def replaced_by(
    stored: Sequence[StoredInteraction],
    transaction: Transaction,
    rewards: RewardMap,
    settled_s: float,
) -> list[StoredInteraction]:
    """Return the default rewards, settled by then, that new interactions take the place of."""
    if not rewards.default:
        return []
    answered = {
        (one.interaction.event_id, one.interaction.item_id)
        for one in stored
        if one.status != "unattributed" and is_observation(one.interaction.type, one.reward)
    }
    named = sorted({event_id for event_id, _ in answered if event_id is not None})
    expired = [one for one in transaction.shown(named) if one.expires_at <= settled_s]
    return [
        default
        for default in defaults_of(expired, rewards)
        if (default.interaction.event_id, default.interaction.item_id) in answered
    ]


def replaced_since(
    decided: Sequence[Shown], rewards: RewardMap, mark: int
) -> list[StoredInteraction]:
    """Return the default rewards of decisions that were answered after a number of `watermark`."""
    then = defaults_of([up_to(one, mark) for one in decided], rewards)
    answers = {one.event_id: one.answers for one in decided}
    return [
        one
        for one in then
        if (event_id := one.interaction.event_id) is not None
        and reward_of(answers[event_id], one.interaction.item_id, rewards) is not None
    ]


def _default(shown: Shown, item_id: str, reward: float) -> StoredInteraction:
    interaction = Interaction(
        interaction_id="",
        user_id=shown.user_id,
        item_id=item_id,
        type=InteractionType.REWARD,
        value=reward,
        timestamp=shown.expires_at,
        event_id=shown.event_id,
    )
    return StoredInteraction(
        interaction=interaction, reward=reward, status="accepted", received_at=shown.expires_at
    )
