"""Shared LinUCB and LinTS with an effect of each item: one regression for all items.

    r = x . beta + b_j + noise,   beta ~ N(0, s^2 I / ridge),   b_j ~ N(0, s^2 / item_ridge)

x of a user, an item and a context: 1, the item's text components, the user's taste for the text
times the components, what the user had with the item before, the context and its products with
the first components. This is hybrid LinUCB of Li et al. 2010 (A Contextual-Bandit Approach to
Personalized News), in which the b_j are solved for each by itself (Schur complement):

    A = ridge I + sum x x' - sum_j B_j B_j' / (n_j + l),   B_j = sum of x over item j's rewards
    mean = z . beta + S_j / (n_j + l),   variance = s^2 (z' A^-1 z + 1 / (n_j + l))
    z = x - B_j / (n_j + l)

LinUCB shows the highest mean + alpha sqrt(variance); LinTS draws beta and b_j from the posterior,
its covariance times alpha^2 (Agrawal and Goyal 2013).

D features; the other axes are those of `_common`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Ints, World
from benchmarks.decisions.peers._common import (
    Context,
    Histories,
    Means,
    Observed,
    components,
    items_of,
    observed,
    top,
)

NUM_CONTEXT = 16
NUM_CROSSED = 4
"""Text components that are multiplied with the context."""
RIDGE = 10.0


class Features:
    """x of every candidate; the text's part is one-hot where few items have no text."""

    def __init__(self, world: World, rng: np.random.Generator, num_components: int) -> None:
        self.traits_JP = components(world, num_components)
        if world.text_JE is None and 1 < world.num_items <= 16:
            self.traits_JP = np.eye(world.num_items)[:, 1:]
        self._histories = Histories(world, self.traits_JP)
        self._context = Context(world, NUM_CONTEXT, rng)
        num_traits, width = self.traits_JP.shape[1], self._context.width
        self._crossed = min(num_traits, NUM_CROSSED if world.text_JE is not None else num_traits)
        self.size = 1 + num_traits + self._histories.width + width * (1 + self._crossed)

    def read(self, batch: Batch, items_BS: Ints) -> Floats:
        """Return the features of the candidates, (B, S, D)."""
        traits_BSP = self.traits_JP[items_BS]
        parts = [np.ones((*items_BS.shape, 1)), traits_BSP]
        if self._histories.width:
            taste_BP = self._histories.read(batch.users_B)[:, 1:]
            parts.append(self._histories.before(batch.users_B, items_BS)[..., None])
            parts.append(10.0 * taste_BP[:, None, :] * traits_BSP)
        if self._context.width:
            context_B1C = self._context.read(batch)[:, None, :]
            parts.append(np.broadcast_to(context_B1C, (*items_BS.shape, self._context.width)))
            for column in range(self._crossed):
                parts.append(context_B1C * traits_BSP[..., column, None])
        return np.concatenate(parts, axis=2)

    def add(self, seen: Observed, residual_N: Floats) -> None:
        """Add rewards, less the items' means, to the users' histories."""
        self._histories.add(seen, residual_N)


class Hybrid:
    """The regression's sums and its solution."""

    def __init__(self, size: int, num_items: int, item_ridge: float) -> None:
        self._precision_DD = RIDGE * np.eye(size)
        self._precision_DD[0, 0] = 0.1  # the intercept is hardly shrunk
        self._pull_D = np.zeros(size)
        self._sum_JD = np.zeros((num_items, size))
        self._reward_J = np.zeros(num_items)
        self._weight_J = np.full(num_items, item_ridge)
        self.centre_JD = np.zeros((num_items, size))
        """B_j / (n_j + l)."""
        self.effect_J = np.zeros(num_items)
        """S_j / (n_j + l)."""
        self.variance_J = 1.0 / self._weight_J
        self.beta_D = np.zeros(size)
        self.covariance_DD = np.linalg.inv(self._precision_DD)

    def add(self, x_ND: Floats, items_N: Ints, reward_N: Floats) -> None:
        """Add rewards and solve."""
        items_M, group_N = np.unique(items_N, return_inverse=True)
        one_MN = (np.arange(len(items_M))[:, None] == group_N[None, :]).astype(np.float64)
        self._precision_DD += x_ND.T @ x_ND + self._explained(items_M)
        self._pull_D += x_ND.T @ reward_N + self.centre_JD[items_M].T @ self._reward_J[items_M]
        self._sum_JD[items_M] += one_MN @ x_ND
        self._reward_J[items_M] += one_MN @ reward_N
        self._weight_J[items_M] += one_MN.sum(1)
        self.variance_J[items_M] = 1.0 / self._weight_J[items_M]
        self.centre_JD[items_M] = self._sum_JD[items_M] * self.variance_J[items_M, None]
        self.effect_J[items_M] = self._reward_J[items_M] * self.variance_J[items_M]
        self._precision_DD -= self._explained(items_M)
        self._pull_D -= self.centre_JD[items_M].T @ self._reward_J[items_M]
        self.covariance_DD = np.linalg.inv(self._precision_DD)
        self.beta_D = self.covariance_DD @ self._pull_D

    def _explained(self, items_M: Ints) -> Floats:
        """Return sum_j B_j B_j' / (n_j + l) over the items, (D, D)."""
        explained: Floats = self._sum_JD[items_M].T @ self.centre_JD[items_M]
        return explained


