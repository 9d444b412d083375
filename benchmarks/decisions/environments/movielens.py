"""MovieLens: which film to suggest next.

Users with at least 50 ratings arrive over the run. A user's candidates are 50 films that the user
really rated; 30 of them are suggested, none twice. The reward is the rating, (rating - 1) / 4, not
below 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.decisions.data import Sources, read, texts_of
from benchmarks.decisions.interface import Floats, Ints, Vectors
from benchmarks.decisions.runs import Sessions, staggered

NUM_CANDIDATES = 50
NUM_STEPS = 30
BATCH_SIZE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieLens:
    """Ratings by user."""

    items_of: tuple[Ints, ...]
    rewards_of: tuple[Floats, ...]
    text_JE: Vectors
    name: str = "movielens"

    def open(self, seed: int) -> Sessions:
        """Return a run with candidates and arrivals of the seed."""
        rng = np.random.default_rng(seed)
        picks = [rng.permutation(len(items))[:NUM_CANDIDATES] for items in self.items_of]
        rows = list(zip(self.items_of, self.rewards_of, picks, strict=True))
        return Sessions(
            items_UN=np.stack([items[pick] for items, _, pick in rows]),
            rewards_UN=np.stack([rewards[pick] for _, rewards, pick in rows]),
            num_items=len(self.text_JE),
            text_JE=self.text_JE,
            arrivals=staggered(len(rows), NUM_STEPS, BATCH_SIZE, rng),
        )


def load(sources: Sources) -> MovieLens:
    """Read ratings and films; both editions of the data set are understood."""
    folder = sources.folder("movielens", "movielens")
    movies, ratings = read(folder / "movies.parquet"), read(folder / "ratings.parquet")
    key = "item_id" if "item_id" in movies.column_names else "movie_id"
    ids_L = ratings[key].to_numpy().astype(np.int64)
    used = np.unique(ids_L)
    movies = movies.filter(pa.array(np.isin(movies[key].to_numpy(), used))).sort_by(key)
    items_L = np.searchsorted(movies[key].to_numpy().astype(np.int64), ids_L)
    rewards_L = np.maximum(ratings["rating"].to_numpy().astype(np.float64) - 1.0, 0.0) / 4.0
    users_L = ratings["user_id"].to_numpy()
    rows_of = [np.flatnonzero(users_L == user) for user in np.unique(users_L)]
    rows_of = [rows for rows in rows_of if len(rows) >= NUM_CANDIDATES]
    return MovieLens(
        items_of=tuple(items_L[rows] for rows in rows_of),
        rewards_of=tuple(rewards_L[rows] for rows in rows_of),
        text_JE=sources.embed(_texts(movies)),
    )


def _texts(movies: pa.Table) -> list[str]:
    columns = [name for name in ("title", "genres", "plot") if name in movies.column_names]
    parts = [texts_of(movies, name) for name in columns]
    return [
        ". ".join(part.replace("|", ", ") for part in row if part)
        for row in zip(*parts, strict=True)
    ]
