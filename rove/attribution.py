"""Whether an interaction answers the decision it names."""

from __future__ import annotations

from collections.abc import Mapping

from rove.errors import shown
from rove.events import Decision, Interaction
from rove.records import StoredStatus


def attribution(
    interaction: Interaction, decisions: Mapping[str, Decision]
) -> tuple[StoredStatus, str | None]:
    """Return the status an interaction is stored with, and the reason unless it is accepted."""
    if interaction.event_id is None:
        return "accepted", None
    decision = decisions.get(interaction.event_id)
    if decision is None:
        return "unattributed", f"there is no decision {shown(interaction.event_id)}"
    if decision.user_id != interaction.user_id:
        return "unattributed", "the decision was made for another user"
    slots = {slot.slot for slot in decision.slots if slot.item_id == interaction.item_id}
    if not slots:
        return "unattributed", f"the decision did not show {shown(interaction.item_id)}"
    if interaction.slot is not None and interaction.slot not in slots:
        return "unattributed", f"slot {interaction.slot} showed another item"
    if (interaction.timestamp or 0.0) >= decision.expires_at:
        return "late", "the decision had expired"
    return "accepted", None
