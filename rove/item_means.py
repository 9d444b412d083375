"""The item mean: which share of all rewards each item earns, with a half-life and a text prior.

    share_j = (n_j + a pi_j) / (n + a)     n_j = sum of 2^(-age / half_life) reward, n = sum n_j

the posterior mean of a multinomial under a Dirichlet prior, with exponential forgetting: `pi` is
the share an item's text promises, `a` how many recent rewards that promise is worth. A new item
starts at its promise; one that nobody wants any more returns to it.

- The sums are kept at one reference time, so an event of any age is one addition and the order of
  events does not matter. Time is event time: it stands still while nothing happens.
- Sums of several shards add up (`rove.shared_sums`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp] | Sequence[int]

_MAX_EXPONENT = 200.0
"""Half-lives after which the reference time moves on: 2^200 is far from overflow."""
_TINY = 2.0**-1000


class ItemMeans:
    """Decayed sums of rewards per item."""

    half_life_s: float
    pseudo_count: float
    """a."""
    reference_s: float
    """The time that `sums` are expressed at."""
    latest_s: float
    """Time of the latest event; the sums count as of then."""
    sums_J: Floats
    promise_J: Floats
    """pi."""
    touched: set[int]
    """Rows whose sums were changed since the start by more than time."""

    def __init__(
        self,
        *,
        sums_J: Floats,
        promise_J: Floats,
        as_of_s: float,
        half_life_s: float,
        pseudo_count: float,
    ) -> None:
        self.half_life_s = half_life_s
        self.pseudo_count = pseudo_count
        self.reference_s = self.latest_s = as_of_s
        self.sums_J = np.array(sums_J, np.float64)
        self.promise_J = np.array(promise_J, np.float64)
        self.touched = set()
        self._total = float(self.sums_J.sum())

    def __len__(self) -> int:
        return len(self.sums_J)

    @property
    def total(self) -> float:
        """The sum of all sums, those of items without a row included."""
        return self._total

    def grow(self, promise_J: Floats) -> None:
        """Add items that nothing has happened to."""
        self.sums_J = np.concatenate([self.sums_J, np.zeros(len(promise_J))])
        self.promise_J = np.concatenate([self.promise_J, promise_J])

    def decayed(self, rewards: Floats, timestamps: Floats) -> Floats:
        """Return what rewards (n,) at their times are worth at `reference_s`, for `add`.

        May move the reference time on, which changes no share.
        """
        if len(rewards) == 0:
            return np.zeros(0)
        self._make_room(float(timestamps.max()))
        return rewards * np.exp2((timestamps - self.reference_s) / self.half_life_s)

    def add(self, rows: Rows, amounts: Floats, latest_s: float) -> None:
        """Add amounts (n,), as of `reference_s`; `latest_s` is the time of the latest event.

        What items without a row (-1) earned counts in the total.
        """
        rows = np.asarray(rows, np.intp)
        known = rows >= 0
        np.add.at(self.sums_J, rows[known], amounts[known])
        self.touched.update(rows[known].tolist())
        self._total += float(np.sum(amounts))
        self.latest_s = max(self.latest_s, latest_s)

    def place(self, rows: Rows, amounts: Floats) -> None:
        """Give items that have got a row what was added for them before."""
        np.add.at(self.sums_J, rows, amounts)
        self.touched.update(np.asarray(rows).tolist())

    def move(self, source: Rows, target: Rows) -> None:
        """Give the sums of items to those that take their place."""
        self.sums_J[target] += self.sums_J[source]
        self.sums_J[source] = 0.0
        self.touched.update(np.asarray(target).tolist())

    def scale_at(self, time_s: float) -> float:
        """Return the factor that takes a sum at `time_s` to the reference time."""
        return float(np.exp2((time_s - self.reference_s) / self.half_life_s))

    def share(self, rows: Rows | slice = slice(None)) -> tuple[Floats, Floats]:
        """Return posterior mean and variance of the items' shares, (n,) each.

        Variance of a Dirichlet's component: share (1 - share) / (n + a + 1).
        """
        now, prior = self._now()
        mean = (self.sums_J[rows] + prior * self.promise_J[rows]) / (self._total + prior)
        num_rewards = (self._total + prior) / now
        return mean, mean * (1.0 - np.minimum(mean, 1.0)) / (num_rewards + 1.0)

    def factors(self) -> tuple[float, float]:
        """Return what turns a row's sum and its promise into its share, by adding the two."""
        _, prior = self._now()
        return 1.0 / (self._total + prior), prior / (self._total + prior)

    def terms(self) -> tuple[Floats, Floats]:
        """Return the two terms of every row's share, (J,) each: what was earned and promised."""
        of_sum, of_promise = self.factors()
        return of_sum * self.sums_J, of_promise * self.promise_J

    def _now(self) -> tuple[float, float]:
        """Return the weight of a reward now, and of the prior, in units of the sums."""
        now = max(self.scale_at(self.latest_s), _TINY)
        return now, self.pseudo_count * now

    def _make_room(self, time_s: float) -> None:
        if (time_s - self.reference_s) / self.half_life_s > _MAX_EXPONENT:
            shrink = float(np.exp2((self.reference_s - time_s) / self.half_life_s))
            self.sums_J *= shrink
            self._total *= shrink
            self.reference_s = time_s
