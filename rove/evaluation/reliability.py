"""Are predicted rates right where they are small and where they are large: a reliability diagram.

Pairs are binned by the predicted rate, with bounds that grow by sqrt(10); in each bin the mean
prediction stands beside the share that was taken (Murphy and Winkler 1977).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BOUNDS = np.concatenate([[-np.inf], 10.0 ** np.arange(-5.0, 0.25, 0.5), [np.inf]])


class Reliability:
    """Sums over pairs, by bin: bin b is what is predicted from BOUNDS[b] to below BOUNDS[b + 1]."""

    counts: npt.NDArray[np.int64]
    predicted: Floats
    taken: Floats

    def __init__(self) -> None:
        size = len(BOUNDS) - 1
        self.counts, self.predicted = np.zeros(size, np.int64), np.zeros(size)
        self.taken = np.zeros(size)

    def add(self, predicted_BJ: npt.NDArray[np.floating], taken_BJ: npt.NDArray[np.bool_]) -> None:
        """Count pairs; -inf is not offered."""
        offered = predicted_BJ > -np.inf
        predicted, size = predicted_BJ[offered], len(self.counts)
        code = np.searchsorted(BOUNDS, predicted, side="right") - 1
        self.counts += np.bincount(code, minlength=size)
        self.predicted += np.bincount(code, predicted, minlength=size)
        self.taken += np.bincount(code, taken_BJ[offered], minlength=size)

    @property
    def error(self) -> float:
        """Expected calibration error over the mean rate: sum_b |predicted_b - taken_b| / taken."""
        total = float(self.taken.sum())
        return float(np.abs(self.predicted - self.taken).sum()) / total if total else float("nan")
