"""Predicted rewards of every action from a log's own context features: ridge, action by action.

Every action has its own coefficients on the features, shrunk towards one model of all actions:
q(x, a) = b . x + b_a . x, with x extended by a constant. The ridges are chosen by leave-one-out
error, so an action with few rows is predicted by the common model.

- `cross_fitted`: no row is predicted from itself; for DM, DR and their relatives.
- `predicted_ahead`: every row is predicted from earlier rows; for confidence sequences too.
"""

from __future__ import annotations

import numpy as np

from rove.errors import DataError
from rove.ope.log import Floats, Ints, Logged

_RIDGES = np.geomspace(1e-1, 1e4, 11)
_KMEANS_STEPS = 50


def cross_fitted(logged: Logged, rng: np.random.Generator, *, folds: int = 5) -> Floats:
    """Return q_NS, each fold predicted by a model of the others (Chernozhukov et al. 2018)."""
    if folds < 2:
        raise DataError(f"cross-fitting needs at least 2 folds, got {folds}; 5 are usual")
    n = len(logged.action_N)
    fold_N = rng.permutation(n) % min(folds, n)
    x_NF = _extended(logged)
    q_NS = np.empty((n, logged.num_actions))
    for fold in range(int(fold_N.max()) + 1):
        held_N = fold_N == fold
        kept = np.flatnonzero(~held_N)
        q_NS[held_N] = x_NF[held_N] @ _fit(logged, x_NF, kept)
    return _within(q_NS, logged.reward_range)


def predicted_ahead(logged: Logged, *, start: int = 32, growth: float = 1.5) -> Floats:
    """Return q_NS, each row predicted by a model of earlier rows, refitted as the log grows.

    The first `start` rows are predicted with the middle of the reward range.
    """
    n = len(logged.action_N)
    x_NF = _extended(logged)
    q_NS = np.full((n, logged.num_actions), sum(logged.reward_range) / 2)
    known = min(start, n)
    while known < n:
        until = min(n, int(known * growth) + 1)
        q_NS[known:until] = x_NF[known:until] @ _fit(logged, x_NF, np.arange(known))
        known = until
    return _within(q_NS, logged.reward_range)


def _within(q_NS: Floats, bounds: tuple[float, float]) -> Floats:
    return np.asarray(np.clip(q_NS, bounds[0], bounds[1]), dtype=np.float64)


def _extended(logged: Logged) -> Floats:
    """Return standardised features and a constant, (N, F + 1).

    Scaling looks at the contexts of all rows but at no reward, so predictions stay honest.
    """
    n = len(logged.action_N)
    if logged.features_NF is None:
        return np.ones((n, 1))
    deviation_F = logged.features_NF.std(0)
    x_NF = (logged.features_NF - logged.features_NF.mean(0)) / np.where(
        deviation_F > 1e-12, deviation_F, 1.0
    )
    return np.hstack([x_NF, np.ones((n, 1))])


def _fit(logged: Logged, x_NF: Floats, rows: Ints) -> Floats:
    """Return coefficients of every action, (F + 1, S), from the given rows."""
    x, action, reward = x_NF[rows], logged.action_N[rows], logged.reward_N[rows]
    size = x.shape[1]
    if rows.size == 0:
        middle_F = np.append(np.zeros(size - 1), sum(logged.reward_range) / 2)
        return np.repeat(middle_F[:, None], logged.num_actions, axis=1)
    mean = float(reward.mean())
    common_F = _ridge(x, reward - mean)
    common_F[-1] += mean
    rest = reward - x @ common_F
    coefficients_FS = np.repeat(common_F[:, None], logged.num_actions, axis=1)
    for one in np.unique(action):
        mine = action == one
        coefficients_FS[:, one] += _ridge(x[mine], rest[mine])
    return coefficients_FS


def _ridge(x: Floats, y: Floats) -> Floats:
    """Return ridge coefficients; the ridge of the least leave-one-out error (Allen 1974)."""
    values, vectors = np.linalg.eigh(x.T @ x)
    rotated, pull = x @ vectors, vectors.T @ (x.T @ y)
    inverse_RF = 1 / (np.maximum(values, 0.0) + _RIDGES[:, None])
    fitted_RN = (inverse_RF * pull) @ rotated.T
    leverage_RN = inverse_RF @ np.square(rotated).T
    errors = np.square((y - fitted_RN) / np.maximum(1 - leverage_RN, 1e-9)).mean(1)
    solution: Floats = vectors @ (inverse_RF[int(errors.argmin())] * pull)
    return solution


def categories_of(embeddings_SD: Floats, num_categories: int, rng: np.random.Generator) -> Ints:
    """Return a category of every action, (S,), by k-means over the actions' embeddings.

    Centres start far apart: the first at random, each next at the action farthest from all before.
    """
    chosen = [int(rng.integers(len(embeddings_SD)))]
    while len(chosen) < min(num_categories, len(embeddings_SD)):
        chosen.append(int(_distances(embeddings_SD, embeddings_SD[chosen]).min(1).argmax()))
    centre_CD = embeddings_SD[chosen]
    category_S = np.full(len(embeddings_SD), -1, dtype=np.int64)
    for _ in range(_KMEANS_STEPS):
        nearest_S = _distances(embeddings_SD, centre_CD).argmin(1).astype(np.int64)
        if np.array_equal(nearest_S, category_S):
            break
        category_S = nearest_S
        for one in np.unique(category_S):
            centre_CD[one] = embeddings_SD[category_S == one].mean(0)
    return category_S


def _distances(x_SD: Floats, centre_CD: Floats) -> Floats:
    return np.asarray(np.square(x_SD[:, None, :] - centre_CD).sum(2))
