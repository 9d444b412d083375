"""One user's effects, kept in memory while the user is active."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rove.mixed.past import NUM_PAST

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

_BYTES_AN_ITEM = 64
_BYTES_A_PAIR = 280
_BYTES_A_USER = 400


class Pairs:
    """What a user had with each item: row -> [times shown, earned, earned beyond the item's mean].

    See `rove.mixed.past`.
    """

    of_row: dict[int, list[float]]

    def __init__(self) -> None:
        self.of_row = {}

    def add(self, row: int, reward: float, mean: float) -> None:
        """Count a trial of an item whose mean reward is `mean`."""
        pair = self.of_row.setdefault(row, [0.0, 0.0, 0.0])
        pair[0] += 1.0
        pair[1] += reward
        pair[2] += reward - mean

    def correct(self, row: int, change: float) -> None:
        """Change the reward of a trial that was counted."""
        if row in self.of_row:
            self.of_row[row][1] += change
            self.of_row[row][2] += change

    def table(self) -> tuple[npt.NDArray[np.intp], Array]:
        """Return rows (m,) and their three numbers (m, 3)."""
        rows = np.fromiter(self.of_row, np.intp, len(self.of_row))
        return rows, np.array(list(self.of_row.values()), np.float64).reshape(len(rows), NUM_PAST)


class ShownUser:
    """Posterior of a user's effects, moved by one exact Gaussian update a trial.

    Kept in float32, updated in float64.
    """

    standing: set[int]
    """Rows of the items that earned something."""
    pairs: Pairs
    mean_D: Vectors
    covariance_DD: Vectors

    def __init__(
        self, mean_D: Array, covariance_DD: Array, standing: set[int], pairs: Pairs
    ) -> None:
        self.pairs = pairs
        self.mean_D = mean_D.astype(np.float32)
        self.covariance_DD = covariance_DD.astype(np.float32)
        self.standing = standing

    @property
    def size_bytes(self) -> int:
        """About what the view takes in memory."""
        arrays = self.mean_D.nbytes + self.covariance_DD.nbytes
        items = _BYTES_AN_ITEM * len(self.standing) + _BYTES_A_PAIR * len(self.pairs.of_row)
        return _BYTES_A_USER + arrays + items

    def learn(self, h_D: Array, weight: float, error: float) -> None:
        """Condition on a trial with features h, response h . theta + error, and its weight.

        Kalman's update: C -= g (C h)(C h)', mean += g error C h, g = w / (1 + w h' C h).
        """
        pull_D = self.covariance_DD.astype(np.float64) @ h_D
        gain = weight / (1.0 + weight * float(h_D @ pull_D))
        self.mean_D += (gain * error * pull_D).astype(np.float32)
        self.covariance_DD -= (gain * np.outer(pull_D, pull_D)).astype(np.float32)

    def correct(self, h_D: Array, change: float, dispersion: float) -> None:
        """Change the reward of a trial that was learnt: mean += C h d / phi."""
        pull_D = self.covariance_DD.astype(np.float64) @ h_D
        self.mean_D += (change / dispersion * pull_D).astype(np.float32)
