"""One call from a log to a table: estimates, intervals, diagnostics, and advice in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rove.ope.diagnostics import Diagnostics, diagnose
from rove.ope.estimators import (
    Estimate,
    direct,
    doubly_robust,
    ips,
    mips,
    self_normalised_doubly_robust,
    snips,
)
from rove.ope.intervals import Interval, bootstrap, empirical_bernstein
from rove.ope.log import Log
from rove.ope.reward_model import cross_fitted, predicted_ahead
from rove.ope.sequences import confidence_sequence
from rove.ope.tuning import tuned_ips, tuned_shrinkage, tuned_switch


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One estimate of the report."""

    name: str
    value: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the log says about the policy; the first line is the one to quote."""

    lines: tuple[Line, ...]
    anytime: Interval
    """Holds after every row: for a log that is still growing."""
    diagnostics: Diagnostics
    advice: tuple[str, ...]
    level: float

    def table(self) -> str:
        """Return the report for a terminal, in Markdown."""
        d = self.diagnostics
        rows = [(line.name, f"{line.value:.4f}", line.interval) for line in self.lines]
        rows.append(("confidence sequence", "", self.anytime))
        return "\n".join(
            [
                f"{d.num_rows:,} rows, {d.effective_rows:,.0f} effective, largest weight "
                f"{d.largest_weight:.1f}",
                "",
                f"| estimator | value | {self.level:.0%} interval | kind |",
                "| --- | ---: | --- | --- |",
                *(f"| {a} | {b} | {i.low:.4f} to {i.high:.4f} | {i.kind} |" for a, b, i in rows),
                *(f"\nBeware: {one}." for one in self.advice),
            ]
        )


def evaluate(
    log: Log, rng: np.random.Generator, *, level: float = 0.95, draws: int = 1000
) -> Report:
    """Return every estimate that the log allows, DR (or else SNIPS) first.

    With `evaluation` (N, S) and no `q_NS`, the reward model is cross-fitted on the features.
    """
    ahead_NS = None
    if log.evaluation.ndim == 2:
        if log.q_NS is None:
            log = replace(log, q_NS=cross_fitted(log, rng))
        if log.logging_NS is not None and log.features_NF is not None:
            ahead_NS = predicted_ahead(log)
    estimates = _estimates(log)
    lines = [
        Line(name=one.name, value=one.value, interval=interval)
        for one, interval in zip(
            estimates, bootstrap(estimates, rng, level=level, draws=draws), strict=True
        )
    ]
    lines += [
        Line(name=one.name, value=one.value, interval=empirical_bernstein(one, level=level))
        for one in estimates
        if one.bounds is not None and len(one.term_N) > 1
    ]
    sequence = confidence_sequence(log, q_NS=ahead_NS, level=level)
    diagnostics = diagnose(log)
    return Report(
        lines=tuple(lines),
        anytime=Interval(
            low=float(sequence.low[-1]), high=float(sequence.high[-1]), kind="anytime-valid"
        ),
        diagnostics=diagnostics,
        advice=tuple(diagnostics.advice()),
        level=level,
    )


def _estimates(log: Log) -> list[Estimate]:
    estimates = [snips(log), ips(log), tuned_ips(log)]
    if log.q_NS is None:
        return estimates
    doubly = [doubly_robust(log), self_normalised_doubly_robust(log)]
    doubly += [tuned_switch(log), tuned_shrinkage(log)]
    estimates = [*doubly, *estimates, direct(log)]
    if log.category_S is not None and log.logging_NS is not None:
        estimates.append(mips(log))
    return estimates
