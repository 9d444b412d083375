"""What deciding needs of a model: mean and deviation of the rewards of users with items.

`rove.scoring` is the one for implicit feedback, `rove.shown.scoring` the one for what was shown.

Shapes: B requests, J rows of the index, n rows asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rove.events import Explanation, RankRequest

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
TextVectors = Mapping[str, Vectors]
"""Texts of requests -> their vectors by the encoder."""


class Person(Protocol):
    """What is known of a user beside the scores."""

    @property
    def standing(self) -> Collection[int]:
        """Rows of the items that the user has earned something with."""
        ...


User = TypeVar("User", bound=Person)
Taste = TypeVar("Taste")
"""What is believed of a user in the context of one request."""
Part = TypeVar("Part")
"""What all requests of one turn share."""


class Scores(ABC, Generic[User, Taste, Part]):
    """Means and deviations, in units in which the posterior is drawn from."""

    @abstractmethod
    def tastes(
        self,
        users: Sequence[User],
        requests: Sequence[RankRequest],
        vectors: TextVectors,
        now_s: float,
    ) -> list[Taste]:
        """Return what is believed of the users in their requests' contexts."""

    @abstractmethod
    def item_part(self) -> Part:
        """Return what all requests share as of now."""

    @abstractmethod
    def read_part(self) -> Part:
        """Return the same for callers that read few rows of a large catalogue."""

    @abstractmethod
    def catalogue_means(self, part: Part, tastes: Sequence[Taste]) -> Vectors:
        """Return the mean of every row, (B, J)."""

    @abstractmethod
    def means(self, part: Part, taste: Taste, rows: Rows) -> Vectors:
        """Return the mean of some rows, (n,)."""

    @abstractmethod
    def deviations(self, part: Part, user: User, taste: Taste, rows: Rows) -> Vectors:
        """Return the exact standard deviation of some rows, (n,)."""

    @abstractmethod
    def rough_deviations(self, part: Part, user: User, taste: Taste, rows: Any) -> Vectors:
        """Return about the same, or exactly, of rows or a slice: to cut many rows to few."""

    @abstractmethod
    def expected(self, mean: Vectors) -> Vectors:
        """Return the rewards that means stand for."""

    @abstractmethod
    def explain(
        self, part: Part, user: User, taste: Taste, rows: Sequence[int]
    ) -> Sequence[Explanation]:
        """Split the means of some rows into terms."""


class Retriever(ABC, Generic[User, Taste]):
    """Finds few rows of a large catalogue; see `rove.shortlisting`."""

    @abstractmethod
    def side_rows(self) -> Rows:
        """Return the rows that every request gets."""

    @abstractmethod
    def rows(
        self, user: User, taste: Taste, closed: Rows, size: int, optimism: float, seed: int
    ) -> Rows | None:
        """Return the rows found for a request, at least `size`; else None."""
