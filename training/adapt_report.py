"""What the report of an adaptation says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rove.config import Config
from training.progress import clock
from training.report import Line, Plot, Report

Points = Sequence[dict[str, float]]

_LOSS, _NDCG = "validation_loss", "validation_ndcg_at_10"


def write_report(
    config: Config, before: dict[str, float], curve: Points, facts: dict[str, Any], size_mb: float
) -> Path:
    """Write `report.md` and its plot into the run's folder; return its path.

    `before` and `curve` are the figures of epochs (`rove.adaptation.run.Epoch.numbers`), `facts`
    those of `training.following.Follower`, and `size_mb` the size of the adapter.
    """
    section = config.adapt
    return Report(
        title=f"Adaptation of {config.name}",
        results=_results(before, curve, facts, size_mb),
        plot=_plot([before, *curve]),
        tables={"Epochs": _epochs([before, *curve])},
        settings={"encoder.model": config.encoder.model, **section.model_dump(mode="json")},
    ).write(section.path)


def _results(
    before: dict[str, float], curve: Points, facts: dict[str, Any], size_mb: float
) -> list[tuple[str, str]]:
    best = min(curve, key=lambda epoch: epoch[_LOSS])
    rows = [
        ("epochs", f"{len(curve)}; the {int(best['epoch'])}. is the best and was kept"),
        ("validation loss, before -> after", f"{before[_LOSS]:.4f} -> {best[_LOSS]:.4f}"),
        ("validation NDCG@10, before -> after", f"{before[_NDCG]:.4f} -> {best[_NDCG]:.4f}"),
        ("time in epochs", clock(sum(epoch["duration_s"] for epoch in curve))),
        ("adapter", f"{size_mb:.1f} MB"),
    ]
    if facts.get("num_trained"):
        rows.append(("trained parameters", f"{facts['num_trained']:,} on {facts['device']}"))
    if facts["seconds"]:
        rows.append(("items' tokens/s in steps", f"{facts['num_tokens'] / facts['seconds']:,.0f}"))
        rows.append(("peak memory of a worker", f"{facts['memory_mb']:,.0f} MB"))
    rows.append(("peak memory of the command", f"{facts['command_memory_mb']:,.0f} MB"))
    return rows


def _epochs(points: Points) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    head = ("epoch", "loss", "validation loss", "NDCG@10", "accuracy", "s")
    keys = ("loss", _LOSS, _NDCG, "validation_accuracy")
    rows = []
    for one in points:
        cells = [f"{one[key]:.4f}" if key in one else "" for key in keys]
        rows.append((str(int(one["epoch"])), *cells, f"{one['duration_s']:.1f}"))
    return head, rows


def _plot(points: Points) -> Plot:
    losses = [_line("train", points, "loss"), _line("validation", points, _LOSS)]
    return Plot(
        file="epochs.svg",
        alt="loss and quality by epoch",
        x="epoch",
        panels={"loss": losses, "NDCG@10": [_line("validation", points, _NDCG)]},
    )


def _line(label: str, points: Points, key: str) -> Line:
    known = [one for one in points if key in one]
    return Line(label=label, x=[one["epoch"] for one in known], y=[one[key] for one in known])
