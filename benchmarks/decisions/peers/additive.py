"""Additive Thompson: a user is generous or not, an item is liked or not.

    r = mu + a_i + b_j + noise,   a_i ~ N(0, s^2 / user_strength),   b_j ~ N(0, s^2 / item_strength)

The effects' posterior means are those of the joint Gaussian posterior, by alternating between users
and items over all rewards so far; items are drawn with variance scale s^2 / (item_strength + n_j).
Between the fits, at every tenth more rewards, items move by their new residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Ints, World
from benchmarks.decisions.peers._common import Means, items_of, observed, top

NUM_SWEEPS = 4
GROWTH = 1.1


class Additive:
    """All rewards so far, and the effects."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        user_strength: float,
        item_strength: float,
        scale: float,
    ) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._user_strength = user_strength
        self._item_strength = item_strength
        self._scale = scale
        self._means = Means(world, item_strength)
        self._user_U = np.zeros(world.num_users + 1)  # the last: users who are not known
        self._item_J = np.zeros(world.num_items)
        self._users: list[Ints] = []
        self._items: list[Ints] = []
        self._rewards: list[Floats] = []
        self._next_fit = 10.0

    def choose(self, batch: Batch) -> Choice:
        """Draw the effects of the items; a user's own changes no order."""
        items_BS = items_of(batch)
        num_BS = self._item_strength + self._means.num_J[items_BS]
        deviation_BS = self._means.deviation * np.sqrt(self._scale / num_BS)
        score_BS = self._item_J[items_BS] + deviation_BS * self._rng.normal(size=num_BS.shape)
        return Choice(positions_BK=top(score_BS, batch, self._num_slots, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Move the items, or fit both anew."""
        seen = observed(batch, choice, feedback)
        self._means.add(seen)
        self._users.append(seen.users_N)
        self._items.append(seen.items_N)
        self._rewards.append(seen.reward_N)
        if self._means.rewards.num >= self._next_fit:
            self._fit()
            self._next_fit = GROWTH * self._means.rewards.num
            return
        known_N = self._means.mean + self._user_U[seen.users_N] + self._item_J[seen.items_N]
        weight_N = self._item_strength + self._means.num_J[seen.items_N]
        np.add.at(self._item_J, seen.items_N, (seen.reward_N - known_N) / weight_N)

    def _fit(self) -> None:
        """Alternate between users and items, starting from the effects so far."""
        self._users = [np.concatenate(self._users)]
        self._items = [np.concatenate(self._items)]
        self._rewards = [np.concatenate(self._rewards)]
        users_N, items_N = self._users[0], self._items[0]
        residual_N = self._rewards[0] - self._means.mean
        rows_N = np.where(users_N >= 0, users_N, len(self._user_U) - 1)
        num_U = np.bincount(rows_N, minlength=len(self._user_U)) + self._user_strength
        num_J = self._means.num_J + self._item_strength
        for _ in range(NUM_SWEEPS):
            left_N = residual_N - self._item_J[items_N]
            self._user_U = np.bincount(rows_N, left_N, len(self._user_U)) / num_U
            self._user_U[-1] = 0.0
            left_N = residual_N - self._user_U[rows_N]
            self._item_J = np.bincount(items_N, left_N, len(self._item_J)) / num_J


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveThompson:
    """Plays worlds whose users return; elsewhere it would be popularity."""

    name: str = "additive-thompson"
    grid: tuple[dict[str, object], ...] = (
        {"user_strength": 3.0, "item_strength": 3.0, "scale": 0.05},
        {"user_strength": 3.0, "item_strength": 3.0, "scale": 0.2},
        {"user_strength": 3.0, "item_strength": 3.0, "scale": 0.6},
        {"user_strength": 3.0, "item_strength": 20.0, "scale": 0.05},
        {"user_strength": 3.0, "item_strength": 20.0, "scale": 0.2},
        {"user_strength": 3.0, "item_strength": 20.0, "scale": 0.6},
    )

    def fits(self, world: World) -> bool:
        """Ask for users who return."""
        return world.num_users > 0

    def start(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        user_strength: float = 3.0,
        item_strength: float = 3.0,
        scale: float = 0.2,
    ) -> Additive:
        """Return an agent."""
        return Additive(
            world,
            rng,
            user_strength=user_strength,
            item_strength=item_strength,
            scale=scale,
        )


PEERS = (AdditiveThompson(),)
