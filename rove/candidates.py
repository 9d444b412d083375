"""Which items a request may be answered with, and what they are worth.

A large set is cut to a shortlist by optimistic score, mean + optimism * deviation, so that new and
under-explored items stay in. Of a large catalogue only what the release's index finds is scored
(`rove.shortlisting`). Requests that arrive together are scored together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic

import numpy as np

from rove.config import PolicySection
from rove.errors import InvalidInput, RoveError
from rove.events import RankRequest
from rove.item_index import ItemIndex, Rows
from rove.scores import Part, Retriever, Scores, Taste, TextVectors, User, Vectors

_OPTIMISM = 3.0
"""Thompson: an item this many (strengthened) deviations below the shortlist would not be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Generic[User, Taste]):
    """One request, and what is known of who asks."""

    request: RankRequest
    user: User
    taste: Taste
    seed: int
    strength: float
    """Multiplies the deviations of a regulated policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates(Generic[User, Taste]):
    """One request's shortlist; rows and means are parallel."""

    case: Case[User, Taste]
    rows: Rows
    mean_n: Vectors
    num_candidates: int
    digest: str
    num_slots: int


def digest_of_rows(rows: Rows) -> str:
    """Return a hash of a set of given candidates."""
    return blake2b(np.sort(rows).tobytes(), digest_size=8).hexdigest()


