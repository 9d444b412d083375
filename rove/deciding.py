"""From requests to slates: what the policy chooses from the candidates, slot by slot.

    rove.candidates   which items a request may be answered with
    rove.scores       mean and deviation of their rewards
    rove.policies     the distribution over them
    rove.slates       slots and propensities

The policy's distribution is exact over the shortlist. Requests that arrive together are scored
together. Several policies may decide over one index (`Deciders`), or be asked what they would have
chosen where another one decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from msgspec import structs

from rove.candidates import CandidateFinder, Candidates, Case, digest_of_rows
from rove.choosing import Probabilities
from rove.config import PolicySection
from rove.diversity import penalty_of
from rove.errors import InvalidInput, RoveError
from rove.events import Alternative, Explanation, RankRequest, Slot
from rove.item_index import ItemIndex, Rows
from rove.opinions import Opinion, Shown, likelihood, places_of
from rove.policies import policy_of
from rove.scores import Part, Retriever, Scores, Taste, TextVectors, User, Vectors
from rove.slates import Penalty, fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The slots of one decision, with what they were chosen from."""

    slots: list[Slot]
    seed: int
    num_candidates: int
    candidates_digest: str


_MOST_DECIDERS = 64


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
        self._in_rewards = section.kind in ("softmax", "igw")  # their settings are in rewards
        self.finder = CandidateFinder(section, index, scorer, retriever)

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
        cases = self._cases(requests, users, seeds, now_s, vectors, strengths)
        part, found = self.finder.find(cases, vectors)
        batch = [one for one in found if not isinstance(one, RoveError)]
        slates = iter(self._fill(batch, part))
        return [
            one if isinstance(one, RoveError) else self._choice(one, next(slates), part)
            for one in found
        ]

    def given(
        self,
        requests: Sequence[RankRequest],
        users: Sequence[User],
        seeds: Sequence[int],
        now_s: float,
        vectors: TextVectors,
    ) -> list[Choice | RoveError]:
        """Return the baseline items of each request as they are, at most k, for certain."""
        part = self._scorer.item_part()
        return [
            self._given(case, part)
            for case in self._cases(requests, users, seeds, now_s, vectors, None)
        ]

    def opinions(
        self,
        requests: Sequence[RankRequest],
        users: Sequence[User],
        seeds: Sequence[int],
        now_s: float,
        vectors: TextVectors,
        shown: Sequence[Shown],
    ) -> list[Opinion | None]:
        """Return what would have been chosen instead; None where nothing could have been."""
        cases = self._cases(requests, users, seeds, now_s, vectors, None)
        part, found = self.finder.find(cases, vectors)
        able = [number for number, one in enumerate(found) if not isinstance(one, RoveError)]
        batch = [one for one in found if not isinstance(one, RoveError)]
        opinions: list[Opinion | None] = [None] * len(cases)
        for number, one, slots in zip(able, batch, self._fill(batch, part), strict=True):
            opinions[number] = Opinion(
                slots=slots, shown=self._likelihood(one, shown[number], part)
            )
        return opinions

    def _cases(
        self,
        requests: Sequence[RankRequest],
        users: Sequence[User],
        seeds: Sequence[int],
        now_s: float,
        vectors: TextVectors,
        strengths: Sequence[float] | None,
    ) -> list[Case[User, Taste]]:
        strengths = [1.0] * len(requests) if strengths is None else strengths
        tastes = self._scorer.tastes(users, requests, vectors, now_s)
        parts = zip(requests, users, tastes, seeds, strengths, strict=True)
        return [
            Case(request=request, user=user, taste=taste, seed=seed, strength=strength)
            for request, user, taste, seed, strength in parts
        ]

    def _given(self, case: Case[User, Taste], part: Part) -> Choice | RoveError:
        try:
            rows = self._index.rows_of(case.request.baseline_items)
        except InvalidInput as error:
            return error
        return Choice(
            slots=self._baseline_slots(rows[: case.request.k], 0, case, part),
            seed=case.seed,
            num_candidates=len(rows),
            candidates_digest=digest_of_rows(rows),
        )

    def _likelihood(
        self, candidates: Candidates[User, Taste], shown: Shown, part: Part
    ) -> list[float]:
        """Return the probability of each slot that was shown, given the slots before."""
        places = places_of(shown, candidates.rows, self._index)
        none = [0.0] * (len(shown.slots) - len(places))
        if not places or not len(candidates.rows):
            return [1.0] * len(places) + none
        mean_1S, deviation_1S = self._scores([candidates], part)
        penalty = self._penalty([candidates], mean_1S) if len(places) > 1 else None
        mean_1S = self._scorer.expected(mean_1S) if self._in_rewards else mean_1S
        seed, explorable = candidates.case.seed, self._section.max_explore_slots
        return (
            likelihood(self._policy, mean_1S, deviation_1S, places, seed, explorable, penalty)
            + none
        )

    def _scores(
        self, group: Sequence[Candidates[User, Taste]], part: Part
    ) -> tuple[Vectors, Vectors]:
        """Return means and deviations of requests with as many candidates, (B, S) each."""
        mean_BS = np.stack([candidates.mean_n for candidates in group])
        deviation_BS = np.stack(
            [
                self._scorer.deviations(part, one.case.user, one.case.taste, one.rows)
                for one in group
            ]
        )
        if self._section.kind == "regulated":
            deviation_BS *= np.array([[one.case.strength] for one in group], np.float32)
        return mean_BS, deviation_BS

    def _choice(
        self, candidates: Candidates[User, Taste], slots: list[Slot], part: Part
    ) -> Choice | RoveError:
        try:
            filled = self._with_baseline(slots, candidates.case, part)
        except RoveError as error:
            return error
        return Choice(
            slots=filled,
            seed=candidates.case.seed,
            num_candidates=candidates.num_candidates,
            candidates_digest=candidates.digest,
        )

    def _fill(self, batch: Sequence[Candidates[User, Taste]], part: Part) -> list[list[Slot]]:
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
            mean_BS, deviation_BS = self._scores(group, part)
            filled = fill(
                self._policy,
                self._scorer.expected(mean_BS) if self._in_rewards else mean_BS,
                deviation_BS,
                np.ones(mean_BS.shape, bool),
                num_slots,
                [np.random.Generator(np.random.PCG64(one.case.seed)) for one in group],
                max_explore_slots=self._section.max_explore_slots,
                penalty=self._penalty(group, mean_BS) if num_slots > 1 else None,
            )
            columns = (
                filled.chosen_BK.tolist(),
                self._scorer.expected(np.take_along_axis(mean_BS, filled.chosen_BK, 1)).tolist(),
                filled.propensity_BK.tolist(),
                filled.explored_BK.tolist(),
            )
            for place, (number, *row) in enumerate(zip(same, *columns, strict=True)):
                slates[number] = self._slots(batch[number], part, *row)
                if batch[number].case.request.alternatives:
                    self._tell_alternatives(slates[number], batch[number], filled.first_BS[place])
        return slates

    def _tell_alternatives(
        self,
        slots: list[Slot],
        candidates: Candidates[User, Taste],
        probability_S: Probabilities,
    ) -> None:
        """Add to the first slot what it was chosen from."""
        order = np.lexsort((-candidates.mean_n, -probability_S))
        scores = self._scorer.expected(candidates.mean_n[order]).tolist()
        told = zip(
            candidates.rows[order].tolist(), scores, probability_S[order].tolist(), strict=True
        )
        alternatives = [
            Alternative(item_id=self._index.ids[row], score=score, propensity=propensity)
            for row, score, propensity in told
        ]
        slots[0] = structs.replace(slots[0], alternatives=alternatives)

    def _penalty(
        self, group: Sequence[Candidates[User, Taste]], mean_BS: Vectors
    ) -> Penalty | None:
        if self._section.diversity.kind == "none":
            return None
        vector_BSE = np.stack([self._index.embeddings(one.rows) for one in group])
        return penalty_of(self._section.diversity, mean_BS, vector_BSE)

    def _slots(
        self,
        candidates: Candidates[User, Taste],
        part: Part,
        chosen: list[int],
        scores: list[float],
        propensities: list[float],
        explored: list[bool],
    ) -> list[Slot]:
        rows = candidates.rows[chosen].tolist()
        explanations: Sequence[Explanation | None] = [None] * len(rows)
        case = candidates.case
        if case.request.explain:
            user, taste = case.user, case.taste
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

    def _with_baseline(self, slots: list[Slot], case: Case[User, Taste], part: Part) -> list[Slot]:
        """Fill up with the request's open baseline items, in their order, while slots are empty."""
        request = case.request
        if len(slots) == request.k:
            return slots
        shown = {slot.item_id for slot in slots} | set(request.excluded_items)
        unused = [item_id for item_id in request.baseline_items if item_id not in shown]
        rows = self._index.rows_of(unused)
        rows = rows[~np.isin(rows, self.finder.closed(case))][: request.k - len(slots)]
        return slots + self._baseline_slots(rows, len(slots), case, part)

    def _baseline_slots(
        self, rows: Rows, first: int, case: Case[User, Taste], part: Part
    ) -> list[Slot]:
        scores = self._scorer.expected(self._scorer.means(part, case.taste, rows)).tolist()
        return [
            Slot(
                slot=first + offset,
                item_id=self._index.ids[row],
                score=score,
                propensity=1.0,
                reason="baseline",
            )
            for offset, (row, score) in enumerate(zip(rows.tolist(), scores, strict=True))
        ]


class Deciders(Generic[User, Taste, Part]):
    """The deciders of all policies over one index, with the users they decide for."""

    def __init__(
        self,
        index: ItemIndex,
        scorer: Scores[User, Taste, Part],
        retriever: Retriever[User, Taste] | None = None,
    ) -> None:
        self._index = index
        self._scorer = scorer
        self._retriever = retriever
        self._made: dict[PolicySection, Decider[User, Taste, Part]] = {}

    def of(self, section: PolicySection) -> Decider[User, Taste, Part]:
        """Return the decider of a policy."""
        decider = self._made.get(section)
        if decider is None:
            if len(self._made) >= _MOST_DECIDERS:
                self._made.clear()
            decider = Decider(section, self._index, self._scorer, self._retriever)
            self._made[section] = decider
        return decider
