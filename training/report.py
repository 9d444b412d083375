"""The report of a pretraining run: what was asked, what came out, and how it went, in Markdown."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rove.config import Config
from training.progress import clock

_PLOT = "loss.svg"


def write_report(
    folder: Path, config: Config, state: dict[str, Any], facts: dict[str, Any]
) -> Path:
    """Write `report.md` and its plot from the last checkpoint's `state`; return its path."""
    curve, held_out = state["curve"], state["held_out"]
    lines = [f"# Pretraining of {config.name}", ""]
    lines += _table(("", ""), _results(curve, held_out, facts))
    if _plot(folder / _PLOT, curve, held_out):
        lines += ["", f"![loss by step]({_PLOT})"]
    lines += ["", "## Held-out loss", ""]
    lines += _table(
        ("step", "nats per predicted token"),
        [(f"{int(one['step']):,}", f"{one['loss']:.4f}") for one in held_out],
    )
    lines += ["", "## Settings", ""]
    settings = config.pretrain.model_dump(mode="json")
    rows = [(f"`{key}`", f"`{value}`") for key, value in settings.items()]
    lines += _table(
        ("pretrain", "value"), [("`encoder.model`", f"`{config.encoder.model}`"), *rows]
    )
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _results(
    curve: Sequence[dict[str, float]], held_out: Sequence[dict[str, float]], facts: dict[str, Any]
) -> list[tuple[str, str]]:
    tokens = sum(one["num_tokens"] for one in curve)
    seconds = sum(one["seconds"] for one in curve)
    places = sum(one["num_tokens"] / (1 - one["padding"]) for one in curve)
    last = curve[-max(1, len(curve) // 20) :]
    rows = [
        ("steps", f"{len(curve):,}"),
        ("tokens, without padding", f"{tokens:,.0f}"),
        ("tokens/s", f"{tokens / seconds:,.0f}"),
        ("padding", f"{1 - tokens / places:.1%}"),
        ("time in steps", clock(seconds)),
        ("loss of the first step", f"{curve[0]['loss']:.4f}"),
        ("mean loss of the last steps", f"{sum(one['loss'] for one in last) / len(last):.4f}"),
    ]
    if held_out:
        pair = f"{held_out[0]['loss']:.4f} -> {held_out[-1]['loss']:.4f}"
        rows.append(("held-out loss, before -> after", pair))
    if facts.get("dtype"):
        rows.append(("computed in", f"{facts['dtype']} on {facts['device']}"))
        rows.append(("peak memory of a worker", f"{facts['memory_mb']:,.0f} MB"))
    return rows


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    return [
        f"| {head[0]} | {head[1]} |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows),
    ]


def _plot(
    path: Path, curve: Sequence[dict[str, float]], held_out: Sequence[dict[str, float]]
) -> bool:
    """Draw both losses; do without where matplotlib is not installed."""
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        return False
    figure = figures.Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([one["step"] for one in curve], [one["loss"] for one in curve], lw=0.8, label="train")
    if held_out:
        steps, losses = zip(*((one["step"], one["loss"]) for one in held_out), strict=True)
        axes.plot(steps, losses, "o-", label="held out")
    axes.set(xlabel="step", ylabel="nats per predicted token")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
    return True
