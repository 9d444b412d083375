"""How popular items were at the moment of an episode, by what had happened before it.

    share_j(t) = (N s_j / sum s + 1/2) / (N + J/2)

s_j: item j's interactions before t, each worth half as much after four weeks; N: how many there
were. New items keep half an interaction, however old the history is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rove.behaviour import Behaviour

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_HALF_LIFE_S = 28 * 86_400.0
_MOMENTS = 48
_HALF_A_REWARD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Popularity:
    """Shares at S moments, and how often each of J items was taken in all."""

    times_S: Floats
    """Unix seconds, rising."""
    log_share_SJ: npt.NDArray[np.float32]
    rate_J: Floats
    """b: interactions per user."""

    @classmethod
    def of(cls, behaviour: Behaviour) -> Popularity:
        """Take stock at moments with as many interactions between one and the next."""
        num_items, times = behaviour.num_items, behaviour.timestamps
        cuts = np.unique(np.linspace(0, len(times), _MOMENTS + 1).astype(np.int64)[1:])
        sums, start, last = np.zeros(num_items), 0, float(times[0]) if len(times) else 0.0
        rows, moments = [_log_share(sums, 0)], [-np.inf]
        for cut in cuts.tolist():
            now = float(times[cut - 1])
            decayed = np.exp2((times[start:cut] - now) / _HALF_LIFE_S)
            sums = sums * np.exp2((last - now) / _HALF_LIFE_S)
            sums += np.bincount(behaviour.items[start:cut], decayed, minlength=num_items)
            rows.append(_log_share(sums, cut))
            moments.append(now)
            start, last = cut, now
        counts = np.bincount(behaviour.items, minlength=num_items).astype(np.float64)
        return cls(
            times_S=np.array(moments),
            log_share_SJ=np.stack(rows).astype(np.float32),
            rate_J=counts / max(1, len(np.unique(behaviour.users))),
        )

    def log_rate(self) -> npt.NDArray[np.float32]:
        """Return log(b_j + half the least b): how often items were taken in all, (J,)."""
        taken = self.rate_J[self.rate_J > 0]
        least = float(taken.min()) if len(taken) else 1.0
        return np.log(self.rate_J + _HALF_A_REWARD * least).astype(np.float32)

    def moments(self, times_B: Floats) -> Ints:
        """Return the latest moment strictly before each time (B,)."""
        found = np.searchsorted(self.times_S, times_B, side="left") - 1
        return np.maximum(found, 0).astype(np.int64)


def _log_share(sums_J: Floats, count: int) -> Floats:
    total = sums_J.sum()
    scaled = sums_J * (count / total) if total > 0 else sums_J
    smoothed = scaled + _HALF_A_REWARD
    return np.asarray(np.log(smoothed / smoothed.sum()))
