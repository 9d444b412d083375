"""Mushroom: to eat or not to eat.

4,000 mushrooms, described by 22 categories as 0 and 1. Not eating pays 0, an edible one +5, a
poisonous one +5 or -35 with probability 1/2 each; rewards are (r + 35) / 40.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.decisions.data import Sources, read, texts_of
from benchmarks.decisions.interface import Flags, Floats
from benchmarks.decisions.runs import Table

NUM_ROUNDS = 4_000
BATCH_SIZE = 4
LEAVE, EAT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mushroom:
    """Mushrooms and whether they are edible."""

    edible_M: Flags
    context_MQ: Floats
    name: str = "mushroom"

    def open(self, seed: int) -> Table:
        """Return a run with mushrooms and luck of the seed."""
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(self.edible_M))[:NUM_ROUNDS]
        edible_R = self.edible_M[rows]
        lucky_R = rng.random(len(rows)) < 0.5
        rewards_RA = np.full((len(rows), 2), 35.0 / 40.0)
        values_RA = rewards_RA.copy()
        rewards_RA[:, EAT] = edible_R | lucky_R
        values_RA[:, EAT] = np.where(edible_R, 1.0, 0.5)
        return Table(
            values_RA=values_RA,
            rewards_RA=rewards_RA,
            context_RQ=self.context_MQ[rows],
            context_is_text=False,
            batch_size=BATCH_SIZE,
        )


def load(sources: Sources) -> Mushroom:
    """Read the mushrooms."""
    table = read(sources.folder("mushroom", "mushroom") / "mushroom.parquet")
    features = [name for name in table.column_names if name != "class"]
    blocks = []
    for name in features:
        levels, codes = np.unique(texts_of(table, name), return_inverse=True)
        blocks.append(np.eye(len(levels))[codes])
    return Mushroom(
        edible_M=np.array(texts_of(table, "class")) == "e", context_MQ=np.concatenate(blocks, 1)
    )
