"""What another of Rove's policies would have chosen where a slate was logged.

    target = under_policy(policy, mean_NS, deviation_NS, None, chosen_NK, rng, max_explore_slots=3)
    slates.under(target.probability_NK)

`rove.slates` fills slates; here the slots are given, and the policy is asked how probable they
were. Both see the same scores: those of the model that decided.

- A slot's distribution is conditional on the logged slots before it, so the product over the slots
  is the slate's probability under the policy.
- A policy that draws from the posterior is evaluated on draws of its own, as it would be played:
  given its draws the probability is exact, and over them it is unbiased. With the generators that
  a slate was decided with, its own policy gets back exactly the logged propensities.
- After a slot that the policy never shows there is no "given the slots before"; the slots that
  follow are given a distribution all the same, and a weight of the whole slate is zero.

Shapes: N slates, S candidates, K slots.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from math import prod

import numpy as np

from rove.choosing import Chooser, Floats, Indices, Open, Policy, Source, one_hot, penalised
from rove.errors import DataError
from rove.ope.log import Floats as Doubles
from rove.ope.log import refuse
from rove.slates import Penalty
from rove.thompson import MixtureChooser

EMPTY = -1
"""Stands for a slot that was not sampled: the slate is shorter, or it is a baseline item."""
_MOST_WAYS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A policy's probabilities beside N logged slates."""

    probability_NK: Doubles
    """Of the logged candidate given the slots before; 1 where the slot is empty."""
    distribution_NKS: Doubles
    """Of every candidate, given the logged slots before; 0 where the slot is empty."""

    def mean(self, q_NKS: Doubles) -> Doubles:
        """Return what predictions of every candidate come to under the policy: v_NK, (N, K)."""
        v_NK: Doubles = np.einsum("nks,nks->nk", self.distribution_NKS, q_NKS)
        return v_NK


def under_policy(
    policy: Policy,
    mean_NS: Floats,
    deviation_NS: Floats,
    open_NS: Open | None,
    chosen_NK: Indices,
    rngs: Source,
    *,
    max_explore_slots: int,
    penalty: Penalty | None = None,
) -> Target:
    """Return the probabilities of logged slates under a policy, slot by slot.

    `chosen_NK`: places among the candidates, `EMPTY` where nothing was sampled. `open_NS`: None
    when all candidates are. `rngs`: one generator per slate, or one for all.
    """
    _check(mean_NS, deviation_NS, chosen_NK, open_NS)
    num, num_slots = chosen_NK.shape
    open_NS = np.ones(mean_NS.shape, bool) if open_NS is None else open_NS.copy()
    chooser = policy.start(mean_NS, deviation_NS, rngs)
    rows = np.arange(num)
    probability_NK = np.ones((num, num_slots))
    distribution_NKS = np.zeros((num, num_slots, mean_NS.shape[1]))
    explorable_N = np.full(num, max_explore_slots)
    penalty_NS: Floats | None = None
    for slot in range(num_slots):
        filled_N = chosen_NK[:, slot] != EMPTY
        chosen_N = np.where(filled_N, chosen_NK[:, slot], 0)
        slot_NS, best_N = _slot(chooser, mean_NS, open_NS, penalty_NS, explorable_N)
        likelihood_N = slot_NS[rows, chosen_N]
        probability_NK[:, slot] = np.where(filled_N, likelihood_N, 1.0)
        distribution_NKS[:, slot] = slot_NS * filled_N[:, None]
        if isinstance(chooser, MixtureChooser):
            chooser.chose(chosen_N, (explorable_N > 0) & filled_N & (likelihood_N > 0.0))
        explorable_N -= filled_N & (chosen_N != best_N)
        open_NS[rows[filled_N], chosen_N[filled_N]] = False
        if penalty is not None and slot + 1 < num_slots:
            penalty_NS = penalty.after(chosen_N)
    return Target(probability_NK=probability_NK, distribution_NKS=distribution_NKS)


def _slot(
    chooser: Chooser,
    mean_NS: Floats,
    open_NS: Open,
    penalty_NS: Floats | None,
    explorable_N: Indices,
) -> tuple[Doubles, Indices]:
    """Return the distribution of the next slot, (N, S), and the greedy choice, (N,)."""
    best_N: Indices = penalised(mean_NS, open_NS, penalty_NS).argmax(1)
    slot_NS = one_hot(best_N, mean_NS.shape)
    may_explore_N = explorable_N > 0
    if may_explore_N.any():
        # A row without an open candidate is empty from here on: any distribution will do.
        some_NS = open_NS | ~open_NS.any(1, keepdims=True)
        sampled_NS = chooser.distribution(some_NS, penalty_NS)
        slot_NS = np.where(may_explore_N[:, None], sampled_NS, slot_NS)
    return slot_NS, best_N


