"""A training run in Markdown: what came out, a plot, how it went, and what was asked.

training.pretrain_report  training.adapt_report    what is in it
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORT = "report.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    marked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure of one panel for each name of a y axis."""

    file: str
    alt: str
    x: str
    panels: Mapping[str, Sequence[Line]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that is written."""

    title: str
    results: Sequence[tuple[str, str]]
    plot: Plot
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]
    """Heading -> names of the columns, rows."""
    settings: Mapping[str, Any]

    def write(self, folder: Path) -> Path:
        """Write `report.md` and its plot; return its path."""
        lines = [f"# {self.title}", "", *_table(("", ""), self.results)]
        if _draw(folder / self.plot.file, self.plot):
            lines += ["", f"![{self.plot.alt}]({self.plot.file})"]
        for heading, (head, rows) in self.tables.items():
            lines += ["", f"## {heading}", "", *_table(head, rows)]
        settings = [(f"`{key}`", f"`{value}`") for key, value in self.settings.items()]
        lines += ["", "## Settings", "", *_table(("key", "value"), settings)]
        path = folder / REPORT
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _draw(path: Path, plot: Plot) -> bool:
    """Draw the plot; do without where matplotlib is not installed."""
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        return False
    num_panels = len(plot.panels)
    figure = figures.Figure(figsize=(max(7, 4 * num_panels), 3.5), layout="constrained")
    for axes, (name, lines) in zip(
        figure.subplots(1, num_panels, squeeze=False)[0], plot.panels.items(), strict=True
    ):
        for line in lines:
            style = {"marker": "o"} if line.marked else {"lw": 0.8}
            axes.plot(line.x, line.y, label=line.label, **style)
        axes.set(xlabel=plot.x, ylabel=name)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path)
    return True
