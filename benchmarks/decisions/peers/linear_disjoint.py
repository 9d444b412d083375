"""Disjoint LinUCB and LinTS: a regression of each item on the context and the user.

    r = x . beta_j + noise,   A_j = ridge I + sum x x',   beta_j = A_j^-1 sum r x

x of a request: 1, the context, standardised by what was seen so far, and, where users return, their
mean residual and their taste for the text. LinUCB shows the highest x . beta_j +
alpha s sqrt(x' A_j^-1 x) (Li et al. 2010); LinTS draws beta_j ~ N(., alpha^2 s^2 A_j^-1)
(Agrawal and Goyal 2013), the x . beta_j of different items being independent. Rewards are learnt
less the overall mean, so an item without rewards is average.

Axes are those of `_common`; D features.
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
    components,
    items_of,
    observed,
    top,
)

MAX_CONTEXT = 400
NUM_COMPONENTS = 4
MAX_ENTRIES = 50_000_000
"""Of all A_j^-1 together (400 MB)."""
MAX_AT_ONCE = 100_000
"""Entries of the matrices that are gathered for a batch."""


class RequestFeatures:
    """x of a request."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._histories = Histories(world, components(world, NUM_COMPONENTS))
        self._context = Context(world, MAX_CONTEXT, rng)
        self._means = Means(world)
        self.size = width(world)

    @property
    def mean(self) -> float:
        """The mean of all rewards."""
        return self._means.mean

    @property
    def deviation(self) -> float:
        """The deviation of all rewards."""
        return self._means.deviation

    def read(self, batch: Batch) -> Floats:
        """Return the features, (B, D)."""
        parts = [np.ones((len(batch), 1)), self._context.read(batch)]
        if self._histories.width:
            parts.append(5.0 * self._histories.read(batch.users_B))
        return np.concatenate(parts, axis=1)

    def add(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Add rewards to the users' histories."""
        seen = observed(batch, choice, feedback)
        self._histories.add(seen, seen.reward_N - self._means.of(seen.items_N))
        self._means.add(seen)


def width(world: World) -> int:
    """Return D."""
    num_components = 0
    if world.text_JE is not None:
        num_components = min(NUM_COMPONENTS, world.num_items - 1, world.text_JE.shape[1])
    of_user = 1 + num_components if world.num_users else 0
    return 1 + min(world.context_size, MAX_CONTEXT) + of_user


class DisjointLinear:
    """A regression of each item, and one of two ways to explore."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        explore: Literal["ucb", "ts"],
        alpha: float,
        ridge: float,
    ) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._explore = explore
        self._alpha = alpha
        self._features = RequestFeatures(world, rng)
        size = self._features.size
        self._inverse_JDD = np.tile(np.eye(size) / ridge, (world.num_items, 1, 1))
        self._pull_JD = np.zeros((world.num_items, size))
        self._beta_JD = np.zeros((world.num_items, size))
        self._x_BD = np.zeros((0, 0))

    def choose(self, batch: Batch) -> Choice:
        """Show the highest optimistic or drawn reward."""
        items_BS = items_of(batch)
        x_BD = self._x_BD = self._features.read(batch)
        mean_BS = np.einsum("bd,bsd->bs", x_BD, self._beta_JD[items_BS])
        bonus_BS = np.sqrt(np.maximum(self._variance(x_BD, items_BS), 0.0))
        if self._explore == "ts":
            bonus_BS *= self._rng.normal(size=bonus_BS.shape)
        score_BS = mean_BS + self._alpha * self._features.deviation * bonus_BS
        return Choice(positions_BK=top(score_BS, batch, self._num_slots, self._rng))

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Update the regressions of the items that were shown (Woodbury 1950)."""
        seen = observed(batch, choice, feedback)
        residual_N = seen.reward_N - self._features.mean
        x_ND = self._x_BD[seen.rows_N]
        for item in np.unique(seen.items_N).tolist():
            here_N = seen.items_N == item
            x_HD = x_ND[here_N]
            inverse_DD = self._inverse_JDD[item]
            gain_DH = inverse_DD @ x_HD.T
            inverse_DD -= gain_DH @ np.linalg.solve(np.eye(len(x_HD)) + x_HD @ gain_DH, gain_DH.T)
            self._pull_JD[item] += residual_N[here_N] @ x_HD
            self._beta_JD[item] = inverse_DD @ self._pull_JD[item]
        self._features.add(batch, choice, feedback)

    def _variance(self, x_BD: Floats, items_BS: Ints) -> Floats:
        """Return x' A_j^-1 x, (B, S), one request at a time where it would fill the memory."""
        if items_BS.size * x_BD.shape[1] ** 2 <= MAX_AT_ONCE:
            spread_BSD = np.einsum("bsde,be->bsd", self._inverse_JDD[items_BS], x_BD)
            at_once: Floats = np.einsum("bsd,bd->bs", spread_BSD, x_BD)
            return at_once
        spread = [
            np.einsum("sd,d->s", self._inverse_JDD[items_S] @ x_D, x_D)
            for x_D, items_S in zip(x_BD, items_BS, strict=True)
        ]
        return np.stack(spread)


def _grid(*alphas: float) -> tuple[dict[str, object], ...]:
    ridges = (1.0, 10.0, 300.0)
    return tuple({"alpha": alpha, "ridge": ridge} for alpha in alphas for ridge in ridges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disjoint:
    """Plays every world whose A_j^-1 fit into memory."""

    name: str
    explore: Literal["ucb", "ts"]
    grid: tuple[dict[str, object], ...]

    def fits(self, world: World) -> bool:
        """Refuse worlds where the matrices would have more than 50 million entries."""
        return world.num_items * width(world) ** 2 <= MAX_ENTRIES

    def start(
        self,
        world: World,
        rng: np.random.Generator,
        *,
        alpha: float = 0.1,
        ridge: float = 1.0,
    ) -> DisjointLinear:
        """Return an agent."""
        return DisjointLinear(world, rng, explore=self.explore, alpha=alpha, ridge=ridge)


PEERS = (
    Disjoint(name="linucb-disjoint", explore="ucb", grid=_grid(0.1, 0.3)),
    Disjoint(name="lints-disjoint", explore="ts", grid=_grid(0.03, 0.1)),
)
