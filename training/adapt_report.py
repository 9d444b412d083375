"""What the report of an adaptation says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rove.config import Config
from training.progress import clock
from training.report import Line, Plot, Report

Points = Sequence[dict[str, float]]

NONE = "none serves better than the encoder as it was, which is kept"

_LOSS, _NDCG, _NEW = "validation_loss", "served_ndcg_at_10", "served_new_items_ndcg_at_10"


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


def best_of(curve: Points) -> dict[str, float] | None:
    """Return the epoch that was kept, None if no epoch serves better than none."""
    return next((epoch for epoch in reversed(curve) if epoch["is_best"]), None)


def _results(
    before: dict[str, float], curve: Points, facts: dict[str, Any], size_mb: float
) -> list[tuple[str, str]]:
    best = best_of(curve) or before
    kept = f"the {int(best['epoch'])}. serves best and was kept" if best is not before else NONE
    rows = [
        ("epochs", f"{len(curve)}; {kept}"),
        ("validation loss, before -> after", f"{before[_LOSS]:.4f} -> {best[_LOSS]:.4f}"),
        ("NDCG@10 of a release, before -> after", f"{before[_NDCG]:.4f} -> {best[_NDCG]:.4f}"),
        ("the same of new items", f"{before[_NEW]:.4f} -> {best[_NEW]:.4f}"),
        ("time in epochs", clock(sum(epoch["duration_s"] for epoch in curve))),
        ("adapter", f"{size_mb:.1f} MB"),
    ]
    if facts.get("num_trained"):
        rows.append(("trained parameters", f"{facts['num_trained']:,} on {facts['device']}"))
    if facts["seconds"]:
        rows.append(("items' tokens/s in steps", f"{facts['num_tokens'] / facts['seconds']:,.0f}"))
        rows.append(("padding", f"{1 - facts['num_tokens'] / facts['num_places']:.1%}"))
        rows.append(("peak memory of a worker", f"{facts['memory_mb']:,.0f} MB"))
    rows.append(("peak memory of the command", f"{facts['command_memory_mb']:,.0f} MB"))
    return rows


def _epochs(points: Points) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    head = ("epoch", "loss", "validation loss", "NDCG@10", "of new items", "accuracy", "s")
    keys = ("loss", _LOSS, _NDCG, _NEW, "validation_accuracy")
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
        panels={
            "loss": losses,
            "NDCG@10": [_line("all items", points, _NDCG), _line("new items", points, _NEW)],
        },
    )


def _line(label: str, points: Points, key: str) -> Line:
    known = [one for one in points if key in one]
    return Line(label=label, x=[one["epoch"] for one in known], y=[one[key] for one in known])
