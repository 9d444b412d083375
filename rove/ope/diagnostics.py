"""Whether a log can tell anything about a policy: weights and overlap, with advice in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rove.ope.log import Floats, Log, SlateLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """How well the log overlaps with the evaluation policy."""

    num_rows: int
    effective_rows: float
    """(sum w)^2 / sum w^2: rows of an on-policy log that would be as telling (Kish 1965)."""
    largest_weight: float
    largest_share: float
    """Share of the largest weight in the sum of all."""
    mean_weight: float
    """1 in expectation if propensities and evaluation probabilities are right."""
    mean_weight_error: float
    """Standard error of that mean."""
    unlogged_mass: float | None
    """Share of the evaluation policy's choices that are actions no row took."""
    unsupported_mass: float | None
    """Share of them which the logging policy never takes in that context."""

    def advice(self) -> list[str]:
        """Return what to beware of, one sentence each; nothing when the overlap is good."""
        advice = []
        if self.effective_rows < max(0.01 * self.num_rows, 50.0):
            advice.append(
                f"only {self.effective_rows:.0f} effective rows of {self.num_rows:,}: the log says "
                "little about this policy; log longer, or evaluate one closer to the logging policy"
            )
        if self.largest_share > 0.05:
            advice.append(
                f"one row has {self.largest_share:.0%} of all weight: trust SNIPS or a shrunk DR "
                "more than IPS, and no interval by the bootstrap"
            )
        if abs(self.mean_weight - 1) > 4 * self.mean_weight_error + 1e-3:
            advice.append(
                f"weights average {self.mean_weight:.3f} instead of 1 (error "
                f"{self.mean_weight_error:.3f}): propensities are wrong, or actions have no overlap"
            )
        if self.unlogged_mass is not None and self.unlogged_mass > 0.001:
            advice.append(
                f"{self.unlogged_mass:.1%} of the policy's choices are actions that were never "
                "logged: IPS counts them as reward 0, DM and DR guess them from other actions"
            )
        if self.unsupported_mass is not None and self.unsupported_mass > 0.001:
            advice.append(
                f"{self.unsupported_mass:.1%} of the policy's choices have propensity 0: no "
                "estimator is unbiased; explore these actions first"
            )
        return advice


def diagnose(log: Log) -> Diagnostics:
    """Return the diagnostics of a log beside its evaluation policy."""
    unlogged = unsupported = None
    if log.evaluation.ndim == 2:
        logged_S = np.bincount(log.action_N, minlength=log.num_actions) > 0
        unlogged = _mass(log.evaluation * ~logged_S)
        if log.logging_NS is not None:
            unsupported = _mass(log.evaluation * (log.logging_NS <= 0))
    return _of_weights(log.weight_N, unlogged, unsupported)


def diagnose_slates(log: SlateLog) -> Diagnostics:
    """Return the diagnostics of whole slates: their weights are the products over the slots."""
    return _of_weights(log.weight_NK.prod(1), None, None)


def _of_weights(weight_N: Floats, unlogged: float | None, unsupported: float | None) -> Diagnostics:
    total, n = float(weight_N.sum()), len(weight_N)
    squares = float(np.square(weight_N).sum())
    return Diagnostics(
        num_rows=n,
        effective_rows=total**2 / squares if squares > 0 else 0.0,
        largest_weight=float(weight_N.max()),
        largest_share=float(weight_N.max() / total) if total > 0 else 0.0,
        mean_weight=total / n,
        mean_weight_error=float(weight_N.std() / np.sqrt(n)),
        unlogged_mass=unlogged,
        unsupported_mass=unsupported,
    )


def _mass(evaluation_NS: Floats) -> float:
    return float(evaluation_NS.sum(1).mean())
