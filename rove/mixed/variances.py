"""The variances of the items' effects, and how far data move them.

Each goes to the fixed point of the marginal likelihood (MacKay 1992) under an inverse-gamma prior
of `STRENGTH` observations, which keeps it from vanishing before there are data:

    s = (STRENGTH s_0 + sum of squares) / (STRENGTH + effects that the data support)

Shapes: J items, n of them, Q context values, K factors, P = 1 + Q + K.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STRENGTH = 2.0
"""Observations that the prior of a variance counts for."""


@dataclass(slots=True, kw_only=True)
class ItemVariances:
    """Variances of the items' and the shared effects; starting values, then what was learnt."""

    mean: float
    """Of an item's mean around what its text and group promise."""
    context: float
    """Of an item's context effects around the shared ones: the mean over the items."""
    context_J: Array | None = None
    """Each item's own: what is rewarded alike in all contexts must not silence what is not."""
    factors_K: Array
    text: float
    """Of the text map's weights."""
    shared_context: float
    group: float
    intercept: float

    def of_effects(self, num_context: int) -> Array:
        """Return diag(S) of an item without trials, (P,)."""
        scale_P = np.empty(1 + num_context + len(self.factors_K))
        scale_P[0] = self.mean
        scale_P[1 : 1 + num_context] = self.context
        scale_P[1 + num_context :] = self.factors_K
        return scale_P

    def of_items(self, items_n: npt.NDArray[np.intp], num_context: int) -> Array:
        """Return diag(S) of items, (n, P)."""
        scale_P = self.of_effects(num_context)
        scale_nP = np.empty((len(items_n), len(scale_P)))
        scale_nP[:] = scale_P
        if self.context_J is not None:
            known = items_n < len(self.context_J)
            own_n = self.context_J[items_n[known]]
            scale_nP[known, 1 : 1 + num_context] = own_n[:, None]
        return scale_nP

    def copy(self) -> ItemVariances:
        """Return a copy that can be changed."""
        return ItemVariances(
            mean=self.mean,
            context=self.context,
            context_J=None if self.context_J is None else self.context_J.copy(),
            factors_K=self.factors_K.copy(),
            text=self.text,
            shared_context=self.shared_context,
            group=self.group,
            intercept=self.intercept,
        )


def moved(square: float, supported: float, start: float) -> float:
    """Return the variance at which that sum of squares is expected of so many known effects."""
    return max((STRENGTH * start + square) / (STRENGTH + supported), 1e-9)
