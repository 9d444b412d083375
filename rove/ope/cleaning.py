"""From raw columns to a log: what cannot be used is left out and counted under its first reason.

- Nothing is repaired; a propensity is never invented.
- Leaving out a row is right where its fault does not depend on its reward. Where many rows go, the
  rest may no longer be what the logging policy saw: read the report.
- A reward outside its range is refused: to leave out rows by their reward would be a bias.
- A log without a propensity at all, or without one usable row, raises `DataError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rove.errors import DataError, shown
from rove.ope.log import SUM_TOLERANCE, Floats, Ints, Logged, Mask, check_shape
from rove.readers import ReadReport

_NUM_EXAMPLES = 3


@dataclass(slots=True)
class Tally:
    """Counts the rows of a file that are left out."""

    path: str
    num_read: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count rows under a reason, with an example while there are few."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count
        known = self.examples.setdefault(reason, [])
        if len(known) < _NUM_EXAMPLES:
            known.append(example)

    def report(self, num_kept: int) -> ReadReport:
        """Return the report; without a row that was kept raise `DataError` with the reasons."""
        report = ReadReport(
            paths=(self.path,),
            num_read=self.num_read,
            num_kept=num_kept,
            skipped=dict(self.skipped),
            examples={reason: tuple(rows) for reason, rows in self.examples.items()},
        )
        if num_kept == 0:
            lines = "; ".join(line.strip() for line in report.lines())
            raise DataError(f"no decision can be used: {lines}; log propensities and rewards")
        return report


def _check(
    action_N: Ints,
    reward_N: Floats,
    propensity_N: Floats,
    num_actions: int,
    logging_NS: Floats | None,
    features_NF: Floats | None,
) -> None:
    """Raise `DataError` if columns do not belong together: nothing could be left out by row."""
    n = len(action_N)
    if n == 0:
        raise DataError("the log has no decisions; read another file or loosen its filter")
    if action_N.dtype.kind not in "iu":
        raise DataError(
            f"actions must be whole numbers, got {action_N.dtype}; number the actions, -1 for none"
        )
    check_shape("action_N", action_N, (n,))
    check_shape("reward_N", reward_N, (n,))
    check_shape("propensity_N", propensity_N, (n,))
    if logging_NS is not None:
        check_shape("logging_NS", logging_NS, (n, num_actions))
    if features_NF is not None:
        check_shape("features_NF", features_NF, (n, features_NF.shape[-1]))


def clean(
    *,
    action_N: Ints,
    reward_N: Floats,
    propensity_N: Floats,
    num_actions: int,
    logging_NS: Floats | None = None,
    features_NF: Floats | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    path: str = "log",
) -> tuple[Logged, Mask, ReadReport]:
    """Return the usable rows, which rows they are (N,), and a report; NaN stands for missing."""
    _check(action_N, reward_N, propensity_N, num_actions, logging_NS, features_NF)
    if np.isnan(propensity_N).all():
        raise DataError(
            f"{path} has no propensities, got {len(propensity_N):,} rows without; without the "
            "probability of each choice no policy can be evaluated on it: log them"
        )
    tally = Tally(path=path, num_read=len(action_N))
    kept_N = np.ones(len(action_N), dtype=bool)

    def leave_out(reason: str, bad_N: Mask, values: npt.NDArray[np.generic]) -> None:
        rows = np.flatnonzero(kept_N & bad_N)
        for row in rows[:_NUM_EXAMPLES]:
            tally.add(reason, f"row {row + 1}: {shown(values[row].item())}")
        if rows.size > _NUM_EXAMPLES:
            tally.add(reason, "", rows.size - _NUM_EXAMPLES)
        kept_N[rows] = False

    leave_out(
        "action is not one of num_actions", (action_N < 0) | (action_N >= num_actions), action_N
    )
    leave_out("no propensity", np.isnan(propensity_N), propensity_N)
    leave_out("propensity is not above 0", propensity_N <= 0, propensity_N)
    leave_out("propensity is above 1", propensity_N > 1 + SUM_TOLERANCE, propensity_N)
    leave_out("no finite reward", ~np.isfinite(reward_N), reward_N)
    if logging_NS is not None:
        sum_N = logging_NS.sum(1)
        off_N = ~(np.abs(sum_N - 1) <= SUM_TOLERANCE) | (np.nan_to_num(logging_NS).min(1) < 0)
        leave_out("probabilities do not sum to one", off_N, sum_N)
        chosen_N = logging_NS[np.arange(len(action_N)), np.clip(action_N, 0, num_actions - 1)]
        differs_N = ~(np.abs(chosen_N - propensity_N) <= SUM_TOLERANCE)
        leave_out("propensity is not that of the logged action", differs_N, propensity_N)
    if features_NF is not None:
        spoilt_N = np.isnan(features_NF.sum(1)) | np.isinf(features_NF).any(axis=1)
        leave_out("no finite features", spoilt_N, features_NF.sum(1))
    report = tally.report(int(kept_N.sum()))
    logged = Logged(
        action_N=action_N[kept_N],
        reward_N=reward_N[kept_N],
        propensity_N=propensity_N[kept_N],
        num_actions=num_actions,
        logging_NS=None if logging_NS is None else logging_NS[kept_N],
        features_NF=None if features_NF is None else features_NF[kept_N],
        reward_range=reward_range,
    )
    return logged, kept_N, report
