"""What peers share: text components, running moments, users' histories, top-K; no peer itself.

Shapes: B requests, S candidates, K slots, J items, U users, P components of the text, Q context
values, N observed rewards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Ints, World

MAX_PAIRS = 20_000_000
"""Entries of a table of users by items that a peer may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The rewards of a batch that were observed, one row each."""

    rows_N: Ints
    """The request."""
    slots_N: Ints
    positions_N: Ints
    users_N: Ints
    items_N: Ints
    reward_N: Floats

    def __len__(self) -> int:
        return len(self.rows_N)


def observed(batch: Batch, choice: Choice, feedback: Feedback) -> Observed:
    """Return the observed rewards of a batch."""
    rows_N, slots_N = np.nonzero(np.isfinite(feedback.reward_BK))
    return Observed(
        rows_N=rows_N,
        slots_N=slots_N,
        positions_N=choice.positions_BK[rows_N, slots_N],
        users_N=batch.users_B[rows_N],
        items_N=choice.items(batch)[rows_N, slots_N],
        reward_N=feedback.reward_BK[rows_N, slots_N],
    )


def top(score_BS: Floats, batch: Batch, num_slots: int, rng: np.random.Generator) -> Ints:
    """Return the open positions of the highest scores, best first, ties at random, (B, K)."""
    score_BS = np.where(batch.open_BS, score_BS, -np.inf)
    if num_slots == 1 and (score_BS.max(1, keepdims=True) > score_BS).sum() == (
        score_BS.size - len(score_BS)
    ):
        best_B1: Ints = score_BS.argmax(1)[:, None]
        return best_B1
    order_BS = np.lexsort((rng.random(score_BS.shape), -score_BS), axis=1)
    positions_BK: Ints = order_BS[:, :num_slots]
    return positions_BK


def items_of(batch: Batch) -> Ints:
    """Return the candidates with padding replaced by item 0, so that they can be an index."""
    return np.where(batch.open_BS, batch.candidates_BS, 0)


def components(world: World, number: int) -> Floats:
    """Return the leading principal components of the items' texts, (J, P).

    P = min(number, J - 1, E); the first has unit variance, the others keep their relation to it.
    Without text the width is 0.
    """
    if world.text_JE is None or world.num_items < 2:
        return np.zeros((world.num_items, 0))
    centred_JE = world.text_JE - world.text_JE.mean(0)
    _, axes_EE = np.linalg.eigh(np.asarray(centred_JE.T @ centred_JE, np.float64))
    number = min(number, world.num_items - 1, centred_JE.shape[1])
    scores_JP: Floats = np.asarray(centred_JE, np.float64) @ axes_EE[:, ::-1][:, :number]
    scale = float(scores_JP[:, 0].std()) if number else 1.0
    scores_JP /= max(scale, 1e-12)
    return scores_JP


class Moments:
    """Running mean and variance of rows, each column by itself."""

    def __init__(self, width: int) -> None:
        self.num = 0.0
        self._sum = np.zeros(width)
        self._squares = np.zeros(width)

    def add(self, rows_NQ: Floats) -> None:
        """Count rows."""
        self.num += len(rows_NQ)
        self._sum += rows_NQ.sum(0)
        self._squares += (rows_NQ * rows_NQ).sum(0)

    @property
    def mean(self) -> Floats:
        """The means, 0 before the first row."""
        mean: Floats = self._sum / max(self.num, 1.0)
        return mean

    @property
    def variance(self) -> Floats:
        """The variances, at least 1e-9."""
        variance: Floats = self._squares / max(self.num, 1.0) - self.mean**2
        return np.maximum(variance, 1e-9)

    def standardised(self, rows_NQ: Floats) -> Floats:
        """Return rows with mean 0 and variance 1, constant columns as 0, within 5 deviations."""
        scaled = (rows_NQ - self.mean) / np.sqrt(np.maximum(self.variance, 1e-6))
        return np.clip(scaled, -5.0, 5.0)


class Context:
    """Context values, standardised by what was seen so far, at most `width` of them.

    More values are reduced by a fixed random orthogonal projection.
    """

    def __init__(self, world: World, width: int, rng: np.random.Generator) -> None:
        size = world.context_size
        self._moments = Moments(size)
        self._map_QC: Floats | None = None
        self.width = min(size, width)
        if size > width:
            self._map_QC = np.linalg.qr(rng.normal(size=(size, width)))[0]

    def read(self, batch: Batch) -> Floats:
        """Count the batch's contexts and return them standardised, (B, width)."""
        if batch.context_BQ is None or not self.width:
            return np.zeros((len(batch), 0))
        context_BQ = np.asarray(batch.context_BQ, np.float64)
        self._moments.add(context_BQ)
        scaled_BQ = self._moments.standardised(context_BQ)
        return scaled_BQ if self._map_QC is None else scaled_BQ @ self._map_QC


