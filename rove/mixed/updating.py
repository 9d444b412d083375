"""Condition many Gaussian effects on many trials at once: the update between refits.

Group g holds effects N(m, C). Its trials y = h . effects + noise of precision w turn them into

    A = sum w h h',  C' = (I + C A)^-1 C,  m' = m + C' sum w h (y - h . m)

which is what one rank-one update a trial would come to, in any order.

- Groups are solved together. Where no group has more than `MAX_RANK_ONE` trials, their rank-one
  updates go in rounds instead: C w h h' C / (1 + w h' C h) of one trial each.
- Kept in the arrays' own precision, solved in float64.

Shapes: n trials, G groups, P effects.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

MAX_RANK_ONE = 3


def condition(
    mean_GP: npt.NDArray[np.floating],
    covariance_GPP: npt.NDArray[np.floating],
    group_n: Codes,
    h_nP: Array,
    weight_n: Array,
    error_n: Array,
) -> None:
    """Move the groups' means and covariances, in place; `error_n` is y - h . m before."""
    order = np.argsort(group_n, kind="stable")
    sorted_n = group_n[order]
    first_g = np.flatnonzero(np.concatenate([[True], sorted_n[1:] != sorted_n[:-1]]))
    size_g = np.diff(first_g, append=len(order))
    if size_g.max() > MAX_RANK_ONE:
        h_nP, weight_n, error_n = h_nP[order], weight_n[order], error_n[order]
        _solve(mean_GP, covariance_GPP, sorted_n[first_g], first_g, size_g, h_nP, weight_n, error_n)
        return
    before_nP = None if size_g.max() == 1 else mean_GP[group_n].astype(np.float64)
    for place in range(int(size_g.max())):
        rows = order[first_g[size_g > place] + place]
        left_n = error_n[rows]
        if before_nP is not None:
            moved_nP = mean_GP[group_n[rows]] - before_nP[rows]
            left_n = left_n - np.einsum("np,np->n", h_nP[rows], moved_nP)
        _rank_one(mean_GP, covariance_GPP, group_n[rows], h_nP[rows], weight_n[rows], left_n)


def condition_one(
    mean_P: npt.NDArray[np.floating],
    covariance_PP: npt.NDArray[np.floating],
    h_P: Array,
    weight: float,
    error: float,
) -> None:
    """Move one mean and covariance by one trial, in place; `error` is y - h . m before."""
    pull_P = covariance_PP @ h_P
    gain = weight / (1.0 + weight * float(h_P @ pull_P))
    mean_P += (gain * error) * pull_P
    covariance_PP -= (gain * pull_P)[:, None] * pull_P


def _rank_one(
    mean_GP: npt.NDArray[np.floating],
    covariance_GPP: npt.NDArray[np.floating],
    group_g: Codes,
    h_gP: Array,
    weight_g: Array,
    error_g: Array,
) -> None:
    covariance_gPP = covariance_GPP[group_g]
    pull_gP = np.matmul(covariance_gPP, h_gP[:, :, None])[:, :, 0]
    gain_g = weight_g / (1.0 + weight_g * np.einsum("gp,gp->g", h_gP, pull_gP))
    mean_GP[group_g] += (gain_g * error_g)[:, None] * pull_gP
    scaled_gP = (pull_gP * np.sqrt(gain_g)[:, None]).astype(covariance_GPP.dtype)
    covariance_gPP -= scaled_gP[:, :, None] * scaled_gP[:, None, :]
    covariance_GPP[group_g] = covariance_gPP


def _solve(
    mean_GP: npt.NDArray[np.floating],
    covariance_GPP: npt.NDArray[np.floating],
    group_g: Codes,
    first_g: npt.NDArray[np.intp],
    size_g: npt.NDArray[np.intp],
    h_nP: Array,
    weight_n: Array,
    error_n: Array,
) -> None:
    """Condition by the sums of trials that lie together, group by group."""
    num_effects = h_nP.shape[1]
    weighted_nP = h_nP * weight_n[:, None]
    pull_gP = np.add.reduceat(weighted_nP * error_n[:, None], first_g)
    if len(first_g) * size_g.max() <= 4 * len(h_nP):  # about even: one product of padded rows
        longest = int(size_g.max())
        place_n = np.arange(len(h_nP)) - np.repeat(first_g, size_g)
        group_n = np.repeat(np.arange(len(first_g)), size_g)
        padded_gnP = np.zeros((len(first_g), longest, num_effects))
        padded_gnP[group_n, place_n] = np.sqrt(weight_n)[:, None] * h_nP
        precision_gPP = np.matmul(padded_gnP.transpose(0, 2, 1), padded_gnP)
    else:
        precision_gPP = np.add.reduceat(weighted_nP[:, :, None] * h_nP[:, None, :], first_g)
    covariance_gPP = covariance_GPP[group_g].astype(np.float64)
    grown_gPP = np.eye(num_effects) + np.matmul(covariance_gPP, precision_gPP)
    new_gPP = np.linalg.solve(grown_gPP, covariance_gPP)
    new_gPP = (new_gPP + new_gPP.transpose(0, 2, 1)) / 2.0
    mean_GP[group_g] += np.matmul(new_gPP, pull_gP[:, :, None])[:, :, 0]
    covariance_GPP[group_g] = new_gPP