class SharedLinear:
    """One regression, and one of two ways to explore."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        explore: Literal["ucb", "ts"],
        alpha: float,
        item_ridge: float,
        num_components: int,
    ) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._explore = explore
        self._alpha = alpha
        self._features = Features(world, rng, num_components)
        self._means = Means(world)
        self._hybrid = Hybrid(self._features.size, world.num_items, item_ridge)
        self._x_BSD = np.zeros((0, 0, 0))

    def choose(self, batch: Batch) -> Choice:
        """Show the highest optimistic or drawn reward."""
        items_BS = items_of(batch)
        self._x_BSD = self._features.read(batch, items_BS)
        z_BSD = self._x_BSD - self._hybrid.centre_JD[items_BS]
        mean_BS = z_BSD @ self._hybrid.beta_D + self._hybrid.effect_J[items_BS]
        own_BS = self._hybrid.variance_J[items_BS]
        bonus_BS = self._bonus(z_BSD, own_BS) if self._alpha else np.zeros_like(own_BS)
        score_BS = mean_BS + self._alpha * self._means.deviation * bonus_BS
        return Choice(positions_BK=top(score_BS, batch, self._num_slots, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Add the rewards to the regression and to the users' histories."""
        seen = observed(batch, choice, feedback)
        if len(seen):
            self._hybrid.add(
                self._x_BSD[seen.rows_N, seen.positions_N], seen.items_N, seen.reward_N
            )
            self._features.add(seen, seen.reward_N - self._means.of(seen.items_N))
            self._means.add(seen)

    def _bonus(self, z_BSD: Floats, own_BS: Floats) -> Floats:
        """Return a deviation of each candidate in units of s, or a joint draw of it, (B, S)."""
        if self._explore == "ucb":
            shared_BS = np.einsum("bsd,bsd->bs", z_BSD @ self._hybrid.covariance_DD, z_BSD)
            deviation_BS: Floats = np.sqrt(np.maximum(shared_BS, 0.0) + own_BS)
            return deviation_BS
        root_DD = np.linalg.cholesky(self._hybrid.covariance_DD)
        beta_BD = self._rng.normal(size=(len(z_BSD), len(root_DD))) @ root_DD.T
        own_draw_BS = np.sqrt(own_BS) * self._rng.normal(size=own_BS.shape)
        drawn: Floats = np.einsum("bsd,bd->bs", z_BSD, beta_BD) + own_draw_BS
        return drawn


def _grid(*alphas: float) -> tuple[dict[str, object], ...]:
    ridges = (5.0, 30.0, 300.0)
    return tuple({"alpha": alpha, "item_ridge": ridge} for alpha in alphas for ridge in ridges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Plays every world whose items' sums fit into memory."""

    name: str
    explore: Literal["ucb", "ts"]
    grid: tuple[dict[str, object], ...]

    def fits(self, world: World) -> bool:
        """Refuse more than 200,000 items."""
        return world.num_items <= 200_000

    def start(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        alpha: float = 0.3,
        item_ridge: float = 5.0,
        num_components: int = 16,
    ) -> SharedLinear:
        """Return an agent."""
        return SharedLinear(
            world,
            rng,
            explore=self.explore,
            alpha=alpha,
            item_ridge=item_ridge,
            num_components=num_components,
        )


PEERS = (
    Shared(name="linucb-shared", explore="ucb", grid=_grid(0.3, 1.0)),
    Shared(name="lints-shared", explore="ts", grid=_grid(0.1, 0.3)),
)
