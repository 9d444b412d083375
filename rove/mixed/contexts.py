"""Contexts as the model reads them: scaled by the engine, so that no unit has to be chosen.

Numbers are standardised by the mean and deviation seen so far and cut at `LIMIT` deviations; the
whole has mean square 1, whatever the number of columns. Embeddings of texts are centred and
projected on their leading components, likewise scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from rove.compiled import compiled

Array = npt.NDArray[np.float64]

LIMIT = 5.0
MAX_COMPONENTS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextScale:
    """From contexts as given (n, R) to those of the model (n, Q)."""

    mean_R: Array
    project_RQ: Array | None
    """None: each column by itself."""
    scale: Array
    """Divides the centred columns; one number after a projection."""
    bound: float = np.inf
    """Where columns are cut, if each is by itself."""

    @property
    def size(self) -> int:
        """Q."""
        return len(self.mean_R) if self.project_RQ is None else self.project_RQ.shape[1]

    @classmethod
    def fit(cls, contexts_nR: npt.NDArray[np.floating], *, is_text: bool) -> Self:
        """Take the scale from contexts seen."""
        given = np.asarray(contexts_nR, np.float64)
        mean_R = given.mean(0) if len(given) else np.zeros(given.shape[1])
        centred = given - mean_R
        if is_text:
            size = min(MAX_COMPONENTS, max(1, len(given) // 8), given.shape[1])
            values, vectors = np.linalg.eigh(centred.T @ centred / max(1, len(given)))
            root = np.sqrt(max(values.sum(), 1e-12))
            return cls(mean_R=mean_R, project_RQ=vectors[:, ::-1][:, :size], scale=np.array(root))
        deviation_R = centred.std(0)
        deviation_R[deviation_R < 1e-9] = np.inf
        varies = max(1, int(np.isfinite(deviation_R).sum()))
        root = float(np.sqrt(varies))
        return cls(mean_R=mean_R, project_RQ=None, scale=deviation_R * root, bound=LIMIT / root)

    def __call__(self, contexts_nR: npt.NDArray[np.floating]) -> Array:
        """Return what the model reads, (n, Q)."""
        given_nR = np.ascontiguousarray(contexts_nR, np.float64)
        if self.project_RQ is not None:
            return np.asarray((given_nR - self.mean_R) @ self.project_RQ / self.scale)
        return _scaled(given_nR, self.mean_R, self.scale, self.bound)


@compiled("f8[:,::1](f8[:,::1], f8[::1], f8[::1], f8)")
def _scaled(given_nR: Array, mean_R: Array, scale_R: Array, bound: float) -> Array:
    scaled_nR = np.empty_like(given_nR)
    for n in range(given_nR.shape[0]):
        for r in range(given_nR.shape[1]):
            scaled = (given_nR[n, r] - mean_R[r]) / scale_R[r]
            scaled_nR[n, r] = min(max(scaled, -bound), bound)
    return scaled_nR
