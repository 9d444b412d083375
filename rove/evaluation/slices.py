"""Which visits and which items a figure is about.

Ranking   what is put in order, and which of it counts: all items, the warm ones, the cold ones,
          or all items where only the cold ones count
Slice     the requests of a ranking that have something to find: all, or by how many items a
          rival knew of the user
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.baselines.base import Profiles
from rove.evaluation.split import Split

Mask = npt.NDArray[np.bool_]

ALL = "all items"
WARM = "warm items"
COLD = "cold items"
COLD_AMONG_ALL = "cold items among all"
HISTORIES: dict[str, tuple[int, float]] = {
    "users with no history": (0, 0),
    "users with 1-2 items": (1, 2),
    "users with 3-10 items": (3, 10),
    "users with more than 10 items": (11, np.inf),
}
"""Slice -> fewest and most distinct items of the user, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What is put in order for every request."""

    name: str
    candidates_J: Mask
    counted_J: Mask
    """Relevant where taken; a subset of the candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one table is about."""

    name: str
    ranking: Ranking
    rows: npt.NDArray[np.int64]
    """Numbers of the requests, each with something relevant."""
    users: npt.NDArray[np.int64]
    """Theirs."""

    @property
    def num_users(self) -> int:
        """How many different users."""
        return len(np.unique(self.users))

    @property
    def num_candidates(self) -> int:
        """How many items are put in order, those that the user has included."""
        return int(self.ranking.candidates_J.sum())


def rankings_of(split: Split) -> list[Ranking]:
    """Return the rankings of every split; where no item is cold or none is warm, they are empty."""
    cold_J, all_J = split.cold_J, np.ones(split.num_items, bool)
    return [
        Ranking(name=ALL, candidates_J=all_J, counted_J=all_J),
        Ranking(name=WARM, candidates_J=~cold_J, counted_J=~cold_J),
        Ranking(name=COLD, candidates_J=cold_J, counted_J=cold_J),
        Ranking(name=COLD_AMONG_ALL, candidates_J=all_J, counted_J=cold_J),
    ]


def slices_of(split: Split, rankings: list[Ranking], *, live: bool) -> list[Slice]:
    """Return the slices that have a request.

    A rival knows of a user what is in the past, and if `live` also what came later before the
    request.
    """
    requests, past = split.requests, Profiles(split.history)
    known_R = np.array(
        [
            len(known if live else past.of(user))
            for known, user in zip(requests.known, requests.users.tolist(), strict=True)
        ]
    )
    whole = rankings[0]
    chosen = [
        (one.name, one, np.array([one.counted_J[items].any() for items in requests.relevant]))
        for one in rankings
    ]
    chosen += [
        (name, whole, (known_R >= fewest) & (known_R <= most))
        for name, (fewest, most) in HISTORIES.items()
    ]
    return [
        Slice(name=name, ranking=ranking, rows=rows, users=requests.users[rows])
        for name, ranking, of_slice in chosen
        if len(rows := np.flatnonzero(of_slice))
    ]
