"""From requests to slates: which items may be shown, what they are worth, what the policy chooses.

    rove.item_index   which rows a request allows
    rove.scores       mean and deviation of their rewards
    rove.policies     the distribution over them
    rove.slates       slots and propensities

A large set of candidates is cut to a shortlist by optimistic score, mean + optimism * deviation,
so that new and under-explored items stay in; the policy's distribution is exact over the
shortlist. Of a large catalogue only what the release's index finds is scored
(`rove.shortlisting`). Requests that arrive together are scored together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic

import numpy as np

from rove.config import PolicySection
from rove.diversity import penalty_of
from rove.errors import InvalidInput, RoveError
from rove.events import Explanation, RankRequest, Slot
from rove.item_index import ItemIndex, Rows
from rove.policies import policy_of
from rove.scores import Part, Retriever, Scores, Taste, TextVectors, User, Vectors
from rove.slates import Penalty, fill

_OPTIMISM = 3.0
"""Thompson: an item this many (strengthened) deviations below the shortlist would not be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The slots of one decision, with what they were chosen from."""

    slots: list[Slot]
    seed: int
    num_candidates: int
    candidates_digest: str


@dataclass(slots=True, kw_only=True)
class _Candidates(Generic[User, Taste]):
    """One request's shortlist; rows, means and deviations are parallel."""

    request: RankRequest
    user: User
    taste: Taste
    rows: Rows
    mean_n: Vectors
    num_candidates: int
    digest: str
    num_slots: int
    strength: float
    """Multiplies the deviations."""


