"""Linear regression that sets its own strength."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FLOOR = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """y = intercept + x . weights."""

    weights_F: Array
    intercept: float
    noise_variance: float

    def __call__(self, x_JF: Array) -> Array:
        """Return the predictions (J,) for `x_JF`."""
        return self.intercept + x_JF @ self.weights_F


def evidence_ridge(x_JF: Array, y_J: Array, *, num_rounds: int = 50) -> Ridge:
    """Fit a ridge regression whose prior and noise variance maximise the evidence.

    MacKay (1992), "Bayesian interpolation": with gamma = sum_f l_f / (l_f + ridge) well-determined
    weights, noise = |y - x w|^2 / (J - gamma) and prior = |w|^2 / gamma, ridge = noise / prior.
    """
    num_rows, num_features = x_JF.shape
    mean_F, mean_y = x_JF.mean(0), float(y_J.mean())
    centred_JF, centred_J = x_JF - mean_F, y_J - mean_y
    values_F, vectors_FF = np.linalg.eigh(centred_JF.T @ centred_JF)
    values_F = np.maximum(values_F, 0.0)
    rotated_F = vectors_FF.T @ (centred_JF.T @ centred_J)
    noise = max(float(centred_J @ centred_J) / max(num_rows, 1), _FLOOR)
    ridge, weights_F = float(values_F.mean()) if num_features else 1.0, np.zeros(num_features)
    for _ in range(num_rounds if num_features else 0):
        shrunk_F = rotated_F / (values_F + ridge + _FLOOR)
        weights_F = vectors_FF @ shrunk_F
        determined = float((values_F / (values_F + ridge + _FLOOR)).sum())
        residual_J = centred_J - centred_JF @ weights_F
        noise = max(float(residual_J @ residual_J) / max(num_rows - determined, 1.0), _FLOOR)
        prior = float(shrunk_F @ shrunk_F) / max(determined, _FLOOR)
        before, ridge = ridge, noise / max(prior, _FLOOR)
        if abs(ridge - before) < 1e-4 * ridge:
            break
    return Ridge(
        weights_F=weights_F, intercept=mean_y - float(mean_F @ weights_F), noise_variance=noise
    )
