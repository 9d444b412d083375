"""Forget between fits: what is known of an effect widens with the age of what it is known from.

    S <- S min(2^(age / half_life), tr(S_new) / tr(S)),   at least S

as if the trials behind S weighed 2^(-age / half_life), up to what is known of an effect without
trials. Means stay until the next reward or fit moves them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]


class Fading:
    """When each of some effects was last learnt from."""

    def __init__(self, half_life: float | None) -> None:
        self._half_life = half_life
        self._restarted = 0.0
        self._last: dict[int, float] = {}

    def restart(self, now: float) -> None:
        """Take note of a fit, whose covariances are those of `now`."""
        self._restarted = now
        self._last.clear()

    def widen(
        self, covariance_XPP: npt.NDArray[np.floating], codes_n: Codes, now: float, most: float
    ) -> None:
        """Widen the covariances of effects that are learnt from at `now`; `most`: tr(S_new)."""
        if self._half_life is None:
            return
        for code in np.unique(codes_n[codes_n >= 0]).tolist():
            age = now - self._last.get(code, self._restarted)
            if age > 0.0:
                reach = most / max(float(np.trace(covariance_XPP[code])), 1e-12)
                covariance_XPP[code] *= max(
                    min(2.0 ** min(age / self._half_life, 60.0), reach), 1.0
                )
                self._last[code] = now
