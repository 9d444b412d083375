"""News: replay of a log in which 10 articles were shown uniformly at random.

100 numeric features, as raw counts. A run is nine tenths of the log's rows, in their order, from a
random start on. What was not shown is not known: the reward is observed only where the choice is
the log's, and only that is counted (Li et al. 2011, Unbiased offline evaluation).

The best choice counts as 1: a ridge regression per article on the whole log, cross-fitted in five
folds, earns 1.000 over the 1,039 rows where its choice was logged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.data import Sources, columns_of, read
from benchmarks.decisions.interface import Batch, Choice, Feedback, Floats, Ints
from benchmarks.decisions.runs import Table, mean_by_item

NUM_ARTICLES = 10
NUM_FEATURES = 100
SHARE_KEPT = 0.9
BATCH_SIZE = 4


class Replay(Table):
    """A log, of which an agent sees what it would have shown itself."""

    def __init__(self, *, shown_R: Ints, clicks_R: Floats, context_RQ: Floats) -> None:
        rewards_RA = np.full((len(shown_R), NUM_ARTICLES), np.nan)
        rewards_RA[np.arange(len(shown_R)), shown_R] = clicks_R
        super().__init__(
            values_RA=rewards_RA,
            rewards_RA=rewards_RA,
            context_RQ=context_RQ,
            context_is_text=False,
            batch_size=BATCH_SIZE,
        )
        self._mean = float(clicks_R.mean())
        self._item_values_J = mean_by_item(shown_R, clicks_R, NUM_ARTICLES)

    def feedback(self, batch: Batch, choice: Choice) -> Feedback:
        """Return the click where the choice is the log's, else NaN."""
        reward_BK = np.take_along_axis(self._rewards_RA[self._rows], choice.items(batch), 1)
        observed_B = np.isfinite(reward_BK[:, 0]).astype(np.float64)
        self.count(self._mean * observed_B, observed_B)
        return Feedback(reward_BK=reward_BK, value_BK=reward_BK)

    def item_values_J(self) -> Floats:
        """Return the articles' click rates in the log."""
        return self._item_values_J


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """The log."""

    shown_L: Ints
    clicks_L: Floats
    context_LQ: Floats
    name: str = "news"

    def open(self, seed: int) -> Replay:
        """Return a run with rows and start of the seed."""
        rng = np.random.default_rng(seed)
        num_rows = len(self.shown_L)
        kept = np.sort(rng.permutation(num_rows)[: int(SHARE_KEPT * num_rows)])
        rows = np.roll(kept, -int(rng.integers(len(kept))))
        return Replay(
            shown_R=self.shown_L[rows],
            clicks_R=self.clicks_L[rows],
            context_RQ=self.context_LQ[rows],
        )


def load(sources: Sources) -> News:
    """Read the log."""
    log = read(sources.folder("news", "columbia_news") / "log.parquet")
    return News(
        shown_L=log["arm"].to_numpy().astype(np.int64) - 1,
        clicks_L=log["reward"].to_numpy().astype(np.float64),
        context_LQ=columns_of(log, [f"x{i}" for i in range(NUM_FEATURES)]),
    )
