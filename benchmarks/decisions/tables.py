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
    """Return the mean and the half width of its 95 % t interval."""
    num = len(values)
    if num < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / np.sqrt(num)
    return float(np.mean(values)), float(half)


def _environment(rows: Sequence[Row], name: str) -> str:
    here = sorted((r for r in rows if r.environment == name), key=lambda r: -r.shares.mean())
    ours = next((row for row in here if row.peer == OURS), None)
    lines = [
        f"\n## {name}\n",
        "| peer | share | 95 % | rove is ahead by | s a run | settings |",
        "| --- | ---: | ---: | --- | ---: | --- |",
    ]
    for row in here:
        mean, half = interval(row.shares)
        ahead = ""
        if ours is not None and row is not ours:
            difference, width = interval(ours.shares - row.shares)
            ahead = f"{difference:+.3f} +- {width:.3f}"
        seconds = np.mean([one.seconds for one in row.played])
        settings = ", ".join(f"{key} {value}" for key, value in row.settings.items())
        label = f"**{row.peer}**" if row is ours else row.peer
        lines.append(
            f"| {label} | {mean:.3f} | +- {half:.3f} | {ahead} | {seconds:.1f} | {settings} |"
        )
    return "\n".join(lines)


def _overview(rows: Sequence[Row], names: Sequence[str]) -> str:
    lines = [
        "| environment | rove | best peer | its share | ratio |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    ratios = []
    for name in names:
        here = {row.peer: row.shares.mean() for row in rows if row.environment == name}
        others = {peer: share for peer, share in here.items() if peer != OURS}
        if OURS not in here or not others:
            continue
        best = max(others, key=lambda peer: others[peer])
        ratio = here[OURS] / others[best]
        ratios.append(ratio)
        lines.append(f"| {name} | {here[OURS]:.3f} | {best} | {others[best]:.3f} | {ratio:.3f} |")
    if ratios and min(ratios) > 0.0:
        geometric = float(np.exp(np.mean(np.log(ratios))))
        lines.append(f"| **geometric mean** | | | | **{geometric:.3f}** |")
    return "\n".join(lines)


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
