"""ALS of `implicit`, fitted anew often, with epsilon-greedy choice.

    min sum_ui c_ui (x_ui - u_u . v_i)^2 + regularization (sum_u |u_u|^2 + sum_i |v_i|^2)

For a reward above the item's mean x_ui = 1, below it x_ui = 0; c_ui is confidence times the
residual's size in standard deviations (Hu, Koren and Volinsky 2008, as `implicit` reads negative
values); where there is no reward x_ui = 0 and c_ui = 1. Factors are fitted anew whenever there are
a fifth more rewards; before each choice the users of the batch are solved anew from their own
rewards. The score is the item's shrunk mean + gain * s * u_u . v_i: without the mean, ALS is below
popularity wherever users stay for a few requests only.

A slot explores with probability epsilon, which makes propensities exact for the first slot only, so
none are given. Axes are those of `_common`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, World
from benchmarks.decisions.peers._common import Means, Observed, items_of, observed, top

FIRST_FIT = 200
GROWTH = 1.2
NUM_ITERATIONS = 5
MAX_ITEMS = 100_000


class RefittedAls:
    """All residuals so far, and factors that are as good as the last fit."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        factors: int,
        regularization: float,
        gain: float,
        epsilon: float,
        confidence: float = 1.0,
    ) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._gain = gain
        self._epsilon = epsilon
        self._confidence = confidence
        self._means = Means(world)
        self._values_UJ: list[dict[int, float]] = [{} for _ in range(world.num_users)]
        self._num_items = world.num_items
        self._num_users = world.num_users
        self._next_fit = float(FIRST_FIT)
        self._fitted = False
        with warnings.catch_warnings():  # about BLAS threads, which `_fit` limits
            warnings.simplefilter("ignore", RuntimeWarning)
            self._model = AlternatingLeastSquares(
                factors=factors,
                regularization=regularization,
                alpha=1.0,
                iterations=NUM_ITERATIONS,
                num_threads=1,
                random_state=int(rng.integers(1 << 30)),
            )

    def choose(self, batch: Batch) -> Choice:
        """Show the highest scores; a request explores as a whole with probability epsilon."""
        items_BS = items_of(batch)
        score_BS = self._means.of(items_BS)
        if self._fitted:
            taste_BS = np.einsum(
                "bf,bsf->bs", self._factors(batch), self._model.item_factors[items_BS]
            )
            score_BS = score_BS + self._gain * self._means.deviation * taste_BS
        random_B1 = self._rng.random((len(batch), 1)) < self._epsilon
        score_BS = np.where(random_B1, self._rng.random(score_BS.shape), score_BS)
        return Choice(positions_BK=top(score_BS, batch, self._num_slots, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Remember the residuals, and fit when there are many new ones."""
        seen = observed(batch, choice, feedback)
        self._remember(seen)
        self._means.add(seen)
        if self._means.rewards.num >= self._next_fit:
            self._fit()
            self._next_fit = GROWTH * self._means.rewards.num

    def _remember(self, seen: Observed) -> None:
        residual_N = (seen.reward_N - self._means.of(seen.items_N)) / self._means.deviation
        columns = (seen.users_N.tolist(), seen.items_N.tolist(), residual_N.tolist())
        for user, item, residual in zip(*columns, strict=True):
            if user >= 0:
                values = self._values_UJ[user]
                values[item] = values.get(item, 0.0) + self._confidence * residual

    def _rows(self, users: list[int]) -> sparse.csr_matrix:
        """Return the users' confidences, (len(users), J)."""
        values = [self._values_UJ[user] if user >= 0 else {} for user in users]
        ends = np.cumsum([0, *map(len, values)])
        columns = [item for row in values for item in row]
        data = np.array([value for row in values for value in row.values()], np.float32)
        data = np.where(data == 0.0, np.float32(1e-6), data)
        return sparse.csr_matrix(
            (data, np.array(columns, np.int32), ends.astype(np.int32)),
            shape=(len(users), self._num_items),
        )

    def _fit(self) -> None:
        with threadpool_limits(1, "blas"):
            self._model.fit(self._rows(list(range(self._num_users))), show_progress=False)
        self._fitted = True

    def _factors(self, batch: Batch) -> Floats:
        """Return the vectors of the batch's users, 0 for those without rewards, (B, F)."""
        users = batch.users_B.tolist()
        vectors_BF = self._model.recalculate_user(np.arange(len(users)), self._rows(users))
        return np.asarray(vectors_BF, np.float64).reshape(len(users), -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Als:
    """Plays worlds whose users return."""

    name: str = "als-epsilon"
    grid: tuple[dict[str, object], ...] = (
        {"factors": 8, "regularization": 1.0, "gain": 1.0},
        {"factors": 8, "regularization": 10.0, "gain": 1.0},
        {"factors": 8, "regularization": 1.0, "gain": 3.0},
        {"factors": 8, "regularization": 10.0, "gain": 3.0},
        {"factors": 32, "regularization": 10.0, "gain": 1.0},
        {"factors": 8, "regularization": 1.0, "gain": 1.0, "epsilon": 0.0},
    )

    def fits(self, world: World) -> bool:
        """Ask for users who return and at most 100,000 items."""
        return world.num_users > 0 and world.num_items <= MAX_ITEMS

    def start(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        factors: int = 8,
        regularization: float = 1.0,
        gain: float = 1.0,
        epsilon: float = 0.02,
    ) -> RefittedAls:
        """Return an agent."""
        return RefittedAls(
            world,
            rng,
            factors=factors,
            regularization=regularization,
            gain=gain,
            epsilon=epsilon,
        )


PEERS = (Als(),)
