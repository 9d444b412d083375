"""Batches of texts of like length, in an order that a seed decides.

A batch holds as many texts as `batch_tokens` padded tokens allow. Texts are sorted by length (ties
in random order), cut into batches, and the batches are shuffled: padding stays at a few per cent
and the gradient still sees all lengths in turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Token rows, one behind the other; row i is `ids[starts[i]:starts[i + 1]]`."""

    ids: Tokens
    starts_N1: Ints

    @property
    def lengths_N(self) -> Ints:
        """How many tokens each text has."""
        return np.diff(self.starts_N1)

    def padded(self, rows_B: Ints, pad: int) -> tuple[Ints, Ints]:
        """Return the ids (B, T) of some rows, `pad` behind each, and the lengths (B,)."""
        lengths_B = self.lengths_N[rows_B]
        columns_T = np.arange(int(lengths_B.max()))
        present_BT = columns_T < lengths_B[:, None]
        places_BT = self.starts_N1[rows_B][:, None] + columns_T
        ids_BT = np.full(present_BT.shape, pad, dtype=np.int64)
        ids_BT[present_BT] = self.ids[places_BT[present_BT]]
        return ids_BT, lengths_B


def batches(lengths_N: Ints, batch_tokens: int, rng: np.random.Generator) -> list[Ints]:
    """Return the rows of each batch; a text that is longer than a batch is a batch of its own."""
    order_N = np.lexsort((rng.random(len(lengths_N)), -lengths_N))
    found, start = [], 0
    while start < len(order_N):
        size = max(1, batch_tokens // max(1, int(lengths_N[order_N[start]])))
        found.append(order_N[start : start + size])
        start += size
    return [found[i] for i in rng.permutation(len(found))]


def num_batches(lengths_N: Ints, batch_tokens: int) -> int:
    """Return how many batches there are, which no seed changes."""
    return len(batches(lengths_N, batch_tokens, np.random.default_rng(0)))
