"""Agents that are told before the first request what no learner can know by then.

They bound what is reachable: whatever of the oracle's gap they do not close is luck, or taste that
only shows in the rewards themselves. Nothing about a user or a request is taken from its own
rewards: what is told was fitted to other users or other requests (five folds).

- `Population`: means and factors of all items; users are learnt as they come.
- `Linear`: a ridge regression of each item on the context, either fitted in hindsight or after each
  request to the rewards of all items, those not shown too.
- `Prior`: each headline test's mean rate, and the spread of rates within tests.

Shapes: N rewards, U users, J items, K factors, R requests, A items of a table, Q context values.
"""

from __future__ import annotations

import numpy as np

from benchmarks.decisions.environments.headlines import Stream
from benchmarks.decisions.environments.shop import Invoices
from benchmarks.decisions.interface import (
    Batch,
    Choice,
    Feedback,
    Floats,
    Ints,
    Run,
    Vectors,
    World,
)
from benchmarks.decisions.peers._common import components, items_of, observed, top
from benchmarks.decisions.runs import Known, Sessions, Table

NUM_FOLDS = 5
NUM_ROUNDS = 12
MEAN_STRENGTH = 5.0
"""Rewards that an item's mean of other users counts as, beside the overall mean."""
NUM_COMPONENTS = 32
NUM_WAVES = 600


class Factors:
    """r = m_j + w_j . u + noise, u ~ N(0, I): m and w by expectation maximisation.

    w_j has the prior N(0, s^2 / (10 K) I) for s^2 the variance of the rewards about their items'
    means, m_j that of 5 average rewards (Roweis 1998, EM algorithms for PCA, with missing values).
    """

    def __init__(self, known: Known, keep_N: Ints, num_items: int, rank: int) -> None:
        users_N, items_N = known.users_N[keep_N], known.items_N[keep_N]
        reward_N = known.reward_N[keep_N]
        num_J = np.bincount(items_N, minlength=num_items)
        sum_J = np.bincount(items_N, reward_N, num_items)
        mean_J = (sum_J + MEAN_STRENGTH * reward_N.mean()) / (num_J + MEAN_STRENGTH)
        self.mean_J: Floats = mean_J
        residual_N = reward_N - mean_J[items_N]
        self.noise = float(residual_N.var())
        scale = np.sqrt(self.noise / (10.0 * max(rank, 1)))
        self.factors_JK = scale * np.random.default_rng(0).normal(size=(num_items, rank))
        order_N = np.argsort(users_N, kind="stable")
        cuts = np.flatnonzero(np.diff(users_N[order_N])) + 1
        rows_of = np.split(order_N, cuts)
        for _ in range(NUM_ROUNDS if rank else 0):
            self._improve([(items_N[rows], residual_N[rows]) for rows in rows_of], scale**2)

    def _improve(self, of_user: list[tuple[Ints, Floats]], prior: float) -> None:
        num_items, rank = self.factors_JK.shape
        square_JKK = np.tile(self.noise / prior * np.eye(rank), (num_items, 1, 1))
        pull_JK = np.zeros((num_items, rank))
        error, num = 0.0, 0
        for items_N, residual_N in of_user:
            w_NK = self.factors_JK[items_N]
            spread_KK = np.linalg.inv(np.eye(rank) + w_NK.T @ w_NK / self.noise)
            taste_K = spread_KK @ (residual_N @ w_NK) / self.noise
            second_KK = spread_KK + np.outer(taste_K, taste_K)
            np.add.at(square_JKK, items_N, second_KK)
            np.add.at(pull_JK, items_N, residual_N[:, None] * taste_K)
            error += float(((residual_N - w_NK @ taste_K) ** 2).sum())
            error += float(np.einsum("nk,kl,nl->", w_NK, spread_KK, w_NK))
            num += len(items_N)
        self.factors_JK = np.linalg.solve(square_JKK, pull_JK[:, :, None])[:, :, 0]
        self.noise = error / num


