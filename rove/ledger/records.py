"""What the ledger gives and takes beside decisions and interactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from sqlalchemy import Row

from rove.events import Interaction, InteractionType

StoredStatus = Literal["accepted", "unattributed", "late"]
Floats = npt.NDArray[np.float64]


class StoredInteraction(Struct, frozen=True, kw_only=True):
    """An interaction as the ledger keeps it; `interaction.timestamp` is filled in."""

    interaction: Interaction
    reward: float
    status: StoredStatus
    received_at: float
    session: str | None = None
    """What happened together (an invoice, a visit), where a file says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All interactions of one user, oldest first: n parallel columns."""

    item_ids: list[str]
    rewards: Floats  # (n,)
    timestamps: Floats  # (n,), unix seconds
    event_ids: list[str | None]
    slots: list[int | None]
    types: list[str]

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """Rewards of items: n parallel columns."""

    item_ids: list[str]
    rewards: Floats  # (n,)
    timestamps: Floats  # (n,), unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Decayed sums per item, each as of its own time: n parallel columns."""

    item_ids: list[str]
    weight: Floats  # (n,)
    total: Floats  # (n,)
    as_of: Floats  # (n,), unix seconds
    revision: int = 0
    """The latest write these contain; 0 when there is none."""

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSums:
    """What the trials of n items add up to."""

    item_ids: list[str]
    sums_nV: Floats
    """(n, V); their meaning is that of `rove.shown.sums`."""
    revision: int = 0
    """The latest write these contain; 0 when there is none."""

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialParts:
    """What each of n trials added to the sums of its item, as few numbers: n parallel columns."""

    event_ids: list[str]
    user_ids: list[str]
    item_ids: list[str]
    parts_nW: Floats
    """(n, W); their meaning is that of `rove.shown.posterior`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How many rows an erasure removed."""

    num_decisions: int
    num_interactions: int
    num_trials: int = 0
    """What single slots had added to sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What is kept of an erasure."""

    erased: Erased
    erased_at: float
    release: str
    """In service then."""
    person: str = ""
    """See `rove.ledger.rights`."""


def stored_interaction(row: Row[Any]) -> StoredInteraction:
    """Return the record of a row of `interactions`."""
    fields: dict[str, Any] = {name: getattr(row, name) for name in Interaction.__struct_fields__}
    fields["type"] = InteractionType(row.type)
    return StoredInteraction(
        interaction=Interaction(**fields),
        reward=row.reward,
        status=row.status,
        received_at=row.received_at,
        session=row.session,
    )
