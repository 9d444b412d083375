"""What all items share: the text map, the context effects and the groups, items integrated out.

An item's moments give its own effects' posterior V given the shared ones, and a precision and a
pull on what was promised of it; those of all items make the regression of the shared effects, from
which the groups are eliminated one by one (a Schur complement). So an item without trials knows how
sure its promise is.

Shapes: n items with trials, G text features, Q context values, C = 1 + Q, K factors, P = C + K,
M = G + Q shared effects, H groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.mixed.variances import Array, ItemVariances

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The posterior over the n items that have trials."""

    scale_nP: Array
    """diag(S) that it was made with."""
    own_nPP: Array
    """V: covariance of an item's effects given the shared ones."""
    deviation_nP: Array
    """Posterior mean less prior mean."""
    shared_M: Array
    shared_covariance_MM: Array
    promise_nC: Array
    promise_covariance_nCC: Array
    groups: Codes
    group_mean: Array
    group_precision: Array
    group_pull: Array
    """k_g of the elimination: how the shared effects enter a group's."""


def solve(
    moments_nPP: Array,
    pulls_nP: Array,
    text_nG: Array,
    groups_n: Codes | None,
    num_context: int,
    variances: ItemVariances,
    seen_n: npt.NDArray[np.intp],
) -> Solved:
    """Return the posterior of the items `seen_n`, whose sums are given."""
    width = 1 + num_context
    scale_nP = variances.of_items(seen_n, num_context)
    own_nPP, precision_nCC = _given_shared(moments_nPP, scale_nP, width)
    pull_nC = (times(own_nPP, pulls_nP) / scale_nP)[:, :width]
    information_MM, gathered_M = _regression(precision_nCC, pull_nC, text_nG, variances)
    groups = _Groups.of(precision_nCC, pull_nC, text_nG, groups_n, variances.group)
    if groups_n is not None:
        weighted_HM = groups.enters_HM / groups.precision_H[:, None]
        information_MM -= weighted_HM.T @ groups.enters_HM
        gathered_M -= weighted_HM.T @ groups.sum_H
    covariance_MM = np.linalg.inv(information_MM)
    covariance_MM = (covariance_MM + covariance_MM.T) / 2.0
    shared_M = covariance_MM @ gathered_M
    group_mean_H = (groups.sum_H - groups.enters_HM @ shared_M) / groups.precision_H

    entry_nM = _entry(text_nG, num_context)
    promise_nC = _promised(entry_nM, shared_M, num_context)
    if groups_n is not None:
        promise_nC[:, 0] += group_mean_H[groups.member_n]
        entry_nM -= (groups.enters_HM / groups.precision_H[:, None])[groups.member_n]
    promise_covariance_nCC = _through(entry_nM, covariance_MM, num_context)
    if groups_n is not None:
        promise_covariance_nCC[:, 0, 0] += 1.0 / groups.precision_H[groups.member_n]
    rest_nP = pulls_nP - times(moments_nPP[:, :, :width], promise_nC)
    return Solved(
        scale_nP=scale_nP,
        own_nPP=own_nPP,
        deviation_nP=times(own_nPP, rest_nP),
        shared_M=shared_M,
        shared_covariance_MM=covariance_MM,
        promise_nC=promise_nC,
        promise_covariance_nCC=promise_covariance_nCC,
        groups=groups.labels_H,
        group_mean=group_mean_H,
        group_precision=groups.precision_H,
        group_pull=groups.enters_HM,
    )


def _given_shared(moments_nPP: Array, scale_nP: Array, width: int) -> tuple[Array, Array]:
    """Return V (n, P, P), and the precision of what was promised, S^-1 - S^-1 V S^-1, (n, C, C).

    V = (A + S^-1)^-1 by the symmetric form S^1/2 (S^1/2 A S^1/2 + I)^-1 S^1/2.
    """
    root_nP = np.sqrt(scale_nP)
    outer_nPP = root_nP[:, :, None] * root_nP[:, None, :]
    one_PP = np.eye(scale_nP.shape[1])
    own_nPP = np.linalg.inv(moments_nPP * outer_nPP + one_PP)
    own_nPP = (own_nPP + own_nPP.swapaxes(1, 2)) / 2.0
    precision_nCC = (one_PP - own_nPP)[:, :width, :width] / outer_nPP[:, :width, :width]
    return own_nPP * outer_nPP, precision_nCC


