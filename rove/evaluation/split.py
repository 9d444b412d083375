"""The past, and the later visits that rankings are judged by.

- Nothing of a later visit, and nothing of a cold item, is in the past.
- An item is cold when the past does not have it: by nature, or because it was drawn to be.
- Every later visit with something new to its user is a request; in a world where a cold item was
  never sold, its first later purchase is new to everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.baselines.base import Basket, Log
from rove.baselines.replay import Requests, requests_of
from rove.behaviour import Behaviour
from rove.errors import DataError, InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Behaviour of J items, cut in time."""

    past: Behaviour
    """What may be learnt from."""
    future: Behaviour
    cold_J: npt.NDArray[np.bool_]
    history: Log
    """The past as baselines take it."""
    baskets: list[Basket]
    """The later visits, in order of time, up to the last request."""
    requests: Requests

    @property
    def num_items(self) -> int:
        """J."""
        return len(self.cold_J)

    @classmethod
    def of(cls, past: Behaviour, future: Behaviour, *, max_requests: int | None = None) -> Split:
        """Take a cut as it is; at most the first `max_requests` later visits are requests."""
        if len(past) == 0:
            raise DataError("there is no interaction before the cut to learn from")
        history, baskets = log_of(past), log_of(future).baskets()
        requests = requests_of(history, baskets, max_requests)
        if len(requests) == 0:
            raise DataError(
                f"none of the {len(baskets):,} visits after the cut has an item new to its user; "
                "bring more history or hold more of it out"
            )
        return cls(
            past=past,
            future=future,
            cold_J=np.bincount(past.items, minlength=past.num_items) == 0,
            history=history,
            baskets=baskets[: int(requests.baskets[-1]) + 1],
            requests=requests,
        )

    @classmethod
    def in_time(
        cls,
        every: Behaviour,
        rng: np.random.Generator,
        *,
        share: float = 0.2,
        cold_share: float = 0.0,
        max_requests: int | None = None,
    ) -> Split:
        """Cut before the last `share` of the visits; draw each item to be cold by `cold_share`."""
        if not 0.0 < share < 1.0:
            raise InvalidInput(
                f"the share of later visits must be between 0 and 1, got {share}; try 0.2"
            )
        if not 0.0 <= cold_share < 1.0:
            raise InvalidInput(
                f"the share of cold items must be at least 0 and below 1, got {cold_share}; try 0.2"
            )
        if len(np.unique(every.users)) < 2:
            raise DataError(
                "there are interactions of one user at most; intervals resample users: "
                "bring at least two"
            )
        past, future = every.split(share)
        drawn_J = rng.random(every.num_items) < cold_share
        past = past.take(np.flatnonzero(~drawn_J[past.items]))
        return cls.of(past, future, max_requests=max_requests)


def log_of(behaviour: Behaviour) -> Log:
    """Return the interactions as the baselines take them; a visit is a session."""
    return Log(
        users=behaviour.users,
        items=behaviour.items,
        timestamps=behaviour.timestamps,
        sessions=behaviour.visits,
        num_users=behaviour.num_users,
        num_items=behaviour.num_items,
    )
