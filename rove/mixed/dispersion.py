"""How much rewards vary around what is expected of them, by item.

    phi = (h phi_0 + sum left) / (h + trials)             over all items, h = STRENGTH
    phi_j = (h phi + sum left of j) / (h + trials of j)   of an item

`left` are the squares that are left, with those that the posterior expects, in units of the
variance function. phi_j = 1 where rewards are 0 or 1 and nothing else: of an item too, if the
rewards of the others make that no accident. Else an action that always pays the same would make a
gamble beside it look as certain (measured: mushroom .91 against .95).

Shapes: n rows, J items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.mixed.trials import Columns
from rove.mixed.variances import Array

STRENGTH = 10.0
"""Trials that the prior of a dispersion counts for."""
ACCIDENT = 1e-4
"""Chance of an item's rewards to be all 0 or 1, were it like the others; below, it is not."""


def dispersions(
    rows: Columns, left_n: Array, num_items: int, prior: float, *, may_be_binary: bool
) -> tuple[float, Array]:
    """Return phi over all items whose rewards are not 0 or 1 only, and phi_j (J,)."""
    num_J = np.bincount(rows.items, rows.counts, num_items)
    left_J = np.bincount(rows.items, left_n, num_items)
    binary_J = binary_items(rows, num_items) if may_be_binary else np.zeros(num_items, bool)
    total, left = float(num_J[~binary_J].sum()), float(left_J[~binary_J].sum())
    overall = (STRENGTH * prior + left) / (STRENGTH + total)
    own_J = (STRENGTH * overall + left_J) / (STRENGTH + num_J)
    return overall, np.where(binary_J, 1.0, own_J)


def binary_items(rows: Columns, num_items: int) -> npt.NDArray[np.bool_]:
    """Return the items whose rewards are 0 or 1 by their nature, (J,)."""
    other_n = ~_binary_rows(rows)
    other_J = np.bincount(rows.items, other_n * rows.counts, num_items)
    num_J = np.bincount(rows.items, rows.counts, num_items)
    if not other_n.any():
        return num_J > 0
    chance = 1.0 - other_J.sum() / num_J[other_J > 0].sum()
    return np.asarray((num_J > 0) & (other_J == 0) & (chance**num_J < ACCIDENT))


def _binary_rows(rows: Columns) -> npt.NDArray[np.bool_]:
    # A row of c trials with r ones has spread r (1 - r / c); in every other case it is less.
    ones = rows.counts * rows.means
    return np.asarray(np.isclose(rows.spreads, ones * (1.0 - rows.means), atol=1e-6))


def is_binary(rows: Columns) -> bool:
    """Say whether all rewards are 0 or 1."""
    return bool(_binary_rows(rows).all())
