"""The rights of the people in the ledger: to be told, and to be forgotten.

Erasing deletes a person's rows and takes the person's share out of the item statistics since the
release, in one transaction; other shards follow as with every write. Event time does not go back.
What the release in service was learnt from is not taken back: the next one is learnt without.
"""

from __future__ import annotations

from msgspec import structs

from rove.errors import InvalidInput, NotFound, shown
from rove.event_ids import new_event_id
from rove.ledger.export import NUM_ROWS
from rove.ledger.ledger import Ledger, Receipt
from rove.ledger.rights import is_of
from rove.records import Erasure, UserExport
from rove.shown.view import ShownView
from rove.view import View


def erase(ledger: Ledger, view: View | ShownView, user_id: str, now_s: float) -> Erasure:
    """Delete all rows of a user, take back what was counted of them, and keep a receipt."""
    erasure_id = new_event_id(ledger.shard)
    release = view.release.id
    with ledger.transaction() as transaction:
        forget = view.erase(transaction, user_id)
        erased = transaction.erase_user(user_id)
        transaction.empty_sums(release)
        receipt = Receipt(erased=erased, erased_at=now_s, release=release)
        transaction.put_receipt(erasure_id, user_id, receipt)
    forget()
    return _erasure(erasure_id, user_id, receipt)


def erasure(ledger: Ledger, erasure_id: str, user_id: str | None) -> Erasure:
    """Return a receipt; with a user, only if it is of that user."""
    receipt = ledger.receipt(erasure_id)
    if receipt is None:
        raise NotFound(f"there is no erasure {shown(erasure_id)}")
    if user_id is not None and not is_of(receipt, erasure_id, user_id):
        raise NotFound(f"erasure {shown(erasure_id)} is not of this user; check user_id")
    return _erasure(erasure_id, user_id, receipt)


def export(ledger: Ledger, view: View | ShownView, user_id: str, after: str | None) -> UserExport:
    """Return a page of what is held of a user; `after` is the `next` of the page before."""
    sequence, event_id = _place(after)
    decisions, interactions, last = ledger.export(user_id, sequence, event_id)
    profile = None
    if after is None:
        history = ledger.history(user_id)
        if not decisions and len(history) == 0:
            raise NotFound(f"nothing is stored of user {shown(user_id)}")
        profile = view.profile(user_id, history) if len(history) else None
    is_last = max(len(decisions), len(interactions)) < NUM_ROWS
    last_id = decisions[-1].decision.event_id if decisions else event_id
    return UserExport(
        user_id=user_id,
        profile=profile,
        decisions=list(decisions),
        interactions=interactions,
        next=None if is_last else f"{last}.{last_id}",
    )


def told(page: UserExport, user_id: str) -> UserExport:
    """Return a page that names its user as the caller does."""
    if page.user_id == user_id:
        return page
    profile = page.profile and structs.replace(page.profile, user_id=user_id)
    decisions = [
        structs.replace(one, decision=structs.replace(one.decision, user_id=user_id))
        for one in page.decisions
    ]
    interactions = [
        structs.replace(one, interaction=structs.replace(one.interaction, user_id=user_id))
        for one in page.interactions
    ]
    return structs.replace(
        page, user_id=user_id, profile=profile, decisions=decisions, interactions=interactions
    )


def _place(after: str | None) -> tuple[int, str]:
    if after is None:
        return 0, ""
    sequence, point, event_id = after.partition(".")
    if not point or not sequence.isdecimal() or not sequence.isascii() or len(sequence) > 18:
        raise InvalidInput(f"after must be the next of a page, got {shown(after)}", field="after")
    return int(sequence), event_id


def _erasure(erasure_id: str, user_id: str | None, receipt: Receipt) -> Erasure:
    release = receipt.release
    return Erasure(
        erasure_id=erasure_id,
        user_id=user_id,
        erased_at=receipt.erased_at,
        num_decisions=receipt.erased.num_decisions,
        num_interactions=receipt.erased.num_interactions,
        num_trials=receipt.erased.num_trials,
        release=release,
        remains=f"Nothing that names the person. The parameters of release {release}, and of one "
        "that was being learnt at that moment, may come from interactions of the person among "
        "those of all others; releases learnt later do not. Releases that are kept for going back "
        "are deleted in turn, backups are the operator's.",
    )
