"""Which items of a large catalogue reach the policy, without scoring them all.

    rove.retrieval    the index that comes with the release
    rove.scoring      exact scores of what it finds

A request's rows are the union of

- what the index finds for its mean taste, for its optimistic score and, if the policy explores, for
  tastes drawn from the user's posterior;
- all items that were added since the index was built;
- the items whose mean has risen most since.

- Rows are a function of the state and the request's seed, never of other requests beside it.
- `None` means that all items are to be scored: a slate that asks for much of the catalogue, or an
  index that found too little that may be shown.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from rove.item_index import ItemIndex, Rows
from rove.retrieval import NUM_DEVIATION_COLUMNS, MaxProductIndex, RowSet, is_installed
from rove.scores import Retriever
from rove.scoring import Scorer
from rove.users import Taste, User

Vectors = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

NUM_DRAWS = 2
_NUM_RISEN = 256
_MOST_SHARE = 0.1
"""Of the catalogue; a request for more is answered from the scores of all items."""
_DRAW_STREAM = 0x53484F52
"""Keeps the draws of the shortlist apart from those of the policy, which has the seed alone."""
logger = logging.getLogger(__name__)


class Shortlister(Retriever[User, Taste]):
    """Finds a request's rows in the index of one release."""

    def __init__(self, found: MaxProductIndex, index: ItemIndex, scorer: Scorer) -> None:
        self._found = found
        self._index = index
        self._scorer = scorer
        self._means = scorer.item_means
        self._built_at_s = self._means.reference_s
        self._built_factors = self._means.factors()
        self._built_sums_J = index.released_sums
        self._num_seen = -1
        self._among: RowSet | None = None
        self._roots: dict[bool, Array] = {}

    def side_rows(self) -> Rows:
        """Return the rows that every request gets: those added, and those that rose most."""
        first = self._found.num_rows
        rows = np.array(sorted(self._means.touched), np.intp)
        rows = rows[rows < first]
        rise = self._means.sums_J[rows] - self._scale() * self._built_sums_J[rows]
        rows, rise = rows[rise > 0.0], rise[rise > 0.0]
        if len(rows) > _NUM_RISEN:
            rows = rows[np.argsort(-rise, kind="stable")[:_NUM_RISEN]]
        rows = np.concatenate([np.sort(rows), np.arange(first, len(self._index))])
        return rows[self._index.active[rows]]

    def rows(
        self, user: User, taste: Taste, closed: Rows, size: int, optimism: float, seed: int
    ) -> Rows | None:
        """Return the rows that the index finds, ascending, at least `size`; else None."""
        num = size + len(closed)
        if num > _MOST_SHARE * self._found.num_rows:
            return None
        query_QC = self._queries(user, taste, optimism, seed)
        found = self._found.search(query_QC, num, self._allowed())
        found = np.setdiff1d(found, closed, assume_unique=True)
        return found if len(found) >= size else None

    def _queries(self, user: User, taste: Taste, optimism: float, seed: int) -> Vectors:
        """Return the mean's query and, for a policy that explores, the optimistic and drawn."""
        num_factors = len(taste.mean_D)
        num_queries = 2 + NUM_DRAWS if optimism else 1
        query_QC = np.zeros((num_queries, self._found.num_columns), np.float32)
        query_QC[:, :num_factors] = taste.mean_D
        query_QC[:, num_factors:-NUM_DEVIATION_COLUMNS] = self._weights()
        if optimism:
            query_QC[1, -NUM_DEVIATION_COLUMNS + user.has_past] = optimism
            rng = np.random.default_rng([_DRAW_STREAM, seed])
            draw_QD = rng.standard_normal((NUM_DRAWS, num_factors))
            query_QC[2:, :num_factors] += draw_QD @ self._root(user, taste).T
        return query_QC

    def _weights(self) -> tuple[float, float]:
        """Return what both terms of an untouched item's mean have been multiplied with."""
        of_sum, of_promise = self._means.factors()
        built_of_sum, built_of_promise = self._built_factors
        return self._scale() * of_sum / built_of_sum, of_promise / built_of_promise

    def _scale(self) -> float:
        """Return what a sum of the release is at the means' present reference time."""
        return self._means.scale_at(self._built_at_s)

    def _root(self, user: User, taste: Taste) -> Array:
        """Return L with L L' = the covariance of the user's taste."""
        if user.trials:
            return _root_of(taste.covariance_DD)
        if user.has_past not in self._roots:
            self._roots[user.has_past] = _root_of(taste.covariance_DD)
        return self._roots[user.has_past]

    def _allowed(self) -> RowSet | None:
        """Return the rows that can still be shown, or None if all of the index's can."""
        active_J = self._index.active[: self._found.num_rows]
        if self._index.num_changes != self._num_seen:
            self._among = None if active_J.all() else RowSet(active_J)
            self._num_seen = self._index.num_changes
        return self._among


def shortlister_of(index: ItemIndex, scorer: Scorer) -> Shortlister | None:
    """Return the shortlister of a release that has an index, if it can be read here."""
    path = index.retrieval_path
    if path is None:
        return None
    if not is_installed():
        logger.warning(
            "%s cannot be read without faiss, so every item is scored for every request; "
            "pip install 'rove[retrieval]'",
            path,
        )
        return None
    found = MaxProductIndex.open(path)
    expected = len(index.released_sums), index.blocks[0].shape[1] + 4
    assert (found.num_rows, found.num_columns) == expected, "checked by Release.open"
    return Shortlister(found, index, scorer)


def _root_of(covariance_DD: Array) -> Array:
    value_D, vector_DD = np.linalg.eigh(covariance_DD)
    return np.asarray(vector_DD * np.sqrt(np.maximum(value_D, 0.0)))
