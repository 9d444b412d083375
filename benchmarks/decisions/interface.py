"""What an environment and an agent say to each other.

An environment is opened with a seed and gives batches of requests; an agent chooses items for each
request, with propensities where it has them, and is told the rewards of what it chose. Requests of
a batch are decided before any reward of the batch is known, by every agent alike.

Shapes: B requests, S candidates (padded), K slots, J items, E embedding size, Q context values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What every agent may know before the first request."""

    num_items: int
    num_users: int
    """Users are 0 .. num_users - 1; 0: nobody is known to return."""
    num_slots: int
    text_JE: Vectors | None
    """Unit embeddings of the items' texts."""
    groups_J: Ints | None
    """The category of each item, where the catalogue has categories."""
    context_size: int
    """Numeric context values of a request, unscaled; 0: there is no context."""
    context_is_text: bool
    """The context is the embedding of a text."""
    num_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B requests that arrive before any of their rewards."""

    users_B: Ints
    """-1: a visitor who is not known."""
    candidates_BS: Ints
    """Rows of items; padding where `open_BS` is false."""
    open_BS: Flags
    context_BQ: Vectors | None

    def __len__(self) -> int:
        return len(self.users_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What an agent shows: positions among the candidates, not rows of items."""

    positions_BK: Ints
    propensity_BK: Floats | None = None

    def items(self, batch: Batch) -> Ints:
        """Return the rows of the items that are shown, (B, K)."""
        return np.take_along_axis(batch.candidates_BS, self.positions_BK, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What came of a batch."""

    reward_BK: Floats
    """In [0, 1] unless the environment says otherwise; NaN: not observed (replay), not learnt."""
    value_BK: Floats
    """The expected reward where it is known, else the reward; what is counted."""


class Run(Protocol):
    """An environment, opened with a seed."""

    world: World

    def batches(self) -> Iterator[Batch]:
        """Yield the batches; `feedback` is called for each before the next is asked for."""
        ...

    def feedback(self, batch: Batch, choice: Choice) -> Feedback:
        """Return what the choice earned."""
        ...

    def totals(self) -> tuple[float, float]:
        """Return what uniform choice and the best choice earn over the batches so far.

        In expectation, in the unit of the sum of `value_BK` over observed rewards.
        """
        ...

    def counted_B2(self) -> Floats:
        """Return the same for each request of the last batch: uniform, best."""
        ...

    def item_values_J(self) -> Floats | None:
        """Return each item's mean value where it can be chosen; None: items do not stay."""
        ...


class Environment(Protocol):
    """A family of runs."""

    name: str

    def open(self, seed: int) -> Run:
        """Return the run of a seed."""
        ...


class Agent(Protocol):
    """Chooses and learns; one instance lives through one run."""

    def choose(self, batch: Batch) -> Choice:
        """Return what to show for each request; slots of a request show different items."""
        ...

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Learn from the observed rewards."""
        ...


@runtime_checkable
class Informed(Protocol):
    """An agent that is told the truth of its run: a mark on the scale, no rival."""

    def inform(self, run: Run) -> None:
        """Read the truth, before the first request."""
        ...


class Peer(Protocol):
    """A kind of agent with the settings that tuning may choose from."""

    @property
    def name(self) -> str:
        """Names it in results and tables."""
        ...

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """Settings to choose from on the development seeds: at most 6."""
        ...

    def fits(self, world: World) -> bool:
        """Say whether it can play this world at all."""
        ...

    def start(self, world: World, rng: np.random.Generator, **settings: object) -> Agent:
        """Return an agent for one run."""
        ...
