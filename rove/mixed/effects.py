"""The Gaussian effects of the mixed model, each block exactly conditioned on the others.

    eta = beta_j . [1, c, u_i] + theta_i . [1, f_j]     (u_i, the last of theta_i; v_j, of beta_j)
    beta_j ~ N([w . g_j + d_group(j), t, 0], diag(S))      item mean, context effects, factors v_j
    w, t, d ~ N(0, s_w), N(0, s_t), N(0, s_d)              shared: text map, context, groups
    theta_i ~ N(0, T)                                      user mean, taste over text, factors u_i

`solve_items` integrates every item's effects out of the shared ones (two levels of a hierarchical
linear model: Lindley and Smith 1972), so an item without trials knows how sure its promise is, and
the covariance of an item with trials holds the map's uncertainty too. Variances move to the fixed
point of the marginal likelihood (MacKay 1992) under an inverse-gamma prior of `strength`
observations, which keeps them from vanishing before there are data.

Shapes: J items, I users, G text features of the map (the first is 1), Q context values, C = 1 + Q,
K learned factors, P = C + K, D = size of theta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

STRENGTH = 2.0
"""Observations that the prior of a variance counts for."""


@dataclass(slots=True, kw_only=True)
class ItemVariances:
    """Variances of the items' and the shared effects; starting values, then what was learnt."""

    mean: float
    """Of an item's mean around what its text and group promise."""
    context: float
    """Of an item's context effects around the shared ones: the mean over the items."""
    context_J: Array | None = None
    """Each item's own: what is rewarded alike in all contexts must not silence what is not."""
    factors_K: Array
    text: float
    """Of the text map's weights."""
    shared_context: float
    group: float
    intercept: float

    def of_effects(self, num_context: int) -> Array:
        """Return diag(S) of an item without trials, (P,)."""
        return np.concatenate([[self.mean], np.full(num_context, self.context), self.factors_K])

    def of_items(self, items_n: npt.NDArray[np.intp], num_context: int) -> Array:
        """Return diag(S) of items, (n, P)."""
        scale_nP = np.tile(self.of_effects(num_context), (len(items_n), 1))
        if self.context_J is not None:
            known = items_n < len(self.context_J)
            own_n = self.context_J[items_n[known]]
            scale_nP[known, 1 : 1 + num_context] = own_n[:, None]
        return scale_nP

    def copy(self) -> ItemVariances:
        """Return a copy that can be changed."""
        return ItemVariances(
            mean=self.mean,
            context=self.context,
            context_J=None if self.context_J is None else self.context_J.copy(),
            factors_K=self.factors_K.copy(),
            text=self.text,
            shared_context=self.shared_context,
            group=self.group,
            intercept=self.intercept,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemEffects:
    """Posterior of all items' effects and of the shared ones."""

    mean_JP: Array
    covariance_JPP: Array
    shared_M: Array
    """[w, t], M = G + Q."""
    shared_covariance_MM: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEffects:
    """Posterior of all users' effects."""

    mean_ID: Array
    covariance_IDD: Array
    population_DD: Array
    """T."""


def gather(
    codes: Codes, num: int, rows_nP: Array, weights_n: Array, responses_n: Array
) -> tuple[Array, Array]:
    """Return sum w z z' (num, P, P) and sum w z y (num, P) per code; -1 is left out."""
    num_columns = rows_nP.shape[1]
    moments = np.zeros((num, num_columns, num_columns))
    pulls = np.zeros((num, num_columns))
    if num_columns == 1:
        known = codes >= 0
        square_n = weights_n * rows_nP[:, 0] ** 2
        moments[:, 0, 0] = np.bincount(codes[known], square_n[known], num)
        pull_n = weights_n * rows_nP[:, 0] * responses_n
        pulls[:, 0] = np.bincount(codes[known], pull_n[known], num)
        return moments, pulls
    order = np.argsort(codes, kind="stable")
    sorted_n = codes[order]
    first_n = np.ones(len(codes), bool)
    first_n[1:] = np.diff(sorted_n) != 0
    bounds = np.append(np.flatnonzero(first_n), len(codes))
    z_nP, w_n, y_n = rows_nP[order], weights_n[order], responses_n[order]
    scaled_nP = z_nP * w_n[:, None]
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        code = sorted_n[start]
        if code >= 0:
            part = scaled_nP[start:stop].T
            moments[code] = part @ z_nP[start:stop]
            pulls[code] = part @ y_n[start:stop]
    return moments, pulls


def solve_items(
    moments_JPP: Array,
    pulls_JP: Array,
    text_JG: Array,
    groups_J: Codes | None,
    num_context: int,
    variances: ItemVariances,
    prior: ItemVariances,
    num_rounds: int,
) -> ItemEffects:
    """Return the joint posterior, and bring `variances` to what the moments support."""
    seen = np.flatnonzero(moments_JPP[:, 0, 0] > 0.0)
    moments, pulls = moments_JPP[seen], pulls_JP[seen]
    groups = None if groups_J is None else groups_J[seen]
    for _ in range(num_rounds):
        solved = _solve(moments, pulls, text_JG[seen], groups, num_context, variances, seen)
        _move(solved, variances, prior, num_context, text_JG, seen)
    solved = _solve(moments, pulls, text_JG[seen], groups, num_context, variances, seen)
    return _spread(solved, seen, text_JG, groups_J, num_context, variances)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solved:
    """The posterior over the n items that have trials."""

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
    """k_g of `_shared`: how the shared effects enter a group's."""


def _solve(
    moments: Array,
    pulls: Array,
    text_nG: Array,
    groups_n: Codes | None,
    num_context: int,
    variances: ItemVariances,
    seen: npt.NDArray[np.intp],
) -> _Solved:
    num_items, num_effects = pulls.shape
    num_text, width = text_nG.shape[1], 1 + num_context
    scale_nP = variances.of_items(seen, num_context)
    # V = (A + S^-1)^-1 by the symmetric form S^1/2 (S^1/2 A S^1/2 + I)^-1 S^1/2.
    root_nP = np.sqrt(scale_nP)
    outer_nPP = root_nP[:, :, None] * root_nP[:, None, :]
    inner = moments * outer_nPP + np.eye(num_effects)
    own = np.linalg.inv(inner)
    own = (own + own.swapaxes(1, 2)) / 2.0
    # Of the promise: precision S^-1 - S^-1 V S^-1, pull S^-1 V b.
    precision = (np.eye(num_effects) - own)[:, :width, :width]
    precision = precision / outer_nPP[:, :width, :width]
    own = own * outer_nPP
    pull = (np.einsum("npq,nq->np", own, pulls) / scale_nP)[:, :width]

    size = num_text + num_context
    prior_M = np.full(size, variances.shared_context)
    prior_M[:num_text] = variances.text
    prior_M[0] = variances.intercept
    first_n, cross_nQ = precision[:, 0, 0], precision[:, 0, 1:]
    information = np.diag(1.0 / prior_M)
    information[:num_text, :num_text] += (text_nG * first_n[:, None]).T @ text_nG
    if num_context:
        cross_GQ = text_nG.T @ cross_nQ
        information[:num_text, num_text:] += cross_GQ
        information[num_text:, :num_text] += cross_GQ.T
        information[num_text:, num_text:] += precision[:, 1:, 1:].sum(0)
    gathered_M = np.concatenate([text_nG.T @ pull[:, 0], pull[:, 1:].sum(0)])
    if groups_n is None:
        labels = member = np.zeros(0, np.int64)
        group_precision = group_sum = np.zeros(0)
        enters = np.zeros((0, size))
    else:
        labels, member = np.unique(groups_n, return_inverse=True)
        num_groups = len(labels)
        held = np.bincount(member, first_n, num_groups)
        group_precision = np.asarray(1.0 / variances.group + held)
        group_sum = np.asarray(np.bincount(member, pull[:, 0], num_groups))
        rows = np.hstack([text_nG * first_n[:, None], cross_nQ])
        enters = np.zeros((num_groups, size))
        np.add.at(enters, member, rows)
        information -= (enters / group_precision[:, None]).T @ enters
        gathered_M -= (enters / group_precision[:, None]).T @ group_sum
    covariance = np.linalg.inv(information)
    covariance = (covariance + covariance.T) / 2.0
    shared_M = covariance @ gathered_M
    group_mean = (group_sum - enters @ shared_M) / group_precision

    design = _design(text_nG, num_context)
    promise = np.einsum("ncm,m->nc", design, shared_M)
    if groups_n is not None:
        promise[:, 0] += group_mean[member]
        design[:, 0] -= (enters / group_precision[:, None])[member]
    promise_covariance = np.einsum("ncm,mk,ndk->ncd", design, covariance, design, optimize=True)
    if groups_n is not None:
        promise_covariance[:, 0, 0] += 1.0 / group_precision[member]
    promised = np.zeros((num_items, num_effects))
    promised[:, :width] = promise
    deviation = np.einsum("npq,nq->np", own, pulls - np.einsum("npq,nq->np", moments, promised))
    return _Solved(
        own_nPP=own,
        deviation_nP=deviation,
        shared_M=shared_M,
        shared_covariance_MM=covariance,
        promise_nC=promise,
        promise_covariance_nCC=promise_covariance,
        groups=labels,
        group_mean=group_mean,
        group_precision=group_precision,
        group_pull=enters,
    )


def _design(text_nG: Array, num_context: int) -> Array:
    """Return how the shared effects enter each item's promise, (n, C, M)."""
    num_items, num_text = text_nG.shape
    design = np.zeros((num_items, 1 + num_context, num_text + num_context))
    design[:, 0, :num_text] = text_nG
    design[:, 1:, num_text:] = np.eye(num_context)
    return design


def moved(square: float, supported: float, start: float) -> float:
    """Return the variance at which that sum of squares is expected of so many known effects."""
    return max((STRENGTH * start + square) / (STRENGTH + supported), 1e-9)


def _move(
    solved: _Solved,
    variances: ItemVariances,
    prior: ItemVariances,
    num_context: int,
    text_JG: Array,
    seen: npt.NDArray[np.intp],
) -> None:
    num_text = text_JG.shape[1]
    scale_nP = variances.of_items(seen, num_context)
    # E[(beta - promise)^2] also has the promise's uncertainty: V S^-1 brings it to the effects.
    width = 1 + num_context
    own_PP = solved.own_nPP
    remaining = own_PP[:, :, :width] / scale_nP[:, None, :width]
    kept = np.zeros_like(remaining)
    kept[:, np.arange(width), np.arange(width)] = 1.0
    loss = kept - remaining
    spread = np.einsum("npc,ncd,npd->np", loss, solved.promise_covariance_nCC, loss, optimize=True)
    diagonal = np.diagonal(own_PP, axis1=1, axis2=2)
    square_nP = np.square(solved.deviation_nP) + spread
    supported_nP = 1.0 - diagonal / scale_nP
    square_P, supported_P = square_nP.sum(0), supported_nP.sum(0)
    variances.mean = moved(square_P[0], supported_P[0], prior.mean)
    if num_context:
        block = slice(1, width)
        held = STRENGTH * variances.context + square_nP[:, block].sum(1)
        own_n = np.maximum(held / (STRENGTH + supported_nP[:, block].sum(1)), 1e-9)
        context_J = np.full(len(text_JG), variances.context)
        context_J[seen] = own_n
        variances.context_J = context_J
        # The mean, not a pool: one item whose context matters shows that contexts may matter.
        variances.context = (STRENGTH * prior.context + own_n.sum()) / (STRENGTH + len(own_n))
        shared = slice(num_text, None)
        variances.shared_context = _moved_shared(
            solved, shared, variances.shared_context, prior.shared_context
        )
    for k in range(len(variances.factors_K)):
        variances.factors_K[k] = moved(
            square_P[width + k], supported_P[width + k], prior.factors_K[k]
        )
    if num_text > 1:
        variances.text = _moved_shared(solved, slice(1, num_text), variances.text, prior.text)
    if len(solved.groups):
        square = float(np.square(solved.group_mean).sum())
        supported = len(solved.groups) - (1.0 / solved.group_precision).sum() / variances.group
        variances.group = moved(square, supported, prior.group)


def _moved_shared(solved: _Solved, part: slice, variance: float, start: float) -> float:
    diagonal = np.diag(solved.shared_covariance_MM)[part]
    square = float(np.square(solved.shared_M[part]).sum())
    return moved(square, float((1.0 - diagonal / variance).sum()), start)


def _spread(
    solved: _Solved,
    seen: npt.NDArray[np.intp],
    text_JG: Array,
    groups_J: Codes | None,
    num_context: int,
    variances: ItemVariances,
) -> ItemEffects:
    """Return the posterior of every item: with trials, or as its text and group promise."""
    scale_P = variances.of_effects(num_context)
    width, num_items = 1 + num_context, len(text_JG)
    mean = np.zeros((num_items, len(scale_P)))
    covariance = np.zeros((num_items, len(scale_P), len(scale_P)))
    unseen = np.setdiff1d(np.arange(num_items), seen)
    promise, uncertain = promises(solved, text_JG[unseen], _of(groups_J, unseen), variances)
    mean[unseen, :width] = promise
    covariance[unseen] = np.diag(scale_P)
    covariance[unseen, :width, :width] += uncertain
    mean[seen] = solved.deviation_nP
    mean[seen, :width] += solved.promise_nC
    scale_nP = variances.of_items(seen, num_context)
    carried = solved.own_nPP[:, :, :width] / scale_nP[:, None, :width]
    covariance[seen] = solved.own_nPP + np.einsum(
        "npc,ncd,nqd->npq", carried, solved.promise_covariance_nCC, carried, optimize=True
    )
    return ItemEffects(
        mean_JP=mean,
        covariance_JPP=covariance,
        shared_M=solved.shared_M,
        shared_covariance_MM=solved.shared_covariance_MM,
    )


def _of(groups_J: Codes | None, rows: npt.NDArray[np.intp]) -> Codes | None:
    return None if groups_J is None else groups_J[rows]


def promises(
    solved: _Solved, text_nG: Array, groups_n: Codes | None, variances: ItemVariances
) -> tuple[Array, Array]:
    """Return mean (n, C) and covariance (n, C, C) of what the shared effects say of items."""
    num_context = len(solved.shared_M) - text_nG.shape[1]
    design = _design(text_nG, num_context)
    apart = np.zeros(len(text_nG))
    promise = np.einsum("ncm,m->nc", design, solved.shared_M)
    if groups_n is not None:
        place = np.searchsorted(solved.groups, groups_n)
        place = np.minimum(place, max(len(solved.groups) - 1, 0))
        known = solved.groups[place] == groups_n if len(solved.groups) else np.zeros(0, bool)
        apart = np.full(len(text_nG), variances.group)
        if known.any():
            at = place[known]
            promise[known, 0] += solved.group_mean[at]
            design[known, 0] -= (solved.group_pull / solved.group_precision[:, None])[at]
            apart[known] = 1.0 / solved.group_precision[at]
    covariance = np.einsum(
        "ncm,mk,ndk->ncd", design, solved.shared_covariance_MM, design, optimize=True
    )
    covariance[:, 0, 0] += apart
    return promise, covariance


def solve_users(
    moments_IDD: Array,
    pulls_ID: Array,
    population_DD: Array,
    prior_DD: Array,
    num_factors: int,
    num_rounds: int,
) -> UserEffects:
    """Return the posterior of every user's effects, and their covariance as the users show it.

    T by EM; the learned factors (the last K) keep unit variance: their scale is that of v_j.
    """
    num_users, size = pulls_ID.shape
    own = size - num_factors
    population = population_DD
    mean, covariance = np.zeros_like(pulls_ID), np.zeros_like(moments_IDD)
    for number in range(num_rounds + 1):
        precision = moments_IDD + np.linalg.inv(population)
        covariance = np.linalg.inv(precision)
        covariance = (covariance + covariance.swapaxes(1, 2)) / 2.0
        mean = np.einsum("ide,ie->id", covariance, pulls_ID)
        if number == num_rounds:
            break
        second = np.einsum("id,ie->de", mean[:, :own], mean[:, :own])
        second += covariance[:, :own, :own].sum(0)
        population = population.copy()
        weight = STRENGTH + own
        population[:own, :own] = (weight * prior_DD[:own, :own] + second) / (weight + num_users)
    return UserEffects(mean_ID=mean, covariance_IDD=covariance, population_DD=population)