class CandidateFinder(Generic[User, Taste, Part]):
    """Finds candidates for one policy over one index."""

    def __init__(
        self,
        section: PolicySection,
        index: ItemIndex,
        scorer: Scores[User, Taste, Part],
        retriever: Retriever[User, Taste] | None,
    ) -> None:
        self._section = section
        self._index = index
        self._scorer = scorer
        self.retriever = retriever
        self._optimism = {
            "ucb": section.strength,
            "thompson": _OPTIMISM * section.strength,
            "regulated": _OPTIMISM,
        }.get(section.kind, 0.0)

    def find(
        self, cases: Sequence[Case[User, Taste]], vectors: TextVectors
    ) -> tuple[Part, list[Candidates[User, Taste] | RoveError]]:
        """Return each request's candidates, or what is wrong with it."""
        retrieved = self._retrieved(cases)
        part, catalogue_BJ = self._catalogue_means(cases, retrieved)
        found: list[Candidates[User, Taste] | RoveError] = []
        for number, case in enumerate(cases):
            try:
                found.append(
                    self._candidates(
                        case, part, catalogue_BJ.get(number), retrieved.get(number), vectors
                    )
                )
            except RoveError as error:
                found.append(error)
        return part, found

    def closed(self, case: Case[User, Taste]) -> Rows:
        """Return the rows that must not be shown; unknown exclusions exclude nothing."""
        excluded = [self._index.row(item_id) for item_id in case.request.excluded_items]
        rows = [row for row in excluded if row is not None]
        if case.request.exclude_seen:
            rows.extend(case.user.standing)
        return np.array(rows, np.intp)

    def _retrieved(self, cases: Sequence[Case[User, Taste]]) -> dict[int, Rows]:
        """Return the rows to look at of the requests that the release's index can answer."""
        if self.retriever is None:
            return {}
        whole = [n for n, case in enumerate(cases) if case.request.candidates is None]
        side = self.retriever.side_rows() if whole else np.zeros(0, np.intp)
        retrieved = {}
        for n in whole:
            case = cases[n]
            closed = np.unique(self.closed(case))
            found = self.retriever.rows(
                case.user,
                case.taste,
                closed,
                self._size(case),
                self._optimism * case.strength,
                case.seed,
            )
            if found is not None:
                retrieved[n] = np.union1d(found, np.setdiff1d(side, closed, assume_unique=True))
        return retrieved

    def _catalogue_means(
        self, cases: Sequence[Case[User, Taste]], retrieved: Mapping[int, Rows]
    ) -> tuple[Part, dict[int, Vectors]]:
        """Score the whole catalogue for the other requests that want it, in one product."""
        whole = [n for n, case in enumerate(cases) if case.request.candidates is None]
        whole = [number for number in whole if number not in retrieved]
        if self.retriever is not None and not whole:
            return self._scorer.read_part(), {}
        part = self._scorer.item_part()
        if not whole or len(self._index) == 0:
            return part, {}
        mean_BJ = self._scorer.catalogue_means(part, [cases[number].taste for number in whole])
        return part, dict(zip(whole, mean_BJ, strict=True))

    def _candidates(
        self,
        case: Case[User, Taste],
        part: Part,
        catalogue_J: Vectors | None,
        retrieved: Rows | None,
        vectors: TextVectors,
    ) -> Candidates[User, Taste]:
        request, closed = case.request, self.closed(case)
        if retrieved is not None:
            rows, mean_n = self._cut(retrieved, part, case)
            num_open = self._index.num_active - int(self._index.active[np.unique(closed)].sum())
            digest = f"catalogue-{len(self._index)}"
        elif request.candidates is None:
            if catalogue_J is None:
                catalogue_J = np.zeros(0, np.float32)
            rows, mean_n, num_open = self._shortlist(catalogue_J, closed, part, case)
            digest = f"catalogue-{len(self._index)}"
        else:
            wanted = self._wanted(request, vectors)
            rows = np.setdiff1d(wanted, closed, assume_unique=True)
            mean_n, num_open = self._scorer.means(part, case.taste, rows), len(rows)
            size = self._size(case)
            if num_open > size:
                index_n = -self._optimistic(mean_n, part, case, rows)
                top = np.sort(np.argpartition(index_n, size)[:size])
                rows, mean_n = rows[top], mean_n[top]
            digest = digest_of_rows(wanted)
        num_slots = min(request.k, num_open)
        if num_slots < request.k and not request.baseline_items:
            raise InvalidInput(
                f"k = {request.k}, but only {num_open} candidates are left after exclusions; "
                "ask for fewer, exclude less or give baseline_items to fill up with",
                num_candidates=num_open,
            )
        return Candidates(
            case=case,
            rows=rows,
            mean_n=mean_n,
            num_candidates=num_open,
            digest=digest,
            num_slots=num_slots,
        )

    def _wanted(self, request: RankRequest, vectors: TextVectors) -> Rows:
        candidates = request.candidates
        assert candidates is not None
        given = [candidates.item_ids, candidates.category, candidates.query]
        if sum(one is not None for one in given) != 1:
            raise InvalidInput(
                "candidates needs exactly one of item_ids, category and query; "
                "leave candidates out for the whole catalogue"
            )
        if candidates.item_ids is not None:
            return self._index.rows_of(candidates.item_ids)
        if candidates.category is not None:
            return self._index.rows_of_category(candidates.category)
        assert candidates.query is not None
        if candidates.query not in vectors:
            raise InvalidInput("candidates.query needs the encoder's vector of its text")
        return self._index.nearest(vectors[candidates.query])

    def _shortlist(
        self, mean_J: Vectors, closed: Rows, part: Part, case: Case[User, Taste]
    ) -> tuple[Rows, Vectors, int]:
        """Return the shortlist of the whole catalogue, and how many rows were open."""
        open_J = self._index.active.copy()
        open_J[closed] = False
        num_open = int(open_J.sum())
        size = self._size(case)
        if num_open <= size:
            rows = np.flatnonzero(open_J)
        else:
            index_J = self._optimistic(mean_J, part, case, slice(None))
            index_J = np.where(open_J, index_J, -np.inf)
            # In order of rows: random numbers are dealt out by position.
            rows = np.sort(np.argpartition(index_J, len(index_J) - size)[-size:])
        return rows, mean_J[rows], num_open

    def _cut(self, rows: Rows, part: Part, case: Case[User, Taste]) -> tuple[Rows, Vectors]:
        """Cut retrieved rows by exact score: one half by mean, the other by optimistic score.

        In a large catalogue enough uncertain items exist to crowd out the best means.
        """
        size = self._size(case)
        mean_n = self._scorer.means(part, case.taste, rows)
        if len(rows) <= size:
            return rows, mean_n
        best = np.argsort(-mean_n, kind="stable")[: size // 2]
        index_n = np.array(self._optimistic(mean_n, part, case, rows))
        index_n[best] = np.inf
        kept = np.sort(np.argsort(-index_n, kind="stable")[:size])
        return rows[kept], mean_n[kept]

    def _size(self, case: Case[User, Taste]) -> int:
        return max(self._section.shortlist, 2 * case.request.k)

    def _optimistic(
        self, mean_n: Vectors, part: Part, case: Case[User, Taste], rows: Rows | slice
    ) -> Vectors:
        optimism = self._optimism * case.strength
        if not optimism:
            return mean_n
        deviation_n = self._scorer.rough_deviations(part, case.user, case.taste, rows)
        optimistic_n: Vectors = mean_n + np.float32(optimism) * deviation_n
        return optimistic_n