class Decider(Generic[User, Taste, Part]):
    """Decides for one policy over one index."""

    def __init__(
        self,
        section: PolicySection,
        index: ItemIndex,
        scorer: Scores[User, Taste, Part],
        retriever: Retriever[User, Taste] | None = None,
    ) -> None:
        self._section = section
        self._policy = policy_of(section)
        self._index = index
        self._scorer = scorer
        self._retriever = retriever
        self._in_rewards = section.kind in ("softmax", "igw")  # their settings are in rewards
        self._optimism = {
            "ucb": section.strength,
            "thompson": _OPTIMISM * section.strength,
            "regulated": _OPTIMISM,
        }.get(section.kind, 0.0)

    def decide(
        self,
        requests: Sequence[RankRequest],
        users: Sequence[User],
        seeds: Sequence[int],
        now_s: float,
        vectors: TextVectors,
        strengths: Sequence[float] | None = None,
    ) -> list[Choice | RoveError]:
        """Return a choice, or what is wrong with the request, for each request.

        `strengths`: of each request's exploring, for a regulated policy.
        """
        strengths = [1.0] * len(requests) if strengths is None else strengths
        tastes = self._scorer.tastes(users, requests, vectors, now_s)
        retrieved = self._retrieved(requests, users, tastes, seeds, strengths)
        part, catalogue_BJ = self._catalogue_means(requests, tastes, retrieved)
        results: list[Choice | RoveError | None] = [None] * len(requests)
        found: list[tuple[int, _Candidates[User, Taste]]] = []
        for number, request in enumerate(requests):
            try:
                candidates = self._candidates(
                    request,
                    users[number],
                    tastes[number],
                    part,
                    catalogue_BJ.get(number),
                    retrieved.get(number),
                    vectors,
                    strengths[number],
                )
            except RoveError as error:
                results[number] = error
            else:
                found.append((number, candidates))
        batch = [candidates for _, candidates in found]
        chosen = self._fill(batch, [seeds[number] for number, _ in found], part)
        for (number, candidates), slots in zip(found, chosen, strict=True):
            try:
                filled = self._with_baseline(
                    slots, candidates.request, part, candidates.user, candidates.taste
                )
            except RoveError as error:
                results[number] = error
                continue
            results[number] = Choice(
                slots=filled,
                seed=seeds[number],
                num_candidates=candidates.num_candidates,
                candidates_digest=candidates.digest,
            )
        return [result for result in results if result is not None]

    def _retrieved(
        self,
        requests: Sequence[RankRequest],
        users: Sequence[User],
        tastes: Sequence[Taste],
        seeds: Sequence[int],
        strengths: Sequence[float],
    ) -> dict[int, Rows]:
        """Return the rows to look at of the requests that the release's index can answer."""
        if self._retriever is None:
            return {}
        whole = [n for n, request in enumerate(requests) if request.candidates is None]
        side = self._retriever.side_rows() if whole else np.zeros(0, np.intp)
        retrieved = {}
        for n in whole:
            closed = np.unique(self._closed(requests[n], users[n]))
            size = max(self._section.shortlist, 2 * requests[n].k)
            optimism = self._optimism * strengths[n]
            found = self._retriever.rows(users[n], tastes[n], closed, size, optimism, seeds[n])
            if found is not None:
                retrieved[n] = np.union1d(found, np.setdiff1d(side, closed, assume_unique=True))
        return retrieved

    def _catalogue_means(
        self,
        requests: Sequence[RankRequest],
        tastes: Sequence[Taste],
        retrieved: Mapping[int, Rows],
    ) -> tuple[Part, dict[int, Vectors]]:
        """Score the whole catalogue for the other requests that want it, in one product."""
        whole = [n for n, request in enumerate(requests) if request.candidates is None]
        whole = [number for number in whole if number not in retrieved]
        if self._retriever is not None and not whole:
            return self._scorer.read_part(), {}
        part = self._scorer.item_part()
        if not whole or len(self._index) == 0:
            return part, {}
        mean_BJ = self._scorer.catalogue_means(part, [tastes[number] for number in whole])
        return part, dict(zip(whole, mean_BJ, strict=True))

    def _candidates(
        self,
        request: RankRequest,
        user: User,
        taste: Taste,
        part: Part,
        catalogue_J: Vectors | None,
        retrieved: Rows | None,
        vectors: TextVectors,
        strength: float,
    ) -> _Candidates[User, Taste]:
        closed = self._closed(request, user)
        optimism = self._optimism * strength
        if retrieved is not None:
            rows, mean_n = self._cut(retrieved, part, user, taste, request.k, optimism)
            num_open = self._index.num_active - int(self._index.active[np.unique(closed)].sum())
            digest = f"catalogue-{len(self._index)}"
        elif request.candidates is None:
            if catalogue_J is None:
                catalogue_J = np.zeros(0, np.float32)
            rows, mean_n, num_open = self._shortlist(
                catalogue_J, closed, part, user, taste, request.k, optimism
            )
            digest = f"catalogue-{len(self._index)}"
        else:
            wanted = self._wanted(request, vectors)
            rows = np.setdiff1d(wanted, closed, assume_unique=True)
            mean_n, num_open = self._scorer.means(part, taste, rows), len(rows)
            size = max(self._section.shortlist, 2 * request.k)
            if num_open > size:
                index_n = -self._optimistic(mean_n, part, user, taste, rows, optimism)
                top = np.sort(np.argpartition(index_n, size)[:size])
                rows, mean_n = rows[top], mean_n[top]
            digest = blake2b(np.sort(wanted).tobytes(), digest_size=8).hexdigest()
        num_slots = min(request.k, num_open)
        if num_slots < request.k and not request.baseline_items:
            raise InvalidInput(
                f"k = {request.k}, but only {num_open} candidates are left after exclusions; "
                "ask for fewer, exclude less or give baseline_items to fill up with",
                num_candidates=num_open,
            )
        return _Candidates(
            request=request,
            user=user,
            taste=taste,
            rows=rows,
            mean_n=mean_n,
            num_candidates=num_open,
            digest=digest,
            num_slots=num_slots,
            strength=strength,
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

    def _closed(self, request: RankRequest, user: User) -> Rows:
        """Return the rows that must not be shown; unknown exclusions exclude nothing."""
        excluded = [self._index.row(item_id) for item_id in request.excluded_items]
        rows = [row for row in excluded if row is not None]
        if request.exclude_seen:
            rows.extend(user.standing)
        return np.array(rows, np.intp)

    def _shortlist(
        self,
        mean_J: Vectors,
        closed: Rows,
        part: Part,
        user: User,
        taste: Taste,
        num_slots: int,
        optimism: float,
    ) -> tuple[Rows, Vectors, int]:
        """Return the shortlist of the whole catalogue, and how many rows were open."""
        open_J = self._index.active.copy()
        open_J[closed] = False
        num_open = int(open_J.sum())
        size = max(self._section.shortlist, 2 * num_slots)
        if num_open <= size:
            rows = np.flatnonzero(open_J)
        else:
            index_J = self._optimistic(mean_J, part, user, taste, slice(None), optimism)
            index_J = np.where(open_J, index_J, -np.inf)
            # In order of rows: random numbers are dealt out by position.
            rows = np.sort(np.argpartition(index_J, len(index_J) - size)[-size:])
        return rows, mean_J[rows], num_open

    def _cut(
        self,
        rows: Rows,
        part: Part,
        user: User,
        taste: Taste,
        num_slots: int,
        optimism: float,
    ) -> tuple[Rows, Vectors]:
        """Cut retrieved rows by exact score: one half by mean, the other by optimistic score.

        In a large catalogue enough uncertain items exist to crowd out the best means.
        """
        size = max(self._section.shortlist, 2 * num_slots)
        mean_n = self._scorer.means(part, taste, rows)
        if len(rows) <= size:
            return rows, mean_n
        best = np.argsort(-mean_n, kind="stable")[: size // 2]
        index_n = np.array(self._optimistic(mean_n, part, user, taste, rows, optimism))
        index_n[best] = np.inf
        kept = np.sort(np.argsort(-index_n, kind="stable")[:size])
        return rows[kept], mean_n[kept]

    def _optimistic(
        self,
        mean_n: Vectors,
        part: Part,
        user: User,
        taste: Taste,
        rows: Rows | slice,
        optimism: float,
    ) -> Vectors:
        if not optimism:
            return mean_n
        deviation_n = self._scorer.rough_deviations(part, user, taste, rows)
        optimistic_n: Vectors = mean_n + np.float32(optimism) * deviation_n
        return optimistic_n

    def _fill(
        self, batch: Sequence[_Candidates[User, Taste]], seeds: Sequence[int], part: Part
    ) -> list[list[Slot]]:
        """Fill the slates of requests with as many slots and candidates together.

        No padding: how many random numbers a request uses must not depend on the others.
        """
        slates: list[list[Slot]] = [[] for _ in batch]
        groups: dict[tuple[int, int], list[int]] = {}
        for number, candidates in enumerate(batch):
            if candidates.num_slots:
                shape = candidates.num_slots, len(candidates.rows)
                groups.setdefault(shape, []).append(number)
        for (num_slots, _), same in groups.items():
            group = [batch[number] for number in same]
            mean_BS = np.stack([candidates.mean_n for candidates in group])
            deviation_BS = np.stack(
                [self._scorer.deviations(part, one.user, one.taste, one.rows) for one in group]
            )
            if self._section.kind == "regulated":
                deviation_BS *= np.array([[one.strength] for one in group], np.float32)
            filled = fill(
                self._policy,
                self._scorer.expected(mean_BS) if self._in_rewards else mean_BS,
                deviation_BS,
                np.ones(mean_BS.shape, bool),
                num_slots,
                [np.random.Generator(np.random.PCG64(seeds[number])) for number in same],
                max_explore_slots=self._section.max_explore_slots,
                penalty=self._penalty(group, mean_BS) if num_slots > 1 else None,
            )
            columns = (
                filled.chosen_BK.tolist(),
                self._scorer.expected(np.take_along_axis(mean_BS, filled.chosen_BK, 1)).tolist(),
                filled.propensity_BK.tolist(),
                filled.explored_BK.tolist(),
            )
            for number, *row in zip(same, *columns, strict=True):
                slates[number] = self._slots(batch[number], part, *row)
        return slates

    def _penalty(
        self, group: Sequence[_Candidates[User, Taste]], mean_BS: Vectors
    ) -> Penalty | None:
        if self._section.diversity.kind == "none":
            return None
        vector_BSE = np.stack([self._index.embeddings(one.rows) for one in group])
        return penalty_of(self._section.diversity, mean_BS, vector_BSE)

    def _slots(
        self,
        candidates: _Candidates[User, Taste],
        part: Part,
        chosen: list[int],
        scores: list[float],
        propensities: list[float],
        explored: list[bool],
    ) -> list[Slot]:
        rows = candidates.rows[chosen].tolist()
        explanations: Sequence[Explanation | None] = [None] * len(rows)
        if candidates.request.explain:
            user, taste = candidates.user, candidates.taste
            explanations = self._scorer.explain(part, user, taste, rows)
        return [
            Slot(
                slot=slot,
                item_id=self._index.ids[row],
                score=score,
                propensity=propensity,
                reason="explore" if differs else "exploit",
                explanation=explanation,
            )
            for slot, (row, score, propensity, differs, explanation) in enumerate(
                zip(rows, scores, propensities, explored, explanations, strict=True)
            )
        ]

    def _with_baseline(
        self, slots: list[Slot], request: RankRequest, part: Part, user: User, taste: Taste
    ) -> list[Slot]:
        """Fill up with the request's open baseline items, in their order, while slots are empty."""
        if len(slots) == request.k:
            return slots
        shown = {slot.item_id for slot in slots} | set(request.excluded_items)
        unused = [item_id for item_id in request.baseline_items if item_id not in shown]
        rows = self._index.rows_of(unused)
        rows = rows[~np.isin(rows, self._closed(request, user))][: request.k - len(slots)]
        scores = self._scorer.expected(self._scorer.means(part, taste, rows)).tolist()
        return slots + [
            Slot(
                slot=len(slots) + offset,
                item_id=self._index.ids[row],
                score=score,
                propensity=1.0,
                reason="baseline",
            )
            for offset, (row, score) in enumerate(zip(rows.tolist(), scores, strict=True))
        ]
