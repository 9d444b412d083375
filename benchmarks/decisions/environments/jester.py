"""Jester: which of 100 jokes to tell next.

600 users who rated all jokes arrive over the run and hear 20 each, none twice. The reward is the
rating, (rating + 10) / 20.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.data import Sources, columns_of, read, texts_of
from benchmarks.decisions.interface import Floats, Vectors
from benchmarks.decisions.runs import Sessions, staggered

NUM_JOKES = 100
NUM_USERS = 600
NUM_STEPS = 20
BATCH_SIZE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Jester:
    """The users who rated every joke."""

    rewards_VJ: Floats
    """V users to choose from."""
    text_JE: Vectors
    name: str = "jester"

    def open(self, seed: int) -> Sessions:
        """Return a run with users and arrivals of the seed."""
        rng = np.random.default_rng(seed)
        num_users = min(NUM_USERS, len(self.rewards_VJ))
        users = rng.choice(len(self.rewards_VJ), num_users, replace=False)
        return Sessions(
            items_UN=np.tile(np.arange(NUM_JOKES), (num_users, 1)),
            rewards_UN=self.rewards_VJ[users],
            num_items=NUM_JOKES,
            text_JE=self.text_JE,
            arrivals=staggered(num_users, NUM_STEPS, BATCH_SIZE, rng),
        )


def load(sources: Sources) -> Jester:
    """Read ratings and jokes."""
    folder = sources.folder("jester", "jester")
    ratings = read(folder / "ratings_wide.parquet")
    ratings_VJ = columns_of(ratings, [f"j{joke}" for joke in range(1, NUM_JOKES + 1)])
    ratings_VJ = ratings_VJ[ratings["n_rated"].to_numpy() == NUM_JOKES]
    jokes = read(folder / "jokes.parquet").sort_by("joke_id")
    return Jester(
        rewards_VJ=(ratings_VJ + 10.0) / 20.0, text_JE=sources.embed(texts_of(jokes, "text"))
    )