class Means:
    """Mean reward overall, by item and by user, shrunk to the overall mean."""

    def __init__(self, world: World, strength: float = 5.0) -> None:
        self.rewards = Moments(1)
        self.num_J = np.zeros(world.num_items)
        self.sum_J = np.zeros(world.num_items)
        self._strength = strength

    @property
    def mean(self) -> float:
        """The mean of all rewards."""
        return float(self.rewards.mean[0])

    @property
    def deviation(self) -> float:
        """The standard deviation of all rewards, .5 before there are ten."""
        return float(np.sqrt(self.rewards.variance[0])) if self.rewards.num >= 10 else 0.5

    def of(self, items: Ints) -> Floats:
        """Return the items' shrunk means."""
        total = self.sum_J[items] + self._strength * self.mean
        means: Floats = total / (self.num_J[items] + self._strength)
        return means

    def add(self, seen: Observed) -> None:
        """Count rewards."""
        self.rewards.add(seen.reward_N[:, None])
        np.add.at(self.num_J, seen.items_N, 1.0)
        np.add.at(self.sum_J, seen.items_N, seen.reward_N)


class Histories:
    """What each user was like so far: mean residual, and the mean of residual times text.

    A residual is the reward less the item's mean at the time.
    """

    def __init__(self, world: World, text_JP: Floats, strength: float = 3.0) -> None:
        self._strength = strength
        self._num_U = np.zeros(world.num_users + 1)  # the last row: users who are not known
        self._sum_UP = np.zeros((world.num_users + 1, 1 + text_JP.shape[1]))
        self._traits_JP = np.column_stack([np.ones(len(text_JP)), text_JP])
        self._pair_UJ: Floats | None = None
        if 0 < world.num_users * world.num_items <= MAX_PAIRS:
            self._pair_UJ = np.zeros((world.num_users + 1, world.num_items))
        self.width = self._traits_JP.shape[1] if world.num_users else 0

    def read(self, users_B: Ints) -> Floats:
        """Return mean residual and taste for the text, shrunk to 0, (B, 1 + P)."""
        known_B1 = (users_B >= 0)[:, None]
        total_B1 = self._num_U[users_B][:, None] + self._strength
        return np.where(known_B1, self._sum_UP[users_B] / total_B1, 0.0)

    def before(self, users_B: Ints, items_BS: Ints) -> Floats:
        """Return the sum of residuals that a user had with an item before, (B, S)."""
        if self._pair_UJ is None:
            return np.zeros(items_BS.shape)
        return np.where((users_B >= 0)[:, None], self._pair_UJ[users_B[:, None], items_BS], 0.0)

    def add(self, seen: Observed, residual_N: Floats) -> None:
        """Count rewards."""
        if not self.width:
            return
        np.add.at(self._num_U, seen.users_N, 1.0)
        traits_NP = residual_N[:, None] * self._traits_JP[seen.items_N]
        np.add.at(self._sum_UP, seen.users_N, traits_NP)
        if self._pair_UJ is not None:
            np.add.at(self._pair_UJ, (seen.users_N, seen.items_N), residual_N)
