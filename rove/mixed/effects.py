"""The Gaussian effects of the mixed model, each block exactly conditioned on the others.

    eta = beta_j . [1, c, u_i] + theta_i . [1, f_j]     (u_i, the last of theta_i; v_j, of beta_j)
    beta_j ~ N([w . g_j + d_group(j), t, 0], diag(S))      item mean, context effects, factors v_j
    w, t, d ~ N(0, s_w), N(0, s_t), N(0, s_d)              shared: text map, context, groups
    theta_i ~ N(0, T)                                      user mean, taste over text, factors u_i

`solve_items` integrates every item's effects out of the shared ones (two levels of a hierarchical
linear model: Lindley and Smith 1972), so an item without trials knows how sure its promise is, and
the covariance of an item with trials holds the map's uncertainty too.

    rove.mixed.shared     the shared effects, items integrated out
    rove.mixed.variances  the variances, and how far data move them

Shapes: J items, I users, G text features of the map (the first is 1), Q context values, C = 1 + Q,
K learned factors, P = C + K, D = size of theta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.compiled import compiled
from rove.mixed.shared import Codes as Codes
from rove.mixed.shared import Solved, promises, solve, times
from rove.mixed.variances import STRENGTH, moved
from rove.mixed.variances import Array as Array
from rove.mixed.variances import ItemVariances as ItemVariances


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
    moments = np.zeros((num, rows_nP.shape[1], rows_nP.shape[1]))
    pulls = np.zeros((num, rows_nP.shape[1]))
    _gather(codes, rows_nP, weights_n, responses_n, moments, pulls)
    return moments, pulls


@compiled("void(i8[::1], f8[:,::1], f8[::1], f8[::1], f8[:,:,::1], f8[:,::1])")
def _gather(
    codes: Codes,
    rows_nP: Array,
    weights_n: Array,
    responses_n: Array,
    moments: Array,
    pulls: Array,
) -> None:
    num_columns = rows_nP.shape[1]
    for n in range(len(codes)):
        code = codes[n]
        if code < 0:
            continue
        for q in range(num_columns):
            weighted = weights_n[n] * rows_nP[n, q]
            pulls[code, q] += weighted * responses_n[n]
            if weighted != 0.0:  # contexts of key=word are mostly zeros
                for p in range(num_columns):
                    moments[code, q, p] += weighted * rows_nP[n, p]


@compiled("f8[::1](f8[:,::1], f8[:,::1], i8[::1])")
def products(rows_nP: Array, effects_JP: Array, codes_n: Codes) -> Array:
    """Return each row's product with the leading effects of its code, (n,)."""
    product_n = np.zeros(len(rows_nP))
    for n in range(len(rows_nP)):
        for p in range(rows_nP.shape[1]):
            product_n[n] += rows_nP[n, p] * effects_JP[codes_n[n], p]
    return product_n


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
    text = text_JG[seen]
    for _ in range(num_rounds):
        solved = solve(moments, pulls, text, groups, num_context, variances, seen)
        _move(solved, variances, prior, num_context, text_JG, seen)
    solved = solve(moments, pulls, text, groups, num_context, variances, seen)
    return _spread(solved, seen, text_JG, groups_J, num_context, variances)


def _move(
    solved: Solved,
    variances: ItemVariances,
    prior: ItemVariances,
    num_context: int,
    text_JG: Array,
    seen: npt.NDArray[np.intp],
) -> None:
    num_text = text_JG.shape[1]
    scale_nP = solved.scale_nP
    # E[(beta - promise)^2] also has the promise's uncertainty: V S^-1 brings it to the effects.
    width = 1 + num_context
    own_PP = solved.own_nPP
    remaining = own_PP[:, :, :width] / scale_nP[:, None, :width]
    loss = np.eye(own_PP.shape[1], width) - remaining
    spread = np.add.reduce(np.matmul(loss, solved.promise_covariance_nCC) * loss, axis=2)
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


def _moved_shared(solved: Solved, part: slice, variance: float, start: float) -> float:
    diagonal = np.diag(solved.shared_covariance_MM)[part]
    square = float(np.square(solved.shared_M[part]).sum())
    return moved(square, float((1.0 - diagonal / variance).sum()), start)


def _spread(
    solved: Solved,
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
    if len(seen) < num_items:
        is_unseen = np.ones(num_items, bool)
        is_unseen[seen] = False
        unseen = np.flatnonzero(is_unseen)
        promise, uncertain = promises(solved, text_JG[unseen], _of(groups_J, unseen), variances)
        mean[unseen, :width] = promise
        covariance[unseen] = np.diag(scale_P)
        covariance[unseen, :width, :width] += uncertain
    mean[seen] = solved.deviation_nP
    mean[seen, :width] += solved.promise_nC
    carried = solved.own_nPP[:, :, :width] / solved.scale_nP[:, None, :width]
    added = np.matmul(np.matmul(carried, solved.promise_covariance_nCC), carried.transpose(0, 2, 1))
    covariance[seen] = solved.own_nPP + added
    return ItemEffects(
        mean_JP=mean,
        covariance_JPP=covariance,
        shared_M=solved.shared_M,
        shared_covariance_MM=solved.shared_covariance_MM,
    )


def _of(groups_J: Codes | None, rows: npt.NDArray[np.intp]) -> Codes | None:
    return None if groups_J is None else groups_J[rows]


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
        mean = times(covariance, pulls_ID)
        if number == num_rounds:
            break
        second = mean[:, :own].T @ mean[:, :own]
        second += covariance[:, :own, :own].sum(0)
        population = population.copy()
        weight = STRENGTH + own
        population[:own, :own] = (weight * prior_DD[:own, :own] + second) / (weight + num_users)
    return UserEffects(mean_ID=mean, covariance_IDD=covariance, population_DD=population)
