"""How much bias to accept: clip, switch threshold and shrinkage by a stated rule.

Two rules, functions of estimates ordered from the least biased (and widest) to the most:

- `error`, the default: least estimated squared error, the bias being the difference to the first,
  unbiased estimate and counted with its noise, an upper estimate in the manner of Su,
  Dimakopoulou, Krishnamurthy & Dudik 2020.
- `slope`: go on while all intervals value +- width meet (SLOPE: Su, Srinath & Krishnamurthy 2020).

SLOPE is within a constant of the best choice, but that constant is paid: it stops only where the
bias exceeds about two standard errors of DR (benchmarks/ope.md has both).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from rove.ope.estimators import (
    Estimate,
    ips,
    shrunk_doubly_robust,
    switch_doubly_robust,
)
from rove.ope.log import Floats, Log

Rule = Literal["slope", "error"]

_NUM_STEPS = 12


def slope(estimates: Sequence[Estimate], width: float = 2.0) -> int:
    """Return the last estimate whose interval meets all before it, value +- width * error."""
    low, high = -np.inf, np.inf
    for index, one in enumerate(estimates):
        margin = width * one.standard_error
        low, high = max(low, one.value - margin), min(high, one.value + margin)
        if low > high:
            return index - 1
    return len(estimates) - 1


def least_error(estimates: Sequence[Estimate]) -> int:
    """Return the estimate of the least se^2 + (value - first)^2 + se(value - first)^2."""
    first = estimates[0]
    errors = []
    for one in estimates:
        difference_N = one.influence_N - first.influence_N
        noise = float(np.square(difference_N).mean() / len(difference_N))
        bias = (one.value - first.value) ** 2 + noise
        errors.append(one.standard_error**2 + bias)
    return int(np.argmin(errors))


def tuned_ips(log: Log, rule: Rule = "error") -> Estimate:
    """Return IPS whose clip is chosen between none and the mean weight."""
    dials = thresholds(log)
    dials[0] = np.inf
    return _tuned(log, ips, dials, rule)


def tuned_switch(log: Log, rule: Rule = "error") -> Estimate:
    """Return SWITCH-DR whose threshold is chosen between none and less than every weight."""
    return _tuned(log, switch_doubly_robust, np.append(thresholds(log), 0.0), rule)


def tuned_shrinkage(log: Log, rule: Rule = "error") -> Estimate:
    """Return DRos whose shrinkage is chosen between none (DR) and full (the direct method)."""
    dials = np.append(np.square(thresholds(log)) * 10.0, 0.0)
    dials[0] = np.inf
    return _tuned(log, shrunk_doubly_robust, dials, rule)


def thresholds(log: Log) -> Floats:
    """Return weights to cut at, falling geometrically from the largest to about the mean."""
    weight_N = log.weight_N
    top = max(float(weight_N.max()), 1e-12)
    return np.geomspace(top, min(top, max(float(weight_N.mean()), top / 1e3)), _NUM_STEPS)


def _tuned(
    log: Log, estimator: Callable[[Log, float], Estimate], dials: Floats, rule: Rule
) -> Estimate:
    estimates = [estimator(log, float(dial)) for dial in dials]
    chosen = estimates[slope(estimates) if rule == "slope" else least_error(estimates)]
    # The dial was chosen from the rewards, so it bounds nothing beforehand.
    return replace(chosen, bounds=None)