def _regression(
    precision_nCC: Array, pull_nC: Array, text_nG: Array, variances: ItemVariances
) -> tuple[Array, Array]:
    """Return information (M, M) and pull (M,) of the shared effects, their prior included."""
    num_text, num_context = text_nG.shape[1], pull_nC.shape[1] - 1
    prior_M = np.full(num_text + num_context, variances.shared_context)
    prior_M[:num_text] = variances.text
    prior_M[0] = variances.intercept
    first_n, cross_nQ = precision_nCC[:, 0, 0], precision_nCC[:, 0, 1:]
    information_MM = np.diag(1.0 / prior_M)
    information_MM[:num_text, :num_text] += (text_nG * first_n[:, None]).T @ text_nG
    if num_context:
        cross_GQ = text_nG.T @ cross_nQ
        information_MM[:num_text, num_text:] += cross_GQ
        information_MM[num_text:, :num_text] += cross_GQ.T
        information_MM[num_text:, num_text:] += precision_nCC[:, 1:, 1:].sum(0)
    return information_MM, np.concatenate([text_nG.T @ pull_nC[:, 0], pull_nC[:, 1:].sum(0)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """What the items say of their groups."""

    labels_H: Codes
    member_n: npt.NDArray[np.intp]
    precision_H: Array
    sum_H: Array
    enters_HM: Array

    @classmethod
    def of(
        cls,
        precision_nCC: Array,
        pull_nC: Array,
        text_nG: Array,
        groups_n: Codes | None,
        variance: float,
    ) -> _Groups:
        if groups_n is None:
            none, size = np.zeros(0), text_nG.shape[1] + pull_nC.shape[1] - 1
            return cls(
                labels_H=np.zeros(0, np.int64),
                member_n=np.zeros(0, np.intp),
                precision_H=none,
                sum_H=none,
                enters_HM=np.zeros((0, size)),
            )
        first_n = precision_nCC[:, 0, 0]
        labels_H, member_n = np.unique(groups_n, return_inverse=True)
        rows_nM = np.hstack([text_nG * first_n[:, None], precision_nCC[:, 0, 1:]])
        enters_HM = np.zeros((len(labels_H), rows_nM.shape[1]))
        np.add.at(enters_HM, member_n, rows_nM)
        held_H = np.bincount(member_n, first_n, len(labels_H))
        return cls(
            labels_H=labels_H,
            member_n=member_n,
            precision_H=np.asarray(1.0 / variance + held_H),
            sum_H=np.asarray(np.bincount(member_n, pull_nC[:, 0], len(labels_H))),
            enters_HM=enters_HM,
        )


def times(matrix_nPQ: Array, vector_nQ: Array) -> Array:
    """Return the products of n matrices with a vector each, (n, P)."""
    return np.asarray(np.matmul(matrix_nPQ, vector_nQ[:, :, None])[:, :, 0])


def _entry(text_nG: Array, num_context: int) -> Array:
    """Return how the shared effects enter the mean that is promised of each item, (n, M).

    Into its context effects enter the shared ones as they are.
    """
    entry_nM = np.zeros((len(text_nG), text_nG.shape[1] + num_context))
    entry_nM[:, : text_nG.shape[1]] = text_nG
    return entry_nM


def _promised(entry_nM: Array, shared_M: Array, num_context: int) -> Array:
    """Return each item's promise, (n, C)."""
    promise_nC = np.empty((len(entry_nM), 1 + num_context))
    promise_nC[:, 0] = entry_nM @ shared_M
    promise_nC[:, 1:] = shared_M[len(shared_M) - num_context :]
    return promise_nC


def _through(entry_nM: Array, covariance_MM: Array, num_context: int) -> Array:
    """Return the covariance of each item's promise, (n, C, C)."""
    first = len(covariance_MM) - num_context
    half_nM = entry_nM @ covariance_MM
    through_nCC = np.empty((len(entry_nM), 1 + num_context, 1 + num_context))
    through_nCC[:, 0, 0] = times(half_nM[:, None, :], entry_nM)[:, 0]
    through_nCC[:, 0, 1:] = through_nCC[:, 1:, 0] = half_nM[:, first:]
    through_nCC[:, 1:, 1:] = covariance_MM[first:, first:]
    return through_nCC


def promises(
    solved: Solved, text_nG: Array, groups_n: Codes | None, variances: ItemVariances
) -> tuple[Array, Array]:
    """Return mean (n, C) and covariance (n, C, C) of what the shared effects say of items."""
    num_context = len(solved.shared_M) - text_nG.shape[1]
    entry_nM = _entry(text_nG, num_context)
    apart = np.zeros(len(text_nG))
    promise = _promised(entry_nM, solved.shared_M, num_context)
    if groups_n is not None:
        place = np.searchsorted(solved.groups, groups_n)
        place = np.minimum(place, max(len(solved.groups) - 1, 0))
        known = solved.groups[place] == groups_n if len(solved.groups) else np.zeros(0, bool)
        apart = np.full(len(text_nG), variances.group)
        if known.any():
            at = place[known]
            promise[known, 0] += solved.group_mean[at]
            entry_nM[known] -= (solved.group_pull / solved.group_precision[:, None])[at]
            apart[known] = 1.0 / solved.group_precision[at]
    covariance = _through(entry_nM, solved.shared_covariance_MM, num_context)
    covariance[:, 0, 0] += apart
    return promise, covariance
