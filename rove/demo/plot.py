"""The learning curve as a picture: precision over the replay, with matplotlib (optional)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rove.demo.results import FROZEN, LEARNING
from rove.errors import InvalidInput
from rove.ranking import Floats

_WINDOW_SHARE = 0.15
_COLOURS = {LEARNING: "#1a7f37", FROZEN: "#0969da"}


def rolling_mean(values: Floats, width: int) -> Floats:
    """Return the mean of the last `width` values at every position, of fewer at the start (R,)."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    return np.asarray((sums[stop] - sums[start]) / (stop - start))


def draw(values: Mapping[str, Floats], timestamps: Floats, k: int, path: Path) -> None:
    """Draw the rolling precision (R,) of every recommender over unix `timestamps` (R,)."""
    try:
        figures = importlib.import_module("matplotlib.figure")
        dates = importlib.import_module("matplotlib.dates")
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"a plot needs the package {error.name}; run: pip install 'rove[report]'"
        ) from None
    width = max(1, round(_WINDOW_SHARE * len(timestamps)))
    figure = figures.Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    when = [datetime.fromtimestamp(timestamp, UTC) for timestamp in timestamps]
    for name, precision in sorted(values.items(), key=lambda pair: -pair[1].mean()):
        colour = _COLOURS.get(name)
        axes.plot(
            when[width - 1 :],
            rolling_mean(precision, width)[width - 1 :],
            label=f"{name}  {precision.mean():.4f}",
            linewidth=2.2 if colour else 1.1,
            color=colour,
        )
    axes.set_ylabel(f"precision@{k}, mean of the last {width:,} requests")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.set_title("Precision on the invoices after the history")
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=140)
