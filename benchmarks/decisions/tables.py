"""The results as Markdown and as a plot: shares with intervals, paired by seed with Rove's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

from benchmarks.decisions.playing import Played

matplotlib.use("agg")
import matplotlib.pyplot as plt

OURS = "rove"
MARKS = ("random", "best-fixed", "rove-engine")
"""Shown, but no rivals: the zero of the scale, the values in hindsight, and ourselves."""
LOWEST_RATIO = 0.01
"""A ratio below it counts as this in the geometric mean, which has no place for 0 and less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One peer in one environment, seeds in order."""

    environment: str
    peer: str
    settings: dict[str, Any]
    played: Sequence[Played]

    @property
    def shares(self) -> Any:
        """The share of each seed."""
        return np.array([one.share for one in self.played])


def table(rows: Sequence[Row]) -> str:
    """Return one table an environment, and the overview."""
    names = list(dict.fromkeys(row.environment for row in rows))
    return "\n".join([_overview(rows, names), *(_environment(rows, name) for name in names)])


def interval(values: Any) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % t interval, NaN for a single value."""
    num = len(values)
    if num < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / np.sqrt(num)
    return float(np.mean(values)), float(half)


def with_interval(values: Any, sign: str = "") -> str:
    """Return "mean +- half width", the mean alone where one value has no interval."""
    mean, half = interval(values)
    text = f"{mean:{sign}.3f}"
    return text if np.isnan(half) else f"{text} +- {half:.3f}"


def _environment(rows: Sequence[Row], name: str) -> str:
    here = sorted((r for r in rows if r.environment == name), key=lambda r: -r.shares.mean())
    ours = next((row for row in here if row.peer == OURS), None)
    lines = [
        f"\n## {name}\n",
        "| peer | share, 95 % | rove is ahead by | seeds | s a run | settings |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for row in here:
        ahead = ""
        if ours is not None and row is not ours:
            paired = min(len(ours.shares), len(row.shares))
            ahead = with_interval(ours.shares[:paired] - row.shares[:paired], "+")
        seconds = np.mean([one.seconds for one in row.played])
        settings = ", ".join(f"{key} {value}" for key, value in row.settings.items())
        label = f"**{row.peer}**" if row is ours else row.peer
        lines.append(
            f"| {label} | {with_interval(row.shares)} | {ahead} | {len(row.shares)} "
            f"| {seconds:.1f} | {settings} |"
        )
    return "\n".join(lines)


def _overview(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return Rove beside the best rival of each environment, which is picked on these seeds."""
    lines = [
        "| environment | rove | best peer | its share | ratio | rove is ahead by | best fixed |",
        "| --- | ---: | --- | ---: | ---: | --- | ---: |",
    ]
    ratios: dict[str, float] = {}
    for name in names:
        here = {row.peer: row.shares for row in rows if row.environment == name}
        rivals = {peer: shares.mean() for peer, shares in here.items() if peer not in MARKS}
        if rivals.pop(OURS, None) is None or not rivals:
            continue
        best = max(rivals, key=lambda peer: rivals[peer])
        paired = min(len(here[OURS]), len(here[best]))
        ours, theirs = here[OURS][:paired], here[best][:paired]
        # The ratio to a share that is not above 0 says nothing.
        ratio = "-"
        if theirs.mean() > 0.0:
            ratios[name] = float(ours.mean() / theirs.mean())
            ratio = f"{ratios[name]:.3f}"
        fixed = f"{here['best-fixed'].mean():.3f}" if "best-fixed" in here else "-"
        lines.append(
            f"| {name} | {here[OURS].mean():.3f} | {best} | {theirs.mean():.3f} | {ratio} "
            f"| {with_interval(ours - theirs, '+')} | {fixed} |"
        )
    return "\n".join([*lines, *_geometric_mean(ratios, len(lines) - 2)])


def _geometric_mean(ratios: dict[str, float], num_environments: int) -> list[str]:
    if not ratios:
        return []
    floored = [max(ratio, LOWEST_RATIO) for ratio in ratios.values()]
    mean = float(np.exp(np.mean(np.log(floored))))
    notes = []
    if len(ratios) < num_environments:
        notes.append(f"over {len(ratios)} of {num_environments} environments")
    low = [name for name, ratio in ratios.items() if ratio < LOWEST_RATIO]
    if low:
        notes.append(f"{', '.join(low)} counted as {LOWEST_RATIO}")
    return [f"| **geometric mean** | | {'; '.join(notes)} | | **{mean:.3f}** | | |"]


def plot(rows: Sequence[Row], path: Path, num_peers: int = 6) -> None:
    """Draw the share over the run, of Rove and the best peers, one panel an environment."""
    names = list(dict.fromkeys(row.environment for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.5), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        here = [row for row in rows if row.environment == name]
        here.sort(key=lambda row: (row.peer != OURS, -row.shares.mean()))
        for row in here[:num_peers]:
            curve = np.mean([one.curve for one in row.played], axis=0)
            part = np.arange(1, len(curve) + 1) / len(curve)
            axis.plot(part, curve, label=row.peer, linewidth=2.5 if row.peer == OURS else 1.0)
        axis.set(title=name, xlabel="part of the run", ylabel="share of the gap closed")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