def marginals(
    policy: Policy,
    mean_NS: Floats,
    deviation_NS: Floats,
    num_slots: int,
    rngs: Source,
    *,
    max_explore_slots: int,
) -> Doubles:
    """Return how probable every candidate is in every slot, whatever the slots before, (N, K, S).

    Exact, by going through all S (S - 1) .. ways to fill the slots before; for few candidates and
    slots. Independent IPS of slates without replacement needs weights of these, of both policies
    (the logging one with the generators it decided with): with conditional ones it values each
    slot after the logging policy's earlier slots.
    """
    num, num_candidates = mean_NS.shape
    num_ways = prod(range(num_candidates, num_candidates - num_slots + 1, -1))
    if num_ways > _MOST_WAYS:
        raise DataError(
            f"{num_slots} slots of {num_candidates} candidates are filled in {num_ways:,} ways "
            f"before the last, more than {_MOST_WAYS:,}; use reward_interaction_ips"
        )
    marginal_NKS = np.zeros((num, num_slots, num_candidates))

    def visit(chooser: Chooser, mass_N: Doubles, open_NS: Open, explorable_N: Indices) -> None:
        slot = num_candidates - int(open_NS[0].sum())
        slot_NS, best_N = _slot(chooser, mean_NS, open_NS, None, explorable_N)
        marginal_NKS[:, slot] += mass_N[:, None] * slot_NS
        if slot + 1 == num_slots:
            return
        for candidate in np.flatnonzero(open_NS[0]).tolist():
            next_N = mass_N * slot_NS[:, candidate]
            if not next_N.any():
                continue
            branch, chosen_N = deepcopy(chooser), np.full(num, candidate)
            if isinstance(branch, MixtureChooser):
                branch.chose(chosen_N, (explorable_N > 0) & (slot_NS[:, candidate] > 0.0))
            left_NS = open_NS.copy()
            left_NS[:, candidate] = False
            visit(branch, next_N, left_NS, explorable_N - (candidate != best_N))

    if num:
        chooser = policy.start(mean_NS, deviation_NS, rngs)
        every_NS = np.ones(mean_NS.shape, bool)
        visit(chooser, np.ones(num), every_NS, np.full(num, max_explore_slots))
    return marginal_NKS


def _check(mean_NS: Floats, deviation_NS: Floats, chosen_NK: Indices, open_NS: Open | None) -> None:
    """Raise `DataError` unless every logged slot is an open candidate of its own."""
    num, num_candidates = mean_NS.shape
    usable_NS = np.isfinite(mean_NS) & np.isfinite(deviation_NS) & (deviation_NS >= 0.0)
    if open_NS is not None:
        usable_NS |= ~open_NS
    refuse(
        "scores that are no finite numbers, or a deviation below 0", np.asarray(~usable_NS.all(1))
    )
    if chosen_NK.ndim != 2 or len(chosen_NK) != num:
        raise DataError(
            f"chosen_NK must have a row for each of {num} slates, got the shape "
            f"{chosen_NK.shape}; give one row a slate"
        )
    filled_NK = chosen_NK != EMPTY
    outside_NK = filled_NK & ((chosen_NK < 0) | (chosen_NK >= num_candidates))
    if open_NS is not None:
        place_NK = np.clip(chosen_NK, 0, num_candidates - 1)
        outside_NK |= filled_NK & ~np.take_along_axis(open_NS, place_NK, 1)
    ordered_NK = np.sort(chosen_NK, axis=1)
    twice_N = ((np.diff(ordered_NK, axis=1) == 0) & (ordered_NK[:, 1:] != EMPTY)).any(1)
    gap_N = (filled_NK[:, 1:] & ~filled_NK[:, :-1]).any(1)
    for what, bad_N in (
        ("a slot that is no open candidate", outside_NK.any(1)),
        ("a candidate in two slots", twice_N),
        ("an empty slot before a filled one", gap_N),
    ):
        rows = np.flatnonzero(bad_N)
        if rows.size:
            raise DataError(
                f"{rows.size:,} of {num:,} slates have {what}; the first is row {rows[0]}, got "
                f"{chosen_NK[rows[0]].tolist()}; give the candidates that were decided over"
            )
