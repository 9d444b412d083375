"""What the ledger gives and takes beside decisions and interactions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.records import StoredInteraction as StoredInteraction
from rove.records import StoredStatus as StoredStatus

Floats = npt.NDArray[np.float64]


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