class Population:
    """Greedy on the posterior mean of a user, whose prior is known from the other users."""

    def __init__(
        self, world: World, rng: np.random.Generator, *, rank: int, pair: float = 0.0
    ) -> None:
        self._world = world
        self._rng = rng
        self._rank = rank
        self._pair = pair  # variance of a user's own effect with an item, in units of the noise
        self._folds: list[Factors] = []
        self._items: list[list[int]] = [[] for _ in range(world.num_users)]
        self._rewards: list[list[float]] = [[] for _ in range(world.num_users)]

    def inform(self, run: Run) -> None:
        """Fit the items to the users of other folds."""
        assert isinstance(run, Sessions | Invoices)
        known = run.known()
        for fold in range(NUM_FOLDS):
            keep_N = np.flatnonzero(known.users_N % NUM_FOLDS != fold)
            self._folds.append(Factors(known, keep_N, self._world.num_items, self._rank))

    def choose(self, batch: Batch) -> Choice:
        """Show the highest expected rewards."""
        items_BS = items_of(batch)
        users = batch.users_B.tolist()
        rows = zip(users, items_BS, strict=True)
        score_BS = np.stack([self._score(user, items_S) for user, items_S in rows])
        return Choice(positions_BK=top(score_BS, batch, self._world.num_slots, self._rng))

    def _score(self, user: int, items_S: Ints) -> Floats:
        told = self._folds[user % NUM_FOLDS]
        score_S = told.mean_J[items_S]
        if not self._items[user] or not (self._rank or self._pair):
            return score_S
        seen_N = np.array(self._items[user])
        residual_N = np.array(self._rewards[user]) - told.mean_J[seen_N]
        pair = self._pair * told.noise
        w_NK, w_SK = told.factors_JK[seen_N], told.factors_JK[items_S]
        cover_NN = w_NK @ w_NK.T + pair * (seen_N[:, None] == seen_N)
        weight_N = np.linalg.solve(cover_NN + told.noise * np.eye(len(seen_N)), residual_N)
        cover_SN = w_SK @ w_NK.T + pair * (items_S[:, None] == seen_N)
        scored: Floats = score_S + cover_SN @ weight_N
        return scored

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Keep what each user was shown."""
        seen = observed(batch, choice, feedback)
        for row, user in enumerate(seen.users_N.tolist()):
            self._items[user].append(int(seen.items_N[row]))
            self._rewards[user].append(float(seen.reward_N[row]))


class Linear:
    """Greedy on a ridge regression of each item on the context."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        ridge: float,
        hindsight: bool,
        width: float = 0.0,
    ) -> None:
        self._num_items = world.num_items
        self._rng = rng
        self._ridge = ridge
        self._hindsight = hindsight
        self._width = width
        self._score_RA = np.zeros((0, 0))
        self._at = 0

    def inform(self, run: Run) -> None:
        """Predict every request, from other folds or from all that came before it."""
        assert isinstance(run, Table)
        reward_RA, context_RQ = run.table()
        x_RQ = design(context_RQ, len(reward_RA))
        if self._width:
            x_RQ = waves(x_RQ, self._width)
        num = len(x_RQ)
        if self._hindsight:
            fold_R = np.random.default_rng(0).permutation(num) % NUM_FOLDS
            parts = [(fold_R != fold, fold_R == fold) for fold in range(NUM_FOLDS)]
        else:
            row_R = np.arange(num)
            cuts = np.unique([*(10 * 1.1 ** np.arange(100)).astype(int), num])
            cuts = cuts[cuts <= num]
            parts = [
                (row_R < start, (row_R >= start) & (row_R < end))
                for start, end in zip(cuts[:-1], cuts[1:], strict=True)
            ]
        self._score_RA = np.zeros(reward_RA.shape)
        for fitted_R, asked_R in parts:
            for item in range(self._num_items):
                rows_R = fitted_R & np.isfinite(reward_RA[:, item])
                beta_Q = ridge_fit(x_RQ[rows_R], reward_RA[rows_R, item], self._ridge)
                self._score_RA[asked_R, item] = x_RQ[asked_R] @ beta_Q

    def choose(self, batch: Batch) -> Choice:
        """Show the highest predictions."""
        score_BS = self._score_RA[self._at : self._at + len(batch)]
        self._at += len(batch)
        return Choice(positions_BK=top(score_BS, batch, 1, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Nothing: the predictions were laid out."""


def design(context_RQ: Vectors | None, num: int) -> Floats:
    """Return 1 and the standardised context, (num, 1 + Q)."""
    if context_RQ is None:
        return np.ones((num, 1))
    x_RQ = np.asarray(context_RQ, np.float64)
    scaled_RQ = (x_RQ - x_RQ.mean(0)) / np.maximum(x_RQ.std(0), 1e-6)
    return np.column_stack([np.ones(num), scaled_RQ])


def waves(x_RQ: Floats, width: float) -> Floats:
    """Return random waves of x: linear in them is smooth in x (Rahimi and Recht 2007), (R, 1 + W).

    The inner products are near those of exp(-|x - y|^2 / (2 width^2 Q)).
    """
    rng = np.random.default_rng(0)
    frequency_QW = rng.normal(size=(x_RQ.shape[1], NUM_WAVES)) / (width * np.sqrt(x_RQ.shape[1]))
    phase_W = rng.uniform(0.0, 2.0 * np.pi, NUM_WAVES)
    wave_RW = np.sqrt(2.0 / NUM_WAVES) * np.cos(x_RQ @ frequency_QW + phase_W)
    return np.column_stack([np.ones(len(x_RQ)), wave_RW])


def ridge_fit(x_NQ: Floats, y_N: Floats, ridge: float) -> Floats:
    """Return the regression on x, whose first column is 1 and not shrunk; zeros without rows."""
    if not len(y_N):
        return np.zeros(x_NQ.shape[1])
    mean = y_N.mean()
    square_QQ = x_NQ.T @ x_NQ + ridge * np.eye(x_NQ.shape[1])
    beta_Q: Floats = np.linalg.solve(square_QQ, x_NQ.T @ (y_N - mean))
    beta_Q[0] += mean
    return beta_Q


class Prior:
    """Thompson sampling from the exact prior of a test's rates, Beta with its mean and spread.

    The spread is v m^2 about the test's mean m. With text, the mean is m (1 + x . beta) with beta
    fitted to the other tests' rates, and v is what is left.
    """

    def __init__(
        self, world: World, rng: np.random.Generator, *, scale: float, with_text: bool
    ) -> None:
        self._rng = rng
        self._scale = scale
        self._with_text = with_text
        self._text_JP = components(world, NUM_COMPONENTS)
        self._num_J = np.zeros(world.num_items)
        self._clicks_J = np.zeros(world.num_items)
        self._mean_J = np.zeros(world.num_items)
        self._weight_J = np.zeros(world.num_items)

    def inform(self, run: Run) -> None:
        """Read the means of the tests, and how far rates are from them."""
        assert isinstance(run, Stream)
        items_of_tests, rates_J = run.rates()
        test_J = np.zeros(len(rates_J), dtype=np.int64)
        for test, items in enumerate(items_of_tests):
            test_J[items] = test
        size_J = np.bincount(test_J)[test_J]
        centre_J = (np.bincount(test_J, rates_J) / np.bincount(test_J))[test_J]
        apart_J = rates_J / centre_J - 1.0
        lift_J = np.zeros(len(rates_J))
        if self._with_text:
            means_TP = np.stack([self._text_JP[items].mean(0) for items in items_of_tests])
            x_JP = self._text_JP - means_TP[test_J]
            for fold in range(NUM_FOLDS):
                asked_J = test_J % NUM_FOLDS == fold
                square_PP = x_JP[~asked_J].T @ x_JP[~asked_J] + 10.0 * np.eye(x_JP.shape[1])
                beta_P = np.linalg.solve(square_PP, x_JP[~asked_J].T @ apart_J[~asked_J])
                lift_J[asked_J] = x_JP[asked_J] @ beta_P
        spread = float(((apart_J - lift_J) ** 2).sum() / (1.0 - 1.0 / size_J).sum())
        self._mean_J = np.clip(centre_J * (1.0 + lift_J), 1e-4, 1.0)
        self._weight_J = (1.0 - self._mean_J) / (self._mean_J * spread)

    def choose(self, batch: Batch) -> Choice:
        """Draw the rates and show the highest."""
        items_BS = items_of(batch)
        weight_BS = (self._weight_J + self._num_J)[items_BS]
        mean_BS = (self._weight_J * self._mean_J + self._clicks_J)[items_BS] / weight_BS
        weight_BS = weight_BS / self._scale
        score_BS = self._rng.beta(weight_BS * mean_BS, weight_BS * (1.0 - mean_BS))
        return Choice(positions_BK=top(score_BS, batch, 1, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Count clicks."""
        items_N = choice.items(batch)[:, 0]
        np.add.at(self._num_J, items_N, 1.0)
        np.add.at(self._clicks_J, items_N, feedback.reward_BK[:, 0])
